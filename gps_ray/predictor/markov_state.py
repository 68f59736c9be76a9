"""DPS: each prompt's solving state as a hidden Markov chain, learnt online (arXiv 2603.10887).

States: all wrong, mixed, all right. With Dirichlet pseudo-counts alpha [new, old] per prompt and
P = alpha / alpha.sum(axis=new), one step does, for every prompt of the pool,

    pi_new = one-hot of the observed state, or the prediction pi where the prompt was not rolled out
    xi     = outer(pi_new, pi_old) * P, divided by its sum        (observed prompts only, else 0)
    alpha <- lam * alpha + (1 - lam) * alpha0 + xi
    pi    <- P pi_new, with P from the new alpha

where pi_old is the posterior after the step before (not the prediction made from it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.config import DpsConfig
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.sampled_expectations import SampledExpectations

__all__ = ["MarkovStatePosterior", "MarkovStatePredictor"]

_ALL_WRONG, _MIXED, _ALL_RIGHT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class MarkovStatePosterior(SampledExpectations):
    """probabilities [N, 3] of the next group being all wrong, mixed or all right.

    DPS says nothing of the success rate inside "mixed"; as a rate the posterior is 0, uniform on (0, 1), or 1.
    """

    probabilities: FloatArray

    def mean(self) -> FloatArray:
        """P(mixed) / 2 + P(all right)."""
        mean: FloatArray = self.probabilities[:, _MIXED] / 2 + self.probabilities[:, _ALL_RIGHT]
        return mean

    def variance(self) -> FloatArray:
        """E[g^2] - E[g]^2 with E[g^2] = P(mixed) / 3 + P(all right)."""
        second: FloatArray = self.probabilities[:, _MIXED] / 3 + self.probabilities[:, _ALL_RIGHT]
        return second - self.mean() ** 2

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        shape = (num_draws, len(self.probabilities))
        state, inside = rng.random(shape), rng.random(shape)
        below_right = 1.0 - self.probabilities[:, _ALL_RIGHT]
        drawn = np.where(state < self.probabilities[:, _ALL_WRONG], 0.0, np.where(state < below_right, inside, 1.0))
        return drawn

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """P(0 < k < G) [K, N]: the states are those of a whole group, so this is P(mixed) whatever the G asked for."""
        return np.array([self.probabilities[:, _MIXED] for _ in group_sizes])


class MarkovStatePredictor:
    """All prompts at once: alpha [N, 3, 3], posterior [N, 3] after the last step, prediction [N, 3] for the next."""

    def __init__(self, table: PromptTable, config: DpsConfig) -> None:
        num_rows = len(table.prompt_ids)
        self._config = config
        self._alpha = np.full((num_rows, 3, 3), config.prior_count)
        self._posterior = np.full((num_rows, 3), 1 / 3)
        self._prediction = np.full((num_rows, 3), 1 / 3)
        self._seen = np.zeros(num_rows, dtype=np.bool_)

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> Posterior:
        return MarkovStatePosterior(self._prediction[rows])

    def observe(self, batch: OutcomeBatch) -> None:
        rows, states = self._observed_states(batch)
        transition = self._alpha / self._alpha.sum(axis=1, keepdims=True)
        new_posterior = self._prediction.copy()
        new_posterior[rows] = np.eye(3)[states]
        joint = new_posterior[rows][:, :, None] * self._posterior[rows][:, None, :] * transition[rows]
        decay = self._config.discount
        self._alpha = decay * self._alpha + (1 - decay) * self._config.prior_count
        self._alpha[rows] += joint / joint.sum(axis=(1, 2), keepdims=True)
        transition = self._alpha / self._alpha.sum(axis=1, keepdims=True)
        self._prediction = np.einsum("nij,nj->ni", transition, new_posterior)
        self._posterior = new_posterior
        self._seen[rows] = True

    @staticmethod
    def _observed_states(batch: OutcomeBatch) -> tuple[IntArray, IntArray]:
        """Distinct rows with at least one verdict, and their states; several groups of one prompt count as one."""
        tried = batch.num_tried > 0
        rows, group = np.unique(batch.rows[tried], return_inverse=True)
        num_right = np.bincount(group, weights=batch.num_right[tried], minlength=len(rows))
        num_tried = np.bincount(group, weights=batch.num_tried[tried], minlength=len(rows))
        states = np.where(num_right == 0, _ALL_WRONG, np.where(num_right == num_tried, _ALL_RIGHT, _MIXED))
        return rows, states

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """The pool's mean predicted share of each state."""
        wrong, mixed, right = self._prediction.mean(axis=0).tolist()
        return {"predicted_all_wrong": wrong, "predicted_mixed": mixed, "predicted_all_right": right}

    def state(self) -> State:
        return {
            "alpha": self._alpha.copy(),
            "posterior": self._posterior.copy(),
            "prediction": self._prediction.copy(),
            "seen": self._seen.copy(),
        }

    def load_state(self, state: State) -> None:
        if state["alpha"].shape != self._alpha.shape:
            raise CheckpointError(
                f"selector state: expected transition counts of {len(self._alpha)} prompts, got "
                f"{len(state['alpha'])}; resume with the data the run was started with (data.*)"
            )
        self._alpha = state["alpha"].astype(np.float64)
        self._posterior = state["posterior"].astype(np.float64)
        self._prediction = state["prediction"].astype(np.float64)
        self._seen = state["seen"].astype(np.bool_)
