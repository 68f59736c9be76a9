"""SEC: a bandit over kinds of prompts, paid in expected absolute advantage (arXiv 2505.14970).

    Q(c) <- (1 - rate) Q(c) + rate * mean over the step's groups of kind c of 2 sqrt(s (1 - s))
    kind of a slot ~ softmax(Q / temperature), then a prompt of that kind, uniformly

2 sqrt(s (1 - s)) is the mean |advantage| of a group of success rate s whose rewards are normalised by mean and spread.
The paper takes the kinds from labels of the data. A selector here reads no labels: kinds are clusters of the text
features of gps_fused (k-means over the leading ones).
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, Selection, SelectionRequest, State
from gps_ray.config import FusedConfig, SecConfig
from gps_ray.predictor.fused_features import build_text_features
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.kinds import kinds_of
from gps_ray.selection.counting import CountingSelector

__all__ = ["SecSelector", "kinds_of_prompts"]


def kinds_of_prompts(table: PromptTable, features: FusedConfig, num_kinds: int) -> IntArray:
    """[num_pool] int64 in [0, C): clusters of the pool's text features, the same in every run on it."""
    return kinds_of(build_text_features(table, features).columns, table.num_pool, num_kinds)[: table.num_pool]


class SecSelector(CountingSelector):
    """``kinds`` [num_pool]. All state is Q [C] and how often each prompt was observed; ``select`` changes nothing."""

    def __init__(self, table: PromptTable, kinds: IntArray, config: SecConfig, run_seed: int) -> None:
        super().__init__(table)
        self._kinds = kinds
        self._config = config
        self._run_seed = run_seed
        self._values = np.zeros(int(kinds.max()) + 1)

    def select(self, request: SelectionRequest) -> Selection:
        free = np.flatnonzero(self.index.free(request.excluded))
        rng = generator(self._run_seed, "selector/sec", request.step, rollout=request.round)
        waiting = [list(rng.permutation(free[self._kinds[free] == kind])) for kind in range(len(self._values))]
        rows = [
            waiting[self._kind(rng, np.array([len(rows) > 0 for rows in waiting]))].pop()
            for _ in range(min(request.num_prompts, len(free)))
        ]
        return self.chosen(request, np.array(rows), len(free))

    def _kind(self, rng: np.random.Generator, is_left: BoolArray) -> int:
        keys = self._values / self._config.temperature + rng.gumbel(size=len(self._values))
        return int(np.argmax(np.where(is_left, keys, -np.inf)))

    def observe(self, batch: OutcomeBatch) -> None:
        self.reuse.observe(batch.rows)
        tried = batch.num_tried > 0
        rate = batch.num_right[tried] / batch.num_tried[tried]
        kinds = self._kinds[batch.rows[tried]]
        num_groups = np.bincount(kinds, minlength=len(self._values))
        gain = np.bincount(kinds, weights=2.0 * np.sqrt(rate * (1.0 - rate)), minlength=len(self._values))
        seen = num_groups > 0
        self._values[seen] += self._config.rate * (gain[seen] / num_groups[seen] - self._values[seen])

    def shares(self) -> FloatArray:
        """[C]: the probability of each kind for one slot."""
        keys = np.exp((self._values - self._values.max()) / self._config.temperature)
        shares: FloatArray = keys / keys.sum()
        return shares

    def metrics(self) -> dict[str, float]:
        """Beside the reuse: least and largest value of a kind, and the largest share of a kind."""
        values, shares = self._values, self.shares()
        named = {"min_value": values.min(), "max_value": values.max(), "max_share": shares.max()}
        return {**self.reuse.metrics(), **{f"kinds_{name}": float(value) for name, value in named.items()}}

    def state(self) -> State:
        return {"values": self._values.copy(), "kinds": self._kinds.copy(), **nested("reuse", self.reuse.state())}

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the pool was another, or fell into other kinds."""
        if not np.array_equal(state["kinds"], self._kinds):
            raise CheckpointError(
                "selector state: its kinds of prompts are not those of this run; resume with the run's own data.*, "
                "selection.sec.num_kinds, selection.features.* and selection.fused.*"
            )
        self._values = state["values"].astype(np.float64)
        self.reuse.load_state(below("reuse", state))
