"""``jobs.bench start``: what a large pool costs before the first step, from a file and a cold cache to the first batch.

A Parquet file of made maths questions is written first, in a process of its own, so that its memory does not count.
The phases are those of a run's driver and selector: read and check the file, embed the texts, build the selector,
select.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Prompt, SelectionRequest
from gps_ray.config import DataConfig, FeaturesConfig, SelectionConfig
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.selection.registry import build_selector, resolve_selection
from gps_ray.tasks.dataset import load_data, prompt_id, write_prompts

__all__ = ["add_arguments", "run"]

_GROUP_SIZE = 8
_NOUNS = ("triangle", "sequence", "polynomial", "integer", "circle", "matrix", "fraction", "train", "garden", "player")
_VERBS = ("has", "meets", "divides", "crosses", "contains", "covers", "exceeds", "equals", "leaves", "reaches")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-prompts", type=int, default=100_000)
    parser.add_argument("--selector", default="gps_fused")
    parser.add_argument("--batch", type=int, default=256)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row per phase: wall seconds, CPU seconds, the peak of the process's memory after it in MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        writer = multiprocessing.get_context("spawn").Process(target=_write, args=(folder, args.num_prompts))
        writer.start()
        writer.join()
        data = DataConfig(task="math", pool_file=folder / "pool.parquet", evaluation_file=folder / "evaluation.parquet")
        config = resolve_selection(
            SelectionConfig(
                selector=args.selector,
                num_prompts=args.batch,
                features=FeaturesConfig(cache_directory=folder / "features"),
            )
        )
        rows: list[dict[str, Any]] = []
        sets = _phase(rows, "read and check", lambda: load_data(data, 256))
        table = _phase(rows, "embed", lambda: build_prompt_table(sets.pool, (), config.features))
        selector = _phase(rows, "build the selector", lambda: build_selector(config, table, _GROUP_SIZE, 0))
        request = SelectionRequest(step=1, round=0, num_prompts=args.batch, group_size=_GROUP_SIZE)
        _phase(rows, "first selection", lambda: selector.select(request))
    total = {"case": "all", "s": sum(row["s"] for row in rows), "cpu_s": sum(row["cpu_s"] for row in rows)}
    return {
        "benchmark": "start",
        "num_prompts": args.num_prompts,
        "selector": args.selector,
        "num_cpus": os.cpu_count(),
        "rows": [*rows, total | {"peak_mib": rows[-1]["peak_mib"]}],
    }


def _phase(rows: list[dict[str, Any]], name: str, function: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(
        {
            "case": name,
            "s": round(time.perf_counter() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "peak_mib": round(peak),
        }
    )
    print(f"{name}: {rows[-1]['s']:g} s, peak {rows[-1]['peak_mib']} MiB", flush=True)
    return result


def _write(folder: Path, num_prompts: int) -> None:
    rng = generator(0, "bench/start")
    write_prompts(folder / "pool.parquet", (_made(rng, index) for index in range(num_prompts)))
    write_prompts(folder / "evaluation.parquet", (_made(rng, -1 - index) for index in range(256)))


def _made(rng: Any, index: int) -> Prompt:
    """A question of 20 to 80 words, as long as those of usual maths sets, with a number of its own."""
    words = [f"Problem {index}:"]
    for _ in range(int(rng.integers(4, 16))):
        noun, other, verb = rng.choice(_NOUNS), rng.choice(_NOUNS), rng.choice(_VERBS)
        words.append(f"a {noun} of {rng.integers(1000)} {verb} the {other} at ${rng.integers(100)}x^{rng.integers(9)}$")
    text, answer = f"{' '.join(words)}. Find the number.", str(rng.integers(10_000))
    return Prompt(prompt_id=prompt_id("math", text, answer), text=text, answer=answer, task="math")
