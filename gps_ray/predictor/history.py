"""What happened so far: outcomes by row of the prompt table, a window of recent steps, how often prompts came back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from gps_ray.base.errors import CheckpointError, DataError
from gps_ray.base.types import BoolArray, GroupOutcome, IntArray, State
from gps_ray.predictor.interface import OutcomeBatch, PromptTable

__all__ = ["OutcomeWindow", "PromptIndex", "ReuseCounter", "concatenate_batches"]


class PromptIndex:
    """Rows of a prompt table by prompt id."""

    def __init__(self, table: PromptTable) -> None:
        self.table = table
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(table.prompt_ids)}

    def rows(self, prompt_ids: Iterable[str]) -> IntArray:
        """[K] int64. Raises DataError for a prompt that the table does not hold."""
        try:
            return np.fromiter((self._row_of[prompt_id] for prompt_id in prompt_ids), dtype=np.int64)
        except KeyError as error:
            raise DataError(
                f"prompt {error.args[0]!r} is not among the {len(self._row_of)} prompts of this run; "
                "use the data the run was started with (data.*)"
            ) from error

    def free(self, excluded: Iterable[str]) -> BoolArray:
        """[num_pool] bool: prompts of the pool that may be selected now."""
        rows = self.rows(prompt_id for prompt_id in excluded if prompt_id in self._row_of)
        free = np.ones(self.table.num_pool, dtype=np.bool_)
        free[rows[rows < self.table.num_pool]] = False
        return free

    def outcome_batch(self, step: int, outcomes: Sequence[GroupOutcome]) -> OutcomeBatch:
        """The outcomes of one step as counts, in the given order; failed rollouts count in nothing but length."""
        return OutcomeBatch(
            step=step,
            rows=self.rows(outcome.prompt_id for outcome in outcomes),
            num_right=np.array([outcome.num_right for outcome in outcomes], dtype=np.int32),
            num_tried=np.array([outcome.num_tried for outcome in outcomes], dtype=np.int32),
            mean_response_length=np.array(
                [np.mean(o.response_lengths) if len(o.response_lengths) else np.nan for o in outcomes],
                dtype=np.float32,
            ),
        )


def concatenate_batches(batches: Sequence[OutcomeBatch]) -> OutcomeBatch:
    """Several batches as one, under the step of the last (step -1 and no rows for none)."""
    empty = np.zeros(0, dtype=np.int64)
    return OutcomeBatch(
        step=batches[-1].step if batches else -1,
        rows=np.concatenate([empty, *(b.rows for b in batches)]),
        num_right=np.concatenate([empty.astype(np.int32), *(b.num_right for b in batches)]),
        num_tried=np.concatenate([empty.astype(np.int32), *(b.num_tried for b in batches)]),
        mean_response_length=np.concatenate([empty.astype(np.float32), *(b.mean_response_length for b in batches)]),
    )


class OutcomeWindow:
    """The outcome batches of the last ``num_steps`` steps (None: of all), oldest first."""

    def __init__(self, num_steps: int | None) -> None:
        self._batches: deque[OutcomeBatch] = deque(maxlen=num_steps)

    def append(self, batch: OutcomeBatch) -> None:
        self._batches.append(batch)

    @property
    def batches(self) -> tuple[OutcomeBatch, ...]:
        return tuple(self._batches)

    def state(self) -> State:
        """Batches one after the other, with steps [W] and sizes [W] to cut them apart."""
        joined = concatenate_batches(self.batches)
        return {
            "steps": np.array([batch.step for batch in self._batches], dtype=np.int64),
            "sizes": np.array([len(batch.rows) for batch in self._batches], dtype=np.int64),
            "rows": joined.rows,
            "num_right": joined.num_right,
            "num_tried": joined.num_tried,
            "mean_response_length": joined.mean_response_length,
        }

    def load_state(self, state: State) -> None:
        self._batches.clear()
        ends = np.cumsum(state["sizes"])
        for step, size, end in zip(state["steps"], state["sizes"], ends, strict=True):
            part = slice(int(end - size), int(end))
            self._batches.append(
                OutcomeBatch(
                    step=int(step),
                    rows=state["rows"][part].copy(),
                    num_right=state["num_right"][part].copy(),
                    num_tried=state["num_tried"][part].copy(),
                    mean_response_length=state["mean_response_length"][part].copy(),
                )
            )


class ReuseCounter:
    """How often each prompt of the pool has been observed."""

    def __init__(self, num_pool: int) -> None:
        self.counts: IntArray = np.zeros(num_pool, dtype=np.int64)
        self._share_seen_before = 0.0

    def observe(self, rows: IntArray) -> None:
        if len(rows):
            self._share_seen_before = float(np.mean(self.counts[rows] > 0))
        np.add.at(self.counts, rows, 1)

    def seen(self, rows: IntArray) -> BoolArray:
        """[N] bool: observed before; False for rows outside the pool, which are never observed."""
        in_pool = rows < len(self.counts)
        seen: BoolArray = in_pool & (self.counts[np.where(in_pool, rows, 0)] > 0)
        return seen

    def metrics(self) -> dict[str, float]:
        """Distinct prompts so far, groups per distinct prompt, and the share of the last batch that was seen before."""
        num_unique = int(np.count_nonzero(self.counts))
        return {
            "num_unique_prompts": float(num_unique),
            "groups_per_unique_prompt": float(self.counts.sum()) / max(num_unique, 1),
            "share_seen_before": self._share_seen_before,
        }

    def state(self) -> State:
        return {"counts": self.counts.copy(), "share_seen_before": np.array(self._share_seen_before)}

    def load_state(self, state: State) -> None:
        if state["counts"].shape != self.counts.shape:
            raise CheckpointError(
                f"selector state: expected counts of a pool of {len(self.counts)} prompts, got "
                f"{len(state['counts'])}; resume with the data the run was started with (data.*)"
            )
        self.counts = state["counts"].astype(np.int64)
        self._share_seen_before = float(state["share_seen_before"])
