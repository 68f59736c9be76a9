"""What selectors that predict nothing have in common."""

from __future__ import annotations

from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.predictor.history import PromptIndex, ReuseCounter
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.selection.interface import unpredicted_selection

__all__ = ["CountingSelector"]


class CountingSelector:
    """A ``PromptSelector`` but for ``select``, which a subclass has. It knows the prompts (``table``), which are
    free (``index``), and how often each was observed (``reuse``), which is all its state."""

    def __init__(self, table: PromptTable) -> None:
        self.table = table
        self.index = PromptIndex(table)
        self.reuse = ReuseCounter(table.num_pool)

    def chosen(
        self, request: SelectionRequest, rows: IntArray, num_candidates: int, kind: SlotKind = SlotKind.CHOSEN
    ) -> Selection:
        """The selection of these rows of the pool, in their order."""
        prompt_ids = tuple(self.table.prompt_ids[row] for row in rows)
        return unpredicted_selection(request, prompt_ids, kind, num_candidates)

    def observe(self, batch: OutcomeBatch) -> None:
        self.reuse.observe(batch.rows)

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        return None

    def seen(self, rows: IntArray) -> BoolArray:
        return self.reuse.seen(rows)

    def metrics(self) -> dict[str, float]:
        return self.reuse.metrics()

    def state(self) -> State:
        return self.reuse.state()

    def load_state(self, state: State) -> None:
        self.reuse.load_state(state)
