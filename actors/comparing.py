"""The same run under several selectors and seeds, side by side as far as the connected cluster goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import ray

from actors.training import prepare, train
from actors.warm_start_trainer import ensure_model
from gps_ray.concurrency import together
from gps_ray.config import TrainConfig
from gps_ray.loop import ProgressSink
from gps_ray.plan import comparison_config, resolve
from gps_ray.resources import num_runs_at_once
from gps_ray.run_folder import RunFolder
from gps_ray.tasks.dataset import DataSets

__all__ = ["run_comparison"]


def run_comparison(
    config: TrainConfig,
    selectors: Sequence[str],
    seeds: Sequence[int],
    directory: Path,
    sink: Callable[[TrainConfig], ProgressSink],
    *,
    serial: bool = False,
) -> dict[str, dict[int, Path]]:
    """Run folders by selector and seed. What is finished stays, what was begun goes on.

    All runs share data, model and warm start; seeds are matched, so that differences can be paired. ``sink`` makes the
    display of one run. ``serial`` makes one run after the other, for wall-clock figures. Where a run fails the others
    are stopped, and go on from their checkpoints next time.
    """
    _, data = prepare(config)
    runs = [resolve(comparison_config(config, selector, seed, directory)) for seed in seeds for selector in selectors]
    left = [run for run in runs if not RunFolder(run.run.directory).is_finished(run.run.num_steps)]
    if left:
        at_once = 1 if serial else num_runs_at_once(config, ray.cluster_resources())
        asyncio.run(_train_all(left, data, ensure_model(config), at_once, sink))
    return {
        selector: {run.run.seed: run.run.directory for run in runs if run.selection.selector == selector}
        for selector in selectors
    }


async def _train_all(
    runs: Sequence[TrainConfig],
    data: DataSets,
    model_directory: Path | None,
    at_once: int,
    sink: Callable[[TrainConfig], ProgressSink],
) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(run: TrainConfig) -> None:
        async with gate:
            name = f"{run.selection.selector}/seed_{run.run.seed}"
            await train(run, data, model_directory, name, resume=True, sinks=[sink(run)])

    await together(*(one(run) for run in runs))
