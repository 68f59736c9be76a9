"""A loader of chosen prompts, for trainers that take one with a state (verl, OpenRLHF, torchdata)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gps_ray.base.errors import UsageError
from gps_ray.base.types import State
from gps_ray.integrations.prompt_feed import PromptFeed

__all__ = ["ChosenBatches"]


class ChosenBatches:
    """``collate([dataset[row], ...])`` of each batch that ``feed`` chooses when the trainer asks for it.

    Iterating is one epoch: as many batches as the data set has room for. A new pass begins with what an earlier one
    handed out and nobody observed. ``state_dict`` holds the selector too; a trainer that saves it beside its weights
    resumes with the same choices.
    """

    def __init__(self, feed: PromptFeed, dataset: Sequence[Any], collate: Callable[[list[Any]], Any]) -> None:
        if len(dataset) != len(feed.selector.prompts):
            raise UsageError(
                f"dataset: expected the {len(feed.selector.prompts)} rows of the selector's prompts, got {len(dataset)}"
            )
        self._feed, self._dataset, self._collate = feed, dataset, collate

    def __len__(self) -> int:
        return len(self._dataset) // self._feed.num_prompts

    def __iter__(self) -> Iterator[Any]:
        self._feed.put_back()
        for _ in range(len(self)):
            yield self._collate([self._dataset[row] for row in self._feed.choose().tolist()])

    def state_dict(self) -> State:
        """Named numeric arrays."""
        return self._feed.state()

    def load_state_dict(self, state: State) -> None:
        """Raises CheckpointError where the state belongs to other prompts, settings or batches."""
        self._feed.load_state(state)
