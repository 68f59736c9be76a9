"""Advantages against what the predictor and the other rollouts of the prompt say together.

    b_ij = w_i m_i + (1 - w_i) mean_{k != j} r_ik        w_i = kappa_i / (kappa_i + G_i - 1)
    A_ij = r_ij - b_ij                                    at G_i = 1: A_i1 = r_i1 - m_i

m_i is the posterior mean of the prompt's success rate before these rollouts (as a reward), kappa_i its precision in
pseudo-observations: that of the Beta posterior with its mean and variance, m (1 - m) / variance - 1. The others count
as G_i - 1 observations; for a Beta posterior b_ij is then exactly its mean after them. Neither part depends on rollout
j, so the estimate stays unbiased however wrong the posterior is; a good one has less variance, above all in small
groups. kappa = 0 is the mean of the others (RLOO).

Sources: shrinkage of the group's mean, MaPP, arXiv 2609.34990; a per-prompt value in place of a group, normalised over
the batch, SPO, arXiv 2509.13232. Theirs keep an account per prompt; here the selector's posterior also knows prompts
that were never rolled out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import FloatArray, SuccessPrediction
from gps_ray.learning.advantages.leave_one_out import leave_one_out

__all__ = ["PosteriorBaseline", "precision_of"]


def precision_of(prediction: SuccessPrediction) -> float:
    """Pseudo-observations, 0 and more; infinite for a rate that is known."""
    if prediction.std == 0:
        return np.inf
    return max(prediction.mean * (1.0 - prediction.mean) / prediction.std**2 - 1.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorBaseline:
    """``precision``: kappa of every prompt in place of the posterior's own; ``max_precision`` bounds that. A right
    response has the reward ``right_reward``, a wrong one ``wrong_reward``: so m_i becomes a reward."""

    precision: float | None = None
    max_precision: float | None = None
    right_reward: float = 1.0
    wrong_reward: float = 0.0

    def __post_init__(self) -> None:
        for name in ("precision", "max_precision", "right_reward", "wrong_reward"):
            value = getattr(self, name)
            if value is None and name in ("precision", "max_precision"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise ValueError(f"{name}: expected a finite number, got {value!r}")
        if min(self.precision or 0, self.max_precision or 0) < 0:
            raise ValueError("precision, max_precision: expected 0 and more")
        if self.right_reward <= self.wrong_reward:
            raise ValueError(
                f"right_reward: expected more than wrong_reward={self.wrong_reward:g}, got {self.right_reward:g}"
            )

    def weight(self, prediction: SuccessPrediction, group_size: int) -> float:
        """w of the posterior in the baseline of a group; 1 where there are no others."""
        precision = precision_of(prediction) if self.precision is None else self.precision
        if self.max_precision is not None:
            precision = min(precision, self.max_precision)
        return 1.0 if group_size < 2 or np.isinf(precision) else precision / (precision + group_size - 1)

    def __call__(self, rewards: FloatArray, prediction: SuccessPrediction) -> FloatArray:
        """Advantages [G] float64 of a group's rewards [G], G >= 1."""
        values = np.asarray(rewards, dtype=np.float64)
        expected = self.wrong_reward + (self.right_reward - self.wrong_reward) * prediction.mean
        weight = self.weight(prediction, values.size)
        advantages: FloatArray = weight * (values - expected) + (1.0 - weight) * leave_one_out(values)
        return advantages
