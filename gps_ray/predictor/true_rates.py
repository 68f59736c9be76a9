"""The oracle's "predictor": success rates that somebody knows, the ceiling of every predictor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.point_posterior import PointPosterior

__all__ = ["TrueRatePredictor"]


class TrueRatePredictor:
    """Rates come from ``rates_at(step)`` [N] (a simulated policy), from ``set_success_rates`` (valid until set again),
    or from ``reveal`` (rollouts made beforehand: valid until the next ``observe``). NaN stands for unknown.
    """

    def __init__(self, table: PromptTable, rates_at: Callable[[int], FloatArray] | None = None) -> None:
        self._rates_at = rates_at
        self._rates = np.full(len(table.prompt_ids), np.nan)
        self._revealed = np.full(len(table.prompt_ids), np.nan)
        self._seen = np.zeros(len(table.prompt_ids), dtype=np.bool_)

    def follow(self, rates_at: Callable[[int], FloatArray]) -> None:
        """Take the rates [N] before the outcomes of a step from ``rates_at(step)`` from now on."""
        self._rates_at = rates_at

    def set_success_rates(self, rates: FloatArray) -> None:
        """The rates [N] of all prompts of the table."""
        if rates.shape != self._rates.shape:
            raise ValueError(f"expected rates of {len(self._rates)} prompts, got {rates.shape}")
        self._rates = rates.astype(np.float64)

    def reveal(self, rows: IntArray, rates: FloatArray) -> None:
        """The rates [K] of some prompts for the coming step only."""
        self._revealed[rows] = rates

    def rates(self, rows: IntArray, step: int) -> FloatArray:
        """[K] float64, NaN where unknown."""
        known = self._rates if self._rates_at is None else self._rates_at(step)
        rates: FloatArray = np.where(np.isnan(self._revealed[rows]), known[rows], self._revealed[rows])
        return rates

    def predict(self, rows: IntArray, step: int) -> Posterior:
        """NaN where unknown: whoever asks for a prediction checks ``rates`` first."""
        return PointPosterior(self.rates(rows, step))

    def informed(self) -> bool:
        return True

    def observe(self, batch: OutcomeBatch) -> None:
        self._seen[batch.rows[batch.num_tried > 0]] = True
        self._revealed[:] = np.nan

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> State:
        return {"rates": self._rates.copy(), "revealed": self._revealed.copy(), "seen": self._seen.copy()}

    def load_state(self, state: State) -> None:
        if state["rates"].shape != self._rates.shape:
            raise CheckpointError(
                f"selector state: expected {len(self._rates)} prompts, got {len(state['rates'])}; "
                "resume with the data the run was started with (data.*)"
            )
        self._rates = state["rates"].astype(np.float64)
        self._revealed = state["revealed"].astype(np.float64)
        self._seen = state["seen"].astype(np.bool_)
