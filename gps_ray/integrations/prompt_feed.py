"""The core of an adapter to somebody else's trainer: choose, observe, state.

A trainer reads its prompts ahead, reports the rollouts of a batch later, and may be killed between the two.
``PromptFeed`` keeps count of that, so that an adapter has nothing to remember: it hands out batches of rows, is told of
every group once, and its state gives a resumed trainer the same batches again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from gps_ray.base.errors import CheckpointError, UsageError
from gps_ray.base.states import below, nested
from gps_ray.base.types import IntArray, State
from gps_ray.base.useful import is_useful
from gps_ray.integrations.selector import Selector

__all__ = ["PromptFeed"]


class PromptFeed:
    """Batches of ``num_prompts`` rows from a ``Selector``, for a trainer that has up to several of them in flight.

    ``choose`` hands out a batch, ``observe`` reports what its oldest one still out has become. In between the selector
    knows less than the newest outcomes: ``lag`` says by how many batches the choice of the last observed batch was
    older than the policy that answered it.
    """

    def __init__(self, selector: Selector, num_prompts: int) -> None:
        if num_prompts < 1:
            raise UsageError(f"num_prompts: expected at least 1 prompt per batch, got {num_prompts}")
        self.selector = selector
        self.num_prompts = num_prompts
        # Out: (rows, how many batches had been observed when they were chosen), oldest first.
        self._out: deque[tuple[IntArray, int]] = deque()
        self._again: deque[tuple[IntArray, int]] = deque()
        self._num_observed = 0
        self._metrics: dict[str, float] = {}

    @property
    def num_out(self) -> int:
        """Batches handed out that ``observe`` has not heard of."""
        return len(self._out)

    def choose(self) -> IntArray:
        """[num_prompts] int64: the next batch. After ``load_state`` first those that were out, in their order."""
        if self._again:
            self._out.append(self._again.popleft())
        else:
            self._out.append((self.selector.next(self.num_prompts), self._num_observed))
        return self._out[-1][0].copy()

    def put_back(self) -> None:
        """What is out is handed out once more, for a trainer that begins to read anew and has dropped it."""
        self._again.extendleft(reversed(self._out))
        self._out.clear()

    def observe(
        self,
        num_right: ArrayLike,
        num_tried: ArrayLike,
        rows: ArrayLike | None = None,
        response_lengths: ArrayLike | None = None,
    ) -> Mapping[str, float]:
        """Counts of the oldest batch out, in its order ([num_prompts] each, or a number for all), and what they say.

        ``rows``: what was rolled out, if it may differ; must be that batch, in any order. ``response_lengths`` as in
        ``Selector.update``. Returns the metrics of this
        batch by name: share of useful groups, success rate, lag (batches), predictor diagnostics. Raises UsageError
        where no batch is out, and learns nothing then.
        """
        if not self._out:
            raise UsageError("observe: no batch is out; call choose first")
        chosen, known = self._out[0]
        found = chosen if rows is None else np.asarray(rows)
        if not np.array_equal(np.sort(found), np.sort(chosen)):
            raise UsageError(f"observe: expected the groups of the batch {chosen.tolist()}, got {found.tolist()}")
        self.selector.update(found, num_right, num_tried, response_lengths)
        right, tried = np.broadcast_arrays(num_right, num_tried)
        self._out.popleft()
        lag = self._num_observed - known
        self._num_observed += 1
        self._metrics = {
            "share_useful": float(np.mean(is_useful(right, tried))),
            "success_rate": float(right.sum() / max(tried.sum(), 1)),
            "lag": float(lag),
            **self.selector.metrics(),
        }
        return self.metrics

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the last ``observe`` returned."""
        return dict(self._metrics)

    def state(self) -> State:
        """Named numeric arrays. A trainer that resumes from them is given the batches that were out once more."""
        # Those that a resumed trainer has not asked for again yet are as much out as the others.
        out = [*self._out, *self._again]
        return {
            **nested("selector", self.selector.state()),
            "out": np.array([rows for rows, _ in out], dtype=np.int64).reshape(-1, self.num_prompts),
            "known": np.array([known for _, known in out], dtype=np.int64),
            "num_observed": np.array(self._num_observed),
        }

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the state belongs to other prompts, settings or batches."""
        out = state["out"]
        if out.shape[1] != self.num_prompts:
            raise CheckpointError(
                f"prompt feed: the state has batches of {out.shape[1]} prompts, this trainer takes {self.num_prompts}; "
                "resume with the batch size that it was written with"
            )
        self.selector.load_state(below("selector", state))
        self._out.clear()
        self._again = deque(zip(out.astype(np.int64), state["known"].tolist(), strict=True))
        self._num_observed = int(state["num_observed"])
