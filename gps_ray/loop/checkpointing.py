"""Checkpoints of a run: all parts side by side, made one by the manifest, and gone without where there is no room."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from gps_ray.base.concurrency import gather_or_cancel
from gps_ray.base.errors import StorageError
from gps_ray.base.types import Selection
from gps_ray.config import TrainConfig
from gps_ray.loop.breaks import Breaks
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.skips import SkippedCheckpoints
from gps_ray.run.checkpoint import Manifest, SelectionRecord

__all__ = ["Checkpointer"]


class Checkpointer:
    """Nothing of the run may be under way while it writes. ``breaks`` is told when the last one was written."""

    def __init__(self, config: TrainConfig, parts: LoopParts, breaks: Breaks) -> None:
        self._config, self._parts, self._breaks = config, parts, breaks
        self._skipped = SkippedCheckpoints(config.checkpoint.max_skipped)

    @property
    def num_skipped(self) -> int:
        return self._skipped.num

    async def write(
        self,
        num_steps_done: int,
        counters: Mapping[str, float],
        next_selection: Selection,
        pass_at_1: float | None,
    ) -> None:
        """Write one, or go on without where there is no room for it, as far as the config allows: else StorageError."""
        began = self._breaks.now()
        manifest = Manifest(
            num_steps_done=num_steps_done,
            counters=dict(counters),
            next_selection=SelectionRecord.of(next_selection),
            config=self._config.model_dump(mode="json"),
            pool_fingerprint=self._parts.identity.pool,
            **self._parts.identity.model_dump(exclude={"pool"}),
            pass_at_1=pass_at_1,
            **dict(self._parts.folder.position()),
        )
        try:
            await self._write(manifest)
        except StorageError as error:
            if not self._parts.store.has_any() or not self._parts.folder.root.exists():
                raise  # there would be nothing to go on from
            self._skipped.skipped(num_steps_done, error)
            self._breaks.skipped()
        else:
            self._skipped.written()
            self._breaks.saved(began)

    async def _write(self, manifest: Manifest) -> None:
        """What is left of one that fails makes room."""
        parts = self._parts
        path = parts.store.begin(manifest.num_steps_done)
        try:
            await _all_saved(parts.learner.save(path / "learner"), parts.selector.save(path / "selector"))
            manifest = parts.store.commit(path, manifest)
        except StorageError:
            parts.store.discard(path)
            raise
        if parts.mirror is not None:
            parts.mirror.hand_over(path, manifest)


async def _all_saved(*saves: Coroutine[Any, Any, None]) -> None:
    """Where one has no room the others end all the same: their files are about to be deleted."""

    async def attempt(save: Coroutine[Any, Any, None]) -> StorageError | None:
        try:
            await save
        except StorageError as error:
            return error
        return None

    for error in await gather_or_cancel(*map(attempt, saves)):
        if error is not None:
            raise error
