"""Rollout workers die or hang in the middle of a request: every prompt comes exactly once, with the same outcomes."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pyarrow as pa
import pytest
import ray

from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import WorkerSpec
from gps_ray.base.errors import RolloutError
from gps_ray.base.types import GenerateRequest, Prompt, PublishedWeights, Sampling
from gps_ray.config import TrainConfig, load_config
from gps_ray.weights.object_store import ObjectStorePayload

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("cluster")]

PROMPTS = {f"p{i:02d}": Prompt(prompt_id=f"p{i:02d}", text=f"text {i}", answer="right", task="t") for i in range(12)}


def _config(*overrides: str) -> TrainConfig:
    base = ("rollout.engine=simulated", "rollout.prompts_per_chunk=1", "rollout.simulated.latency_s=0.5")
    return load_config(TrainConfig, None, (*base, *overrides))


def _generate(config: TrainConfig, strike: signal.Signals | None) -> tuple[list[tuple[str, ...]], pa.Table, float]:
    """Prompts by chunk, outcomes, restarts; after the first chunk worker 0 is struck."""
    spec = WorkerSpec(rollout=config.rollout, model_directory=None, dtype="float32", task="countdown", run_seed=0)
    request = GenerateRequest(
        step=1,
        stream="rollout",
        prompt_ids=tuple(PROMPTS),
        num_rollouts=np.full(len(PROMPTS), 8, np.int32),
        policy_version=3,
        sampling=Sampling(temperature=1.0, max_response_tokens=4),
    )

    async def whole() -> tuple[list[tuple[str, ...]], pa.Table, float]:
        pool = RayRolloutPool("faults", spec, PROMPTS)
        seen: list[str] = []
        pool.when_workers_change(lambda: seen.append(pool.workers()[0].state))
        try:
            await pool.start()
            await pool.load_weights(PublishedWeights(policy_version=3, payload=ray.put(ObjectStorePayload(arrays={}))))
            pid = await asyncio.wrap_future(pool._slots[0].worker.actor.ready.remote().future())
            chunks = []
            async for chunk in pool.generate(request):
                chunks.append(chunk)
                if len(chunks) == 1 and strike is not None:
                    os.kill(pid, strike)
            chunks.sort(key=lambda chunk: chunk.header.chunk_id)
            # The pool is whole again for the next version, the replacement included. While it loads, as when a step's
            # metrics are read, the metric tells who served the step.
            weights = PublishedWeights(policy_version=4, payload=ray.put(ObjectStorePayload(arrays={})))
            loading = asyncio.ensure_future(pool.load_weights(weights))
            await asyncio.sleep(0)
            assert pool._dispatcher.num_healthy == 0
            assert pool.metrics()["rollout/num_healthy_workers"] in ((2,) if strike is None else (1, 2))
            await loading
            assert pool._dispatcher.num_healthy == 2
            workers = pool.workers()
            assert {worker.state for worker in workers} == {"healthy"}
            assert sum(worker.num_restarts for worker in workers) == pool.metrics()["rollout/num_restarts"]
            assert any(worker.tokens_per_s for worker in workers)
            if strike is not None:  # told when it was given up, and when the one in its place served
                assert (seen[0], seen[-1]) == ("dead", "healthy")
            tables = [ray.get(chunk.outcomes) for chunk in chunks]
            return (
                [c.header.prompt_ids for c in chunks],
                pa.concat_tables(tables),
                pool.metrics()["rollout/num_restarts"],
            )
        finally:
            pool.close()

    return asyncio.run(whole())


def test_a_killed_worker_is_replaced_and_changes_nothing() -> None:
    prompts, outcomes, restarts = _generate(_config(), None)
    assert prompts == [(prompt_id,) for prompt_id in PROMPTS]
    assert restarts == 0
    assert _generate(_config(), signal.SIGKILL) == (prompts, outcomes, 1)


def test_a_stopped_worker_overruns_its_deadline_and_is_replaced() -> None:
    config = _config("rollout.chunk_deadline_s=8")
    prompts, outcomes, restarts = _generate(config, signal.SIGSTOP)
    assert restarts >= 1
    assert (prompts, outcomes) == _generate(config, None)[:2]


def test_a_chunk_that_costs_every_worker_is_an_error_that_names_the_keys() -> None:
    with pytest.raises(RolloutError, match=r"rollout\.max_chunk_attempts"):
        _generate(_config("rollout.max_chunk_attempts=1"), signal.SIGKILL)
