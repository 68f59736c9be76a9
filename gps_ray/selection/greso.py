"""GRESO: skip, before the rollout, prompts whose recent groups were not useful (arXiv 2506.02177).

A prompt whose last z groups were all of one kind (all right: easy, all wrong: hard) is skipped with probability
1 - max(p^z, 0.01), where p is p_easy or p_hard. After every step p falls by .01 where the share of that kind among
the groups rolled out has reached its target, else it rises by .01. Nothing is skipped or adapted in the first epoch.
Groups that turn out useless all the same are dropped by the admission (``useful_only``), which asks for more.
"""

from __future__ import annotations

import math

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, Selection, SelectionRequest, State
from gps_ray.config import GresoConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.counting import CountingSelector

__all__ = ["GresoSelector"]

# Epochs searched for one batch before the rest is filled without skipping (a pool in which nearly all is skipped).
_NUM_EPOCHS_AHEAD = 16
# In place of an epoch: not selected, or only to fill a batch without skipping, which is nobody's turn.
_NO_EPOCH = -1


class GresoSelector(CountingSelector):
    """Goes through the pool in a fresh random order per epoch, leaving out skipped prompts.

    State: the epoch of each prompt's next turn, the last run of groups of one kind per prompt, and the two
    probabilities. A prompt is skipped where its coin, drawn by (run_seed, epoch, prompt), is below its skip
    probability. A batch may reach into later epochs, and which prompts a coin skips moves with the probabilities: so
    ``select`` notes in which epoch it took each prompt, and in ``observe`` the turns of the prompts that come back are
    over, and those of all that were skipped before the last of them. The notes are part of the state; outcomes of
    prompts that were never selected are nobody's turn.
    """

    def __init__(self, table: PromptTable, config: GresoConfig, run_seed: int) -> None:
        super().__init__(table)
        self._config = config
        self._run_seed = run_seed
        self._next_epoch = np.zeros(table.num_pool, dtype=np.int64)
        self._picked_in = np.full(table.num_pool, _NO_EPOCH, dtype=np.int64)
        # > 0: run of all-right groups, < 0: run of all-wrong groups, 0: the last group was useful (or there is none).
        self._run = np.zeros(table.num_pool, dtype=np.int64)
        self._p_easy = self._p_hard = config.start_probability

    def skip_probability(self) -> FloatArray:
        """[num_pool] float64: 1 - max(p^z, min_survival); 0 for prompts without a run."""
        p = np.where(self._run > 0, self._p_easy, self._p_hard)
        survival: FloatArray = np.maximum(p ** np.abs(self._run), self._config.min_survival)
        return 1.0 - survival

    def batch_size(self, request: SelectionRequest) -> int:
        """min(safety_factor * missing / useful ratio, num_prompts).

        The ratio is that of this step so far: ``request.excluded`` counts as rolled out (exact where no other step is
        in flight). The first round asks for the full ``num_prompts``.
        """
        num_useful = request.num_prompts - request.num_missing
        if request.round == 0 or num_useful <= 0 or not request.excluded:
            return request.num_prompts
        useful_ratio = num_useful / len(request.excluded)
        wanted = math.ceil(self._config.safety_factor * request.num_missing / useful_ratio)
        return min(wanted, request.num_prompts)

    def select(self, request: SelectionRequest) -> Selection:
        free = self.index.free(request.excluded)
        num_free = int(np.count_nonzero(free))
        rows = self._next_rows(free, min(self.batch_size(request), num_free))
        return self.chosen(request, rows, num_free)

    def _next_rows(self, free: BoolArray, num_wanted: int) -> IntArray:
        parts: list[IntArray] = []
        for epoch in range(self._epoch, self._epoch + _NUM_EPOCHS_AHEAD):
            order = self._order(epoch)
            allowed = free & (self._next_epoch <= epoch) & self._kept(epoch)
            parts.append(order[allowed[order]][:num_wanted])
            self._picked_in[parts[-1]] = epoch
            free[parts[-1]] = False
            num_wanted -= len(parts[-1])
            if num_wanted == 0:
                break
        else:
            order = self._order(self._epoch + _NUM_EPOCHS_AHEAD)
            parts.append(order[free[order]][:num_wanted])
            self._picked_in[parts[-1]] = _NO_EPOCH
        return np.concatenate(parts)

    def _order(self, epoch: int) -> IntArray:
        return generator(self._run_seed, "selector/greso/order", epoch).permutation(self.table.num_pool)

    def _kept(self, epoch: int) -> BoolArray:
        """[num_pool] bool: not skipped in this epoch, as things stand. In the first, no prompt has a run yet."""
        coin = generator(self._run_seed, "selector/greso/skip", epoch).random(self.table.num_pool)
        kept: BoolArray = coin >= self.skip_probability()
        return kept

    def observe(self, batch: OutcomeBatch) -> None:
        adapts = self._epoch > 0
        self._advance(batch.rows)
        self.reuse.observe(batch.rows)
        tried = batch.num_tried > 0
        rows, num_right, num_tried = batch.rows[tried], batch.num_right[tried], batch.num_tried[tried]
        if not len(rows):
            return
        easy, hard = num_right == num_tried, num_right == 0
        run = self._run[rows]
        # A run goes on while its kind repeats, and starts anew with the other kind.
        self._run[rows] = np.where(easy, np.maximum(run, 0) + 1, np.where(hard, np.minimum(run, 0) - 1, 0))
        if adapts:
            self._p_easy = self._adapted(self._p_easy, float(easy.mean()), self._config.target_easy)
            self._p_hard = self._adapted(self._p_hard, float(hard.mean()), self._config.target_hard)

    def _advance(self, rows: IntArray) -> None:
        """The turns of ``rows`` [K] are over, and so are those before the last of them, but for prompts in flight."""
        rows = rows[self._picked_in[rows] != _NO_EPOCH]
        if not len(rows):
            return
        epochs = self._picked_in[rows]
        last = int(epochs.max())
        for epoch in range(self._epoch, last + 1):
            order = self._order(epoch)
            if epoch == last:
                order = order[: np.flatnonzero(np.isin(order, rows[epochs == last]))[-1]]
            skipped = order[self._picked_in[order] == _NO_EPOCH]
            self._next_epoch[skipped] = np.maximum(self._next_epoch[skipped], epoch + 1)
        self._next_epoch[rows] = np.maximum(self._next_epoch[rows], epochs + 1)
        self._picked_in[rows] = _NO_EPOCH
        # A prompt that never came back does not hold the epochs up for ever.
        self._next_epoch = np.maximum(self._next_epoch, last - _NUM_EPOCHS_AHEAD)

    @property
    def _epoch(self) -> int:
        """The first epoch in which a prompt still has its turn."""
        return int(self._next_epoch.min())

    def _adapted(self, p: float, ratio: float, target: float) -> float:
        step = self._config.probability_step
        p = p - step if ratio >= target else p + step
        return min(max(p, self._config.min_probability), self._config.max_probability)

    def metrics(self) -> dict[str, float]:
        return {
            **self.reuse.metrics(),
            "epoch": float(self._epoch),
            "p_easy": self._p_easy,
            "p_hard": self._p_hard,
            "mean_skip_probability": float(self.skip_probability().mean()),
        }

    def state(self) -> State:
        return nested("reuse", self.reuse.state()) | {
            "next_epoch": self._next_epoch.copy(),
            "picked_in": self._picked_in.copy(),
            "run": self._run.copy(),
            "p_easy": np.array(self._p_easy),
            "p_hard": np.array(self._p_hard),
        }

    def load_state(self, state: State) -> None:
        if "picked_in" not in state:
            raise CheckpointError(
                "selector state: this checkpoint does not say which epoch of greso its prompts were taken in, it is "
                "from before gps-ray kept that; start the run anew, or finish it with the version that began it"
            )
        if state["run"].shape != self._run.shape:
            raise CheckpointError(
                f"selector state: expected a pool of {len(self._run)} prompts, got {len(state['run'])}; "
                "resume with the data the run was started with (data.*)"
            )
        self.reuse.load_state(below("reuse", state))
        self._next_epoch = state["next_epoch"].astype(np.int64)
        self._picked_in = state["picked_in"].astype(np.int64)
        self._run = state["run"].astype(np.int64)
        self._p_easy, self._p_hard = float(state["p_easy"]), float(state["p_hard"])
