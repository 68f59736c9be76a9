"""The oracle: chooses by true success rates, the ceiling of every predictor.

Of a recorded or simulated policy the rates are known (``follow``, ``set_success_rates``). In a run the loop rolls out
``candidates(request)`` once beforehand, calls ``reveal`` with what came of them, throws those rollouts away and charges
them apart (``cost/num_rollouts_oracle``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import FloatArray, IntArray, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import Posterior, PromptTable
from gps_ray.predictor.true_rates import TrueRatePredictor
from gps_ray.selection.acquisition import Acquisition
from gps_ray.selection.selector import PredictiveSelector

__all__ = ["OracleSelector"]


class OracleSelector(PredictiveSelector):
    """A predictive selector whose predictor must know every prompt it looks at."""

    def __init__(
        self,
        acquisition: Acquisition,
        table: PromptTable,
        config: SelectionConfig,
        group_size: int,
        run_seed: int,
        rates_at: Callable[[int], FloatArray] | None = None,
    ) -> None:
        self._oracle = TrueRatePredictor(table, rates_at)
        super().__init__(self._oracle, acquisition, table, config, group_size, run_seed)

    def follow(self, rates_at: Callable[[int], FloatArray]) -> None:
        """Take the rates [N] that hold in a step from ``rates_at(step)`` from now on (a simulated policy)."""
        self._oracle.follow(rates_at)

    def set_success_rates(self, rates: FloatArray) -> None:
        """Rates [N] of the whole prompt table, until they are set again."""
        self._oracle.set_success_rates(rates)

    def reveal(self, rows: IntArray, rates: FloatArray) -> None:
        """Rates [K] found out for the coming step."""
        self._oracle.reveal(rows, rates)

    def candidates(self, request: SelectionRequest) -> IntArray:
        """Rows of the prompts that ``select(request)`` will look at, sorted."""
        free = np.flatnonzero(self._index.free(request.excluded))
        return np.sort(np.concatenate(self._looked_at(request, free, min(request.num_prompts, len(free)))))

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        """The rates; None where one of them is not known."""
        return None if np.isnan(self._oracle.rates(rows, step)).any() else super().predict(rows, step)

    def select(self, request: SelectionRequest) -> Selection:
        """Raises ConfigError where the rate of a candidate is not known."""
        rates = self._oracle.rates(self.candidates(request), request.step)
        if np.isnan(rates).any():
            raise ConfigError(
                f"selection.selector: the oracle must know the success rates of its {len(rates)} candidates, but "
                f"{np.count_nonzero(np.isnan(rates))} are unknown; reveal them first, or set rollout.engine=simulated "
                "or another selection.selector"
            )
        return super().select(request)
