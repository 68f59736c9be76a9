"""The selector actor: one process that holds predictor, embeddings and history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from actors.deadlines import death, within
from gps_ray.base.errors import LostError
from gps_ray.base.types import Chunk, ObserveResult, PosteriorMoments, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.selection.registry import build_selector
from gps_ray.selection.service import SelectorService

__all__ = ["RaySelector", "SelectorActor", "spawn_selector"]


class SelectorActor:
    """A ``SelectorService`` in a process of its own."""

    def __init__(
        self, config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int, outcome_directory: Path
    ) -> None:
        import torch

        torch.set_num_threads(config.num_threads)
        selector = build_selector(config, table, group_size, run_seed)
        self._service = SelectorService(selector, table, outcome_directory)

    def ready(self) -> bool:
        return True

    def select(self, request: SelectionRequest) -> Selection:
        return self._service.select(request)

    def observe(self, step: int, selections: Sequence[Selection], *tables: pa.Table) -> ObserveResult:
        # Tables come as top-level arguments, so Ray hands over what lies in the object store without a copy.
        return self._service.observe(step, selections, tables)

    def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        return self._service.predict(prompt_ids)

    def save(self, directory: Path) -> None:
        self._service.save(directory)

    def load(self, directory: Path) -> None:
        self._service.load(directory)


class RaySelector:
    """The loop's selector port: remote calls, each with the deadline ``selection.deadline_s``."""

    def __init__(self, actor: Any, deadline_s: float) -> None:
        self._actor = actor
        self._deadline_s = deadline_s

    async def _call(self, method: str, *args: Any) -> Any:
        reference = getattr(self._actor, method).remote(*args)
        try:
            return await within(self._deadline_s, reference, f"selector.{method}", "selection.deadline_s")
        except RayActorError as error:
            raise LostError(
                f"selector.{method}: the selector actor died ({death(error)}); --resume goes on from the last "
                "checkpoint"
            ) from error

    async def select(self, request: SelectionRequest) -> Selection:
        selection: Selection = await self._call("select", request)
        return selection

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        tables = [chunk.outcomes for chunk in chunks]
        result: ObserveResult = await self._call("observe", step, tuple(selections), *tables)
        return result

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        prediction: PosteriorMoments | None = await self._call("predict", tuple(prompt_ids))
        return prediction

    async def save(self, directory: Path) -> None:
        await self._call("save", directory)

    async def load(self, directory: Path) -> None:
        await self._call("load", directory)

    def close(self) -> None:
        ray.kill(self._actor)


def spawn_selector(
    name: str, config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int, outcome_directory: Path
) -> RaySelector:
    """Start the actor under a readable name; it reserves no CPU, since it works while the others wait."""
    actor = (
        ray.remote(SelectorActor)
        .options(name=name, num_cpus=0)
        .remote(config, ray.put(table), group_size, run_seed, outcome_directory.absolute())
    )
    return RaySelector(actor, config.deadline_s)
