"""Rollouts from the pool, in an order that timing cannot change; and counts of them for who only wants to know."""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import Chunk, GenerateRequest, Sampling
from gps_ray.loop.evaluation import Counts, collect_counts
from gps_ray.loop.guards import check_verdicts
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.ports import RolloutPool

__all__ = ["Sampler", "sorted_chunks"]


async def sorted_chunks(pool: RolloutPool, request: GenerateRequest) -> list[Chunk]:
    """All chunks of a request by position in the selection, whichever was finished first."""
    chunks = [chunk async for chunk in pool.generate(request)]
    return sorted(chunks, key=lambda chunk: chunk.header.chunk_id)


class Sampler:
    """Counts of responses under the weights that the pool serves. Such rollouts enter neither history nor training."""

    def __init__(self, pool: RolloutPool, ledger: Ledger, max_failed_share: float) -> None:
        self._pool = pool
        self._ledger = ledger
        self._max_failed_share = max_failed_share

    async def counts(
        self,
        stream: str,
        phase: str,
        prompt_ids: tuple[str, ...],
        num_rollouts: int,
        sampling: Sampling,
        policy_version: int,
        suite: str = "",
        with_answers: bool = False,
    ) -> Counts:
        """``num_rollouts`` per prompt, drawn under the key ``stream`` and charged to ``phase``; ``suite`` and
        ``with_answers`` as in the request.

        Raises RolloutError where too many of them have no verdict.
        """
        request = GenerateRequest(
            step=policy_version + 1,
            stream=stream,
            prompt_ids=prompt_ids,
            num_rollouts=np.full(len(prompt_ids), num_rollouts, dtype=np.int32),
            policy_version=policy_version,
            sampling=sampling,
            suite=suite,
            with_answers=with_answers,
        )
        headers = [chunk.header for chunk in await sorted_chunks(self._pool, request)]
        self._ledger.charge_rollouts(phase, headers)
        check_verdicts(headers, self._max_failed_share, f"{stream} of policy version {policy_version}")
        return collect_counts(prompt_ids, headers, num_rollouts)
