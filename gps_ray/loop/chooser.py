"""When each step's prompts are selected: as early as its rollouts may begin, and by the config alone."""

from __future__ import annotations

from gps_ray.base.concurrency import Milestone
from gps_ray.base.types import Selection, SelectionRequest
from gps_ray.loop.ports import SelectorPort

__all__ = ["Chooser"]


class Chooser:
    """Keeps the selections that were made and not yet learnt from.

    With a lag of L, the prompts of step s are selected when the selector has observed step s - 1 - L, so what a
    selection knew depends on the step alone, never on timing. ``num_steps_done``: steps that ended before this process.
    """

    def __init__(
        self, selector: SelectorPort, *, num_prompts: int, group_size: int, max_policy_lag: int, num_steps_done: int = 0
    ) -> None:
        self._selector = selector
        self._num_prompts = num_prompts
        self._group_size = group_size
        self._max_lag = max_policy_lag
        self._selections: dict[int, Selection] = {}
        # Prompts by step that were selected and whose outcomes the selector has not seen.
        self._in_flight: dict[int, set[str]] = {}
        self._chosen = Milestone(num_steps_done)

    def keep(self, selection: Selection) -> None:
        """Hold the first round of a step: just made, or before a checkpoint that the run goes on from."""
        self._selections[selection.step] = selection
        self._in_flight[selection.step] = set(selection.prompt_ids)
        self._chosen.advance(selection.step)

    async def choose_ahead(self, observed: int, end: int) -> None:
        """Select for every step whose time has come once step ``observed`` is observed. Nothing is selected beyond
        ``end``, after which nothing may be under way, until it is observed itself; then the step after it."""
        last = end + 1 if observed == end else min(observed + 1 + self._max_lag, end)
        for step in range(self._chosen.at + 1, last + 1):
            self.keep(await self._select(step, 0, self._num_prompts))

    async def selection(self, step: int) -> Selection:
        """The first round of a step, as soon as it is made."""
        await self._chosen.reached(step)
        return self._selections[step]

    async def another_round(self, step: int, round_: int, num_missing: int) -> Selection:
        """More prompts for a step that still lacks ``num_missing`` useful groups; none where the pool has no more."""
        selection = await self._select(step, round_, num_missing)
        self._in_flight[step].update(selection.prompt_ids)
        return selection

    def release(self, step: int) -> None:
        """The selector has observed the step: its prompts may be selected again."""
        del self._selections[step], self._in_flight[step]

    def __getitem__(self, step: int) -> Selection:
        return self._selections[step]

    async def _select(self, step: int, round_: int, num_missing: int) -> Selection:
        return await self._selector.select(
            SelectionRequest(
                step=step,
                round=round_,
                num_prompts=self._num_prompts,
                group_size=self._group_size,
                excluded=frozenset().union(*self._in_flight.values()),
                num_missing=num_missing,
            )
        )
