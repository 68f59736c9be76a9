"""Discounted Beta counts per prompt: MoPPS's predictor (arXiv 2507.04632), and that of ``beta_mean``.

With the prior Beta(a0, b0) and k of n right, only for prompts that were rolled out:

    a <- lam * a + (1 - lam) * a0 + k
    b <- lam * b + (1 - lam) * b0 + (n - k)
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import BoolArray, IntArray, State
from gps_ray.config import BetaCountsConfig
from gps_ray.predictor.beta_posterior import BetaPosterior
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable

__all__ = ["BetaCountsPredictor"]


class BetaCountsPredictor:
    """Knows nothing of a prompt but its own outcomes: a, b [N]."""

    def __init__(self, table: PromptTable, config: BetaCountsConfig) -> None:
        num_rows = len(table.prompt_ids)
        self._config = config
        self._alpha = np.full(num_rows, config.prior_right)
        self._beta = np.full(num_rows, config.prior_wrong)
        self._seen = np.zeros(num_rows, dtype=np.bool_)

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> Posterior:
        return BetaPosterior(self._alpha[rows], self._beta[rows])

    def observe(self, batch: OutcomeBatch) -> None:
        tried = batch.num_tried > 0
        # Several groups of one prompt count as one larger group.
        rows, group = np.unique(batch.rows[tried], return_inverse=True)
        num_right = np.bincount(group, weights=batch.num_right[tried], minlength=len(rows))
        num_tried = np.bincount(group, weights=batch.num_tried[tried], minlength=len(rows))
        kept, config = self._config.discount, self._config
        self._alpha[rows] = kept * self._alpha[rows] + (1 - kept) * config.prior_right + num_right
        self._beta[rows] = kept * self._beta[rows] + (1 - kept) * config.prior_wrong + (num_tried - num_right)
        self._seen[rows] = True

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """``mean_count``: pseudo-counts per prompt beside the prior's, over the prompts seen."""
        prior = self._config.prior_right + self._config.prior_wrong
        counts = (self._alpha + self._beta - prior)[self._seen]
        return {"mean_count": float(counts.mean()) if len(counts) else 0.0}

    def state(self) -> State:
        return {"alpha": self._alpha.copy(), "beta": self._beta.copy(), "seen": self._seen.copy()}

    def load_state(self, state: State) -> None:
        if state["alpha"].shape != self._alpha.shape:
            raise CheckpointError(
                f"selector state: expected counts of {len(self._alpha)} prompts, got {len(state['alpha'])}; "
                "resume with the data the run was started with (data.*)"
            )
        self._alpha = state["alpha"].astype(np.float64)
        self._beta = state["beta"].astype(np.float64)
        self._seen = state["seen"].astype(np.bool_)
