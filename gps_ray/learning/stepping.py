"""AdamW behind a guard: gradients are clipped, and a step that is not finite is left out."""

from __future__ import annotations

import math
from typing import Any

import torch

from gps_ray.base.errors import LearnerError
from gps_ray.config import LearningConfig
from gps_ray.learning.sharding import clip_gradients

__all__ = ["GuardedOptimizer", "SkipCounter"]


class SkipCounter:
    """Steps left out in a row; one more than ``limit`` is an error."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0

    def allow(self, loss: float, norm: float, what: str) -> bool:
        """May this step be taken? Raises LearnerError where too many in a row may not."""
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._in_a_row > self._limit:
            raise LearnerError(
                f"{what}: expected a finite loss and gradient, got loss {loss} and gradient norm {norm}, "
                f"{self._in_a_row} times in a row (learning.max_skipped_updates={self._limit}); lower "
                "learning.learning_rate"
            )
        return False


class GuardedOptimizer:
    """AdamW over the parameters of one model that are not frozen."""

    def __init__(
        self, model: torch.nn.Module, learning_rate: float, config: LearningConfig, skips: SkipCounter
    ) -> None:
        self._learning_rate = learning_rate
        self._max_grad_norm = config.max_grad_norm
        self._skips = skips
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # One kernel over all parameters, and no wait for the device at each one's step counter. On a CPU torch's own
        # choice stays: its last bits are part of a run's result.
        fused = all(parameter.is_cuda for parameter in self._parameters)
        self.adamw = torch.optim.AdamW(
            self._parameters, lr=learning_rate, weight_decay=config.weight_decay, fused=fused or None
        )
        # The state is made at once: DCP would make a missing one by a step of its own and count that step.
        for parameter in self._parameters:
            self.adamw.state[parameter] = {
                "step": torch.tensor(0.0, device=parameter.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def step(self, loss: float, factor: float, what: str) -> float | None:
        """One step at ``factor`` times the learning rate on the gradients that are there; returns their norm before
        clipping, None where ``loss`` or norm is not finite and nothing was changed. Errors name ``what``."""
        norm: Any = clip_gradients(self._parameters, self._max_grad_norm)
        if not self._skips.allow(loss, norm, what):
            return None
        for group in self.adamw.param_groups:
            group["lr"] = self._learning_rate * factor
        self.adamw.step()
        return float(norm)
