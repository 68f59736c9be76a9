"""``jobs.bench memory_plan``: what a train worker really takes at its peak, beside what the plan says.

Each micro-batch size runs two updates of the real learner in a process of its own; the peak is that of the resident
set, in which torch's libraries and gaps count, as they do in the plan.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["add_arguments", "run"]

_GROUP_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--microbatch-tokens", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--response-tokens", type=int, default=192)
    parser.add_argument("--num-threads", type=int, default=2)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows by micro-batch size, without and with activation checkpointing, in GiB."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for checkpointing in (False, True):
        for size in args.microbatch_tokens:
            with context.Pool(1) as pool:
                rows.append(pool.apply(_measure, (vars(args), size, checkpointing)))
    return {
        "benchmark": "memory_plan",
        "model": args.model.name,
        "num_threads": args.num_threads,
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


def _measure(settings: dict[str, Any], size: int, checkpointing: bool) -> dict[str, Any]:
    from gps_ray.base.tables import rollouts_to_table
    from gps_ray.config import TrainConfig, load_config
    from gps_ray.learning.learner import Learner
    from gps_ray.loop.memory_plan import memory_plan
    from gps_ray.model.model_facts import model_facts
    from gps_ray.study.benchmarks.groups import half_right

    model, prompt, response = (settings[name] for name in ("model", "prompt_tokens", "response_tokens"))
    # As many groups as fill two micro-batches.
    num_prompts = max(2, 2 * size // (_GROUP_SIZE * (prompt + response)))
    overrides = [
        f"model.path={model}",
        f"rollout.max_response_tokens={response}",
        f"rollout.group_size={_GROUP_SIZE}",
        f"selection.num_prompts={num_prompts}",
        f"learning.microbatch_tokens={size}",
        f"learning.activation_checkpointing={str(checkpointing).lower()}",
        f"learning.num_threads={settings['num_threads']}",
        "learning.num_minibatches=1",
        "learning.max_shared_prompt_tokens=0",
        "learning.learning_rate=1e-6",
    ]
    config = load_config(TrainConfig, None, overrides)
    plan = memory_plan(config, prompt)
    assert plan is not None  # only the embedded model has none
    learner = Learner(
        model, config.learning, dtype=config.model.dtype, temperature=1.0, max_response_tokens=response, num_steps=10
    )
    rng, vocabulary = np.random.default_rng(0), model_facts(model).vocabulary

    def drawn(num: int) -> Any:
        return rng.integers(0, vocabulary, num).astype(np.int32)

    groups = [
        half_right(
            f"p{i}",
            drawn(prompt),
            [(drawn(response), np.full(response, -10.0, np.float32)) for _ in range(_GROUP_SIZE)],
        )
        for i in range(num_prompts)
    ]
    table = rollouts_to_table(groups)
    for _ in range(2):  # the second has gradients from its beginning
        learner.update([table], [group.outcome.prompt_id for group in groups])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    planned = plan.processes[0].num_bytes / 2**30
    return {
        "microbatch_tokens": size,
        "activation_checkpointing": checkpointing,
        "peak_gib": round(peak, 2),
        "planned_gib": round(planned, 2),
        "planned_over_peak": round(planned / peak, 3),
    }
