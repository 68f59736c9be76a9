"""Evaluate a model folder with the rollout-worker pool; no learner, no selector."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from actors.rollout_pool import RayRolloutPool
from actors.training import try_suites, worker_spec
from actors.warm_start_trainer import ensure_model
from gps_ray.base.types import ChunkHeader, GenerateRequest, Prompt, Sampling
from gps_ray.config import TrainConfig
from gps_ray.loop.evaluation import Counts, collect_counts
from gps_ray.loop.plan import chat_format, prompt_limit, resolve, with_folder
from gps_ray.loop.presets import presets
from gps_ray.loop.suites import Suite, extra_suites, main_suite, read_suites
from gps_ray.model.fingerprint import model_fingerprint
from gps_ray.run.evaluation_cache import EvaluationCache, chunk_key
from gps_ray.study.evaluation import SuiteResult
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.registry import load_task
from gps_ray.tasks.verifier_identity import verifier_identity

__all__ = ["count_responses", "evaluate_model", "prepare_evaluation"]


def prepare_evaluation(config: TrainConfig) -> tuple[TrainConfig, tuple[Suite, ...]]:
    """What will be measured: the evaluation set of the data section and ``evaluation.suites``. No pool is read.

    The set of the data section is left out where it is neither a file nor all there is.
    """
    config = with_folder(config)
    for preset in presets(config):
        print(preset, flush=True)
    config = resolve(config)
    suites = extra_suites(config, read_suites(config, (), prompt_limit(config)))
    # The evaluation set alone: what there is to train on is none of this job's business.
    alone = config.data.model_copy(update={"pool_file": None, "train": (), "heldout_probe_file": None})
    if alone.has_sources or not suites:
        data = load_data(alone, 0, prompt_limit(config))
        for note in data.notes:
            print(note, flush=True)
        suites = (main_suite(config, data.evaluation), *suites)
    try_suites(config, suites)
    return config, suites


def evaluate_model(config: TrainConfig, suites: Sequence[Suite], cache: EvaluationCache) -> dict[str, SuiteResult]:
    """What ``model.path`` (or the warm-started embedded model) does on each suite, by name.

    Chunks that the cache holds are not made again; each new one is kept as soon as it is there.
    """
    directory = ensure_model(config)
    model = model_fingerprint(directory) if directory is not None else "simulated"
    facts = {suite.name: _facts(config, suite, model, cache) for suite in suites}
    spec = worker_spec(config, directory, suites, cache.date)
    main = {p.prompt_id: p for suite in suites if not suite.key for p in suite.prompts}
    size = config.rollout.prompts_per_dispatch

    async def whole() -> dict[str, SuiteResult]:
        pool: RayRolloutPool | None = None
        results = {}
        try:
            for suite in suites:
                parts = [suite.prompts[i : i + size] for i in range(0, len(suite.prompts), size)]
                keys = [chunk_key(facts[suite.name], part) for part in parts]
                found = [cache.find(key) for key in keys]
                missing = [i for i, header in enumerate(found) if header is None]
                print(f"{suite.name}: {len(suite.prompts)} prompts, {len(missing)} of {len(parts)} chunks to make")
                if missing and pool is None:
                    pool = RayRolloutPool("evaluation", spec, main, suites)
                    await pool.start()
                    await pool.serve_model_directory()
                if missing and pool is not None:
                    async for i, header in _made(pool, suite, parts, missing):
                        cache.add(keys[i], header)
                        found[i] = header
                headers = [header for header in found if header is not None]
                results[suite.name] = SuiteResult.of(suite, headers, num_cached=len(parts) - len(missing))
            return results
        finally:
            if pool is not None:
                pool.close()

    return asyncio.run(whole())


async def _made(pool: RayRolloutPool, suite: Suite, parts: Sequence[Sequence[Prompt]], missing: Sequence[int]) -> Any:
    """(number of the part, its header) as they are made. All parts but the last have the same size, so the pool cuts
    those that are missing where they were cut before."""
    prompts = [prompt for i in missing for prompt in parts[i]]
    request = GenerateRequest(
        step=0,
        stream=suite.stream,
        prompt_ids=tuple(p.prompt_id for p in prompts),
        num_rollouts=np.full(len(prompts), suite.rollouts_per_prompt, np.int32),
        policy_version=0,
        sampling=suite.sampling,
        num_samples_kept=len(prompts),
        suite=suite.key,
        with_answers=True,
    )
    async for chunk in pool.generate(request):
        yield missing[chunk.header.chunk_id], chunk.header


def _facts(config: TrainConfig, suite: Suite, model: str, cache: EvaluationCache) -> dict[str, Any]:
    """All that decides a suite's responses and verdicts, but for the prompts."""
    rollout = config.rollout
    verifier = verifier_identity(load_task(suite.task, suite.task_options))
    return {
        "model": model,
        "dtype": config.model.dtype,
        "seed": config.run.seed,
        "engine": [rollout.engine, rollout.num_threads, rollout.num_gpus_per_worker > 0],
        "engine_settings": rollout.vllm.model_dump(mode="json") if rollout.engine == "vllm" else {},
        "simulated": rollout.simulated.model_dump(mode="json") if rollout.engine == "simulated" else {},
        "chat": asdict(chat_format(config.data, config.run.date or cache.date)),
        "stream": suite.stream,
        "sampling": asdict(suite.sampling),
        "rollouts": suite.rollouts_per_prompt,
        "verifier": [suite.task, dict(suite.task_options), verifier],
        "limits": [rollout.verify_deadline_s, rollout.verify_memory_bytes],
    }


def count_responses(
    config: TrainConfig, prompts: Sequence[Prompt], rollouts_per_prompt: int, stream: str, sampling: Sampling
) -> Counts:
    """Verdicts on so many responses of that model to each prompt, drawn under the key ``stream``."""
    spec = worker_spec(config, ensure_model(config))
    request = GenerateRequest(
        step=0,
        stream=stream,
        prompt_ids=tuple(p.prompt_id for p in prompts),
        num_rollouts=np.full(len(prompts), rollouts_per_prompt, np.int32),
        policy_version=0,
        sampling=sampling,
    )

    async def whole() -> list[ChunkHeader]:
        by_id: Mapping[str, Prompt] = {p.prompt_id: p for p in prompts}
        pool = RayRolloutPool(stream, spec, by_id)
        try:
            await pool.start()
            await pool.serve_model_directory()
            return [chunk.header async for chunk in pool.generate(request)]
        finally:
            pool.close()

    return collect_counts(request.prompt_ids, asyncio.run(whole()), rollouts_per_prompt)
