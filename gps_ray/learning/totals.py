"""What one update adds up for its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gps_ray.learning.importance import ImportanceWeights
from gps_ray.learning.losses.interface import PolicyTokens, TokenLoss, bounded_ratio
from gps_ray.learning.train_workers import TrainWorkers

__all__ = ["Totals"]


@dataclass(slots=True)
class Totals:
    """Losses and norms are over all workers already; the sums are this worker's, over its response tokens."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    value_losses: list[float] = field(default_factory=list)
    value_grad_norms: list[float] = field(default_factory=list)
    num_skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    largest_weight: float = 0.0

    def _add(self, name: str, value: Tensor | float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def add_step(self, loss: float, norm: float | None) -> None:
        if norm is None:
            self.num_skipped += 1
        else:
            self.losses.append(loss)
            self.grad_norms.append(norm)

    def add_value_step(self, loss: float, norm: float | None) -> None:
        if norm is None:
            self.num_skipped += 1
        else:
            self.value_losses.append(loss)
            self.value_grad_norms.append(norm)

    @torch.no_grad()
    def add_tokens(
        self,
        tokens: PolicyTokens,
        loss: TokenLoss,
        entropy: Tensor,
        kl: Tensor | None,
        importance: ImportanceWeights | None,
    ) -> None:
        """One micro-batch; entropy [M, T] of the policy."""
        mask = tokens.mask
        self._add("num_tokens", mask.sum())
        self._add("train/entropy", (entropy * mask).sum())
        self._add("train/clip_ratio", (loss.is_clipped & mask).sum())
        log_ratio = tokens.log_ratio()
        # k3 with the roles swapped: never negative.
        self._add("train/approx_kl", ((bounded_ratio(log_ratio) - 1.0 - log_ratio) * mask).sum())
        if kl is not None:
            self._add("train/reference_kl", (kl * mask).sum())
        if importance is not None:
            self._add("train/tis_mean", (importance.weights * mask).sum())
            self._add("train/tis_truncated_ratio", ((importance.weights < importance.untruncated) & mask).sum())
            self.largest_weight = max(self.largest_weight, float((importance.untruncated * mask).max()))

    @torch.no_grad()
    def add_values(self, values: Tensor, targets: Tensor, mask: Tensor) -> None:
        self._add("train/value_mean", (values * mask).sum())
        self._add("train/value_error", ((values - targets).abs() * mask).sum())

    def metrics(self, workers: TrainWorkers) -> dict[str, float]:
        """Means over what was trained on are left out where nothing was."""
        metrics: dict[str, float] = {
            "train/num_optimizer_steps": len(self.losses),
            "train/num_skipped_updates": self.num_skipped,
        }
        names = sorted(self.sums)
        totals = {}
        if names:  # on all workers or on none
            sums = workers.sum(torch.tensor([self.sums[name] for name in names], dtype=torch.float64)).tolist()
            totals = dict(zip(names, sums, strict=True))
        num_tokens = totals.pop("num_tokens", 0.0)
        metrics["train/num_tokens"] = int(num_tokens)
        metrics |= {name: total / num_tokens for name, total in totals.items()}
        for name, values in (
            ("train/loss", self.losses),
            ("train/grad_norm", self.grad_norms),
            ("train/value_loss", self.value_losses),
            ("train/value_grad_norm", self.value_grad_norms),
        ):
            if values:
                metrics[name] = float(np.mean(values))
        if "train/tis_mean" in metrics:
            metrics["train/tis_max"] = float(workers.max(torch.tensor(self.largest_weight, dtype=torch.float64)))
        return metrics
