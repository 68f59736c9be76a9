"""A selector, a predictor and an acquisition as a user has them in a package of their own: all with options."""

from __future__ import annotations

import numpy as np

from examples import own_selector
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.sampled_expectations import SampledExpectations
from gps_ray.selection.interface import SelectorRow
from gps_ray.selection.registry import predictive


class ShortestFirst(own_selector.ShortestFirst):
    """A curriculum: the least used of the ``window`` shortest prompts; ``longest`` turns it round."""

    def __init__(
        self,
        config: SelectionConfig,
        table: PromptTable,
        group_size: int,
        run_seed: int,
        *,
        window: int,
        longest: bool = False,
    ) -> None:
        if window < config.num_prompts:
            raise ValueError(f"window must hold a batch of {config.num_prompts}, got {window}")
        super().__init__(config, table, group_size, run_seed, longest=longest)
        self.order = self.order[:window]


class TwoRates(SampledExpectations):
    """Each prompt's rate is a little below or above its mean, with equal odds."""

    def __init__(self, rates: FloatArray, spread: float) -> None:
        self._rates, self._spread = rates, spread

    def mean(self) -> FloatArray:
        return self._rates

    def variance(self) -> FloatArray:
        return np.full(len(self._rates), self._spread**2)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        sign = rng.choice((-1.0, 1.0), size=(num_draws, len(self._rates)))
        return self._rates + self._spread * sign


class ByLength:
    """Thinks that a prompt of ``half`` characters is solved half of the time, a longer one less often."""

    def __init__(
        self,
        config: SelectionConfig,
        table: PromptTable,
        group_size: int,
        run_seed: int,
        *,
        half: float,
        spread: float = 0.0,
    ) -> None:
        self._rates = half / (half + np.array([len(text) for text in table.texts], dtype=np.float64))
        self._spread = spread
        self._seen = np.zeros(len(table.texts), dtype=np.bool_)

    def informed(self) -> bool:
        return True

    def predict(self, rows: IntArray, step: int) -> TwoRates:
        return TwoRates(self._rates[rows], self._spread)

    def observe(self, batch: OutcomeBatch) -> None:
        self._seen[batch.rows[batch.num_tried > 0]] = True

    def seen(self, rows: IntArray) -> BoolArray:
        return self._seen[rows]

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> State:
        return {"seen": self._seen.copy()}

    def load_state(self, state: State) -> None:
        self._seen = state["seen"].astype(np.bool_)


def near(posterior: TwoRates, group_size: int, rng: np.random.Generator, *, target: float = 0.5) -> FloatArray:
    if not 0 < target < 1:
        raise ValueError(f"target must lie between 0 and 1, got {target}")
    return -np.abs(posterior.mean() - target)


# The same method as a row of its own: preset, admission, and that it predicts.
EASY_FIRST = SelectorRow(
    factory=predictive,
    predicts=True,
    admission="useful_only",
    preset={
        "predictor": f"{__name__}:ByLength",
        "acquisition": f"{__name__}:near",
        "candidate_multiple": None,
        "diversity_within": 0.0,
        "diversity_recent": 0.0,
    },
)
