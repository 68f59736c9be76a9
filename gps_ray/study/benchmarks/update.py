"""``jobs.bench update``: an update with prompts shared by the rollouts of a group, and one with a copy for each.

Both learners start from the same model, take the same groups by turns, and must give the same losses. Tokens are
random: an update costs the same whatever they say.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import rollouts_to_table
from gps_ray.base.types import FloatArray
from gps_ray.config import LearningConfig
from gps_ray.learning.learner import Learner
from gps_ray.model import load_model
from gps_ray.study.benchmarks.groups import half_right
from gps_ray.study.benchmarks.rollout import model_folder

__all__ = ["add_arguments", "run"]

_COPIES, _SHARED = "a copy each", "shared"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lengths", nargs="+", default=["12x8", "100x40", "40x100"], help="prompt tokens x longest response"
    )
    parser.add_argument("--num-prompts", type=int, default=16, help="groups of an update, all with a gradient")
    parser.add_argument("--group-size", type=int, default=8, help="rollouts per prompt")
    parser.add_argument("--max-shared-prompt-tokens", type=int, default=512, help="the config key of this name")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are medians")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--model", type=Path, default=None, help="Hugging Face folder; default: the embedded model")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Two rows per lengths. ``cpu_ratio``: CPU-seconds over those with copies."""
    lengths = [_lengths(text) for text in args.lengths]
    with model_folder(args) as directory:
        vocabulary = load_model(directory).get_input_embeddings().num_embeddings
        rows = [row for case in lengths for row in _case(args, directory, vocabulary, *case)]
    return {
        "benchmark": "update",
        "num_prompts": args.num_prompts,
        "group_size": args.group_size,
        "num_threads": args.num_threads,
        "repeats": args.repeats,
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


def _lengths(text: str) -> tuple[int, int]:
    prompt, _, response = text.partition("x")
    if not (prompt.isdecimal() and response.isdecimal() and int(prompt) and int(response)):
        raise ConfigError(f"--lengths: expected prompt x response tokens like 100x40, got {text}")
    return int(prompt), int(response)


def _case(
    args: argparse.Namespace, directory: Path, vocabulary: int, num_prompt: int, num_response: int
) -> list[dict[str, Any]]:
    table, prompt_ids = _groups(args, vocabulary, num_prompt, num_response)
    learners = {
        name: Learner(
            directory,
            LearningConfig(max_shared_prompt_tokens=max_tokens, num_threads=args.num_threads),
            dtype="float32",
            temperature=1.0,
            max_response_tokens=num_response,
            num_steps=args.repeats + 1,
        )
        for name, max_tokens in ((_COPIES, 0), (_SHARED, args.max_shared_prompt_tokens))
    }
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in learners}
    for _ in range(args.repeats + 1):
        for name, learner in learners.items():
            start = time.perf_counter()
            updated = learner.update([table], prompt_ids)
            seconds[name].append((time.perf_counter() - start, updated.cpu_s, updated.metrics["train/loss"]))
    return _rows(f"{num_prompt}x{num_response}", {name: np.array(turns) for name, turns in seconds.items()})


def _rows(lengths: str, turns: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    """turns [repeats + 1, 3]: wall seconds, CPU-seconds, loss; the first warms up and counts for the loss alone."""
    medians = {name: np.median(values[1:, :2], axis=0) for name, values in turns.items()}
    difference = np.abs(turns[_SHARED][:, 2] - turns[_COPIES][:, 2]).max()
    return [
        {
            "lengths": lengths,
            "prompts": name,
            "update_s": round(float(wall), 4),
            "cpu_s": round(float(cpu), 4),
            "cpu_ratio": round(float(cpu / medians[_COPIES][1]), 3),
            "max_loss_difference": float(difference),
            "cpu_s_by_turn": turns[name][1:, 1].round(4).tolist(),
        }
        for name, (wall, cpu) in medians.items()
    ]


def _groups(
    args: argparse.Namespace, vocabulary: int, num_prompt: int, num_response: int
) -> tuple[pa.Table, tuple[str, ...]]:
    """Responses of one token up to ``num_response``, every other one right."""
    rng = generator(0, "bench/update")
    groups = []
    for i in range(args.num_prompts):
        prompt = rng.integers(0, vocabulary, num_prompt).astype(np.int32)
        lengths = rng.integers(1, num_response, args.group_size, endpoint=True)
        responses = [
            (
                rng.integers(0, vocabulary, length).astype(np.int32),
                np.full(length, -np.log(vocabulary), dtype=np.float32),
            )
            for length in lengths.tolist()
        ]
        groups.append(half_right(f"p{i}", prompt, responses))
    return rollouts_to_table(groups), tuple(group.outcome.prompt_id for group in groups)
