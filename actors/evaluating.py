"""Evaluate a model folder on the evaluation set with the rollout-worker pool; no learner, no selector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import WorkerSpec
from actors.warm_start_trainer import ensure_model
from gps_ray.base.types import GenerateRequest, Prompt, Sampling
from gps_ray.config import TrainConfig
from gps_ray.loop.evaluation import Counts, collect_counts, evaluation_metrics
from gps_ray.loop.plan import chat_format

__all__ = ["count_responses", "evaluate_model"]


def evaluate_model(config: TrainConfig, prompts: Sequence[Prompt]) -> dict[str, float]:
    """``val/...`` metrics of ``model.path`` (or of the warm-started embedded model) on the given prompts."""
    sampling = config.evaluation_sampling
    counts = count_responses(config, prompts, config.evaluation.rollouts_per_prompt, "evaluation", sampling)
    return evaluation_metrics(counts.num_right, counts.num_tried, counts.num_failed, [p.level for p in prompts])


def count_responses(
    config: TrainConfig, prompts: Sequence[Prompt], rollouts_per_prompt: int, stream: str, sampling: Sampling
) -> Counts:
    """Verdicts on so many responses of that model to each prompt, drawn under the key ``stream``."""
    spec = WorkerSpec(
        rollout=config.rollout,
        model_directory=ensure_model(config),
        dtype=config.model.dtype,
        task=config.data.task,
        task_options=config.data.task_options,
        run_seed=config.run.seed,
        chat=chat_format(config.data, config.run.date),
    )
    request = GenerateRequest(
        step=0,
        stream=stream,
        prompt_ids=tuple(p.prompt_id for p in prompts),
        num_rollouts=np.full(len(prompts), rollouts_per_prompt, np.int32),
        policy_version=0,
        sampling=sampling,
    )

    async def whole() -> Counts:
        pool = RayRolloutPool(stream, spec, {p.prompt_id: p for p in prompts})
        try:
            await pool.start()
            await pool.serve_model_directory()
            chunks = [chunk async for chunk in pool.generate(request)]
            return collect_counts(request.prompt_ids, [chunk.header for chunk in chunks])
        finally:
            pool.close()

    return asyncio.run(whole())
