"""The oracle's look at its candidates, around the selector port: nobody else knows of it.

The one selector that must see the new weights. Its candidates are rolled out once beforehand, it is told how often they
were solved, and those rollouts are thrown away: they count as ``cost/*_oracle``, never in the totals, and reports say
so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gps_ray.base.concurrency import Milestone
from gps_ray.base.types import Chunk, ObserveResult, PosteriorMoments, Sampling, Selection, SelectionRequest
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.ports import SelectorPort
from gps_ray.loop.sampling import Sampler

__all__ = ["OracleLook"]


class OracleLook:
    """A selector port whose ``select`` first finds out the success rates of ``candidates(request)`` under the weights
    of the step, once the pool serves them."""

    def __init__(
        self,
        selector: SelectorPort,
        candidates: Callable[[SelectionRequest], Sequence[str]],
        sampler: Sampler,
        served: Milestone,
        ledger: Ledger,
        phase: Callable[[str], None],
        sampling: Sampling,
    ) -> None:
        """``served``: the policy version that the pool serves. ``phase`` tells who watches the run."""
        self._selector = selector
        self._candidates = candidates
        self._sampler = sampler
        self._served = served
        self._ledger = ledger
        self._phase = phase
        self._sampling = sampling

    async def select(self, request: SelectionRequest) -> Selection:
        version = request.step - 1
        await self._served.reached(version)
        self._phase("oracle")
        start = time.perf_counter()
        prompt_ids = tuple(self._candidates(request))
        seen = await self._sampler.counts("oracle", "oracle", prompt_ids, request.group_size, self._sampling, version)
        # A prompt without any verdict could be anything.
        rates = {
            prompt_id: num_right / num_tried if num_tried else 0.5
            for prompt_id, num_right, num_tried in zip(
                prompt_ids, seen.num_right.tolist(), seen.num_tried.tolist(), strict=True
            )
        }
        selection = await self._selector.select(replace(request, success_rates=rates))
        self._ledger.leave_out(time.perf_counter() - start)
        return selection

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        return await self._selector.observe(step, chunks, selections)

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        return await self._selector.predict(prompt_ids)

    async def save(self, directory: Path) -> None:
        await self._selector.save(directory)

    async def load(self, directory: Path) -> None:
        await self._selector.load(directory)
