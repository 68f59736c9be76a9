"""The oracle: chooses by true success rates, the ceiling of every predictor.

Of a recorded or simulated policy the rates are known (``follow``, ``set_success_rates``). In a run they come with the
request (``success_rates``): ``gps_ray.loop.oracle`` rolls out ``oracle_candidates`` beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import FloatArray, IntArray, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import Posterior, PromptTable
from gps_ray.predictor.true_rates import TrueRatePredictor
from gps_ray.selection.acquisition import Acquisition
from gps_ray.selection.selector import PredictiveSelector, looked_at

__all__ = ["OracleSelector", "oracle_candidates"]


def oracle_candidates(
    config: SelectionConfig, pool_ids: Sequence[str], run_seed: int, request: SelectionRequest
) -> list[str]:
    """The prompts whose success rates ``select(request)`` must know, in the order of the pool ``pool_ids`` [N].
    ``config`` is the resolved one, as the selector has it."""
    free = np.array([row for row, prompt_id in enumerate(pool_ids) if prompt_id not in request.excluded], np.int64)
    rows = np.sort(np.concatenate(looked_at(config, run_seed, request, free)))
    return [pool_ids[row] for row in rows]


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

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        """The rates; None where one of them is not known."""
        return None if np.isnan(self._oracle.rates(rows, step)).any() else super().predict(rows, step)

    def select(self, request: SelectionRequest) -> Selection:
        """Raises ConfigError where the rate of a candidate is not known."""
        if request.success_rates:
            rows = self._index.rows(request.success_rates)
            self._oracle.reveal(rows, np.array(list(request.success_rates.values()), dtype=np.float64))
        free = np.flatnonzero(self._index.free(request.excluded))
        candidates = np.concatenate(looked_at(self._config, self._run_seed, request, free))
        rates = self._oracle.rates(candidates, request.step)
        if np.isnan(rates).any():
            raise ConfigError(
                f"selection.selector: the oracle must know the success rates of its {len(rates)} candidates, but "
                f"{np.count_nonzero(np.isnan(rates))} are unknown; set another selection.selector"
            )
        return super().select(request)
