"""The runs of a comparison, side by side as far as the connected cluster goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray

from actors.signals import stopping_on_signals
from actors.training import prepare, train
from actors.warm_start_trainer import ensure_model
from gps_ray.base.concurrency import gather_or_cancel
from gps_ray.config import TrainConfig
from gps_ray.loop.breaks import RunStopped, StopRequest
from gps_ray.loop.plan import check_data
from gps_ray.loop.ports import ProgressSink
from gps_ray.loop.resources import num_runs_at_once
from gps_ray.run.progress import PlainLines
from gps_ray.study.arms import is_left, run_config
from gps_ray.tasks.dataset import DataSets

__all__ = ["run_comparison"]


def run_comparison(
    arms: Mapping[str, TrainConfig],
    seeds: Sequence[int],
    directory: Path,
    sink: Callable[[str, int, TrainConfig], ProgressSink],
    *,
    serial: bool = False,
) -> dict[str, dict[int, Path]]:
    """Run folders by arm and seed. What is finished stays, what was begun goes on.

    All runs share data, model and warm start; seeds are matched, so that differences can be paired. ``sink`` makes the
    display of one run, from its arm's name, its seed and its config. ``serial`` makes one run after the other,
    for wall-clock figures. Where a run fails the others are stopped, and go on from their checkpoints next time.
    """
    runs = {(name, seed): run_config(arm, name, seed, directory) for seed in seeds for name, arm in arms.items()}
    left = {key: run for key, run in runs.items() if is_left(run)}
    if left:
        first, data = prepare(next(iter(left.values())))
        for run in left.values():
            check_data(run, data)
        cluster = ray.cluster_resources()
        at_once = 1 if serial else min(num_runs_at_once(run, cluster) for run in left.values())
        with PlainLines("warm start") as lines:
            model_directory = ensure_model(first, lines.warm_start)
        asyncio.run(_train_all(left, data, model_directory, at_once, sink))
    return {name: {seed: runs[name, seed].run.directory for seed in seeds} for name in arms}


async def _train_all(
    runs: Mapping[tuple[str, int], TrainConfig],
    data: DataSets,
    model_directory: Path | None,
    at_once: int,
    sink: Callable[[str, int, TrainConfig], ProgressSink],
) -> None:
    gate, stop = asyncio.Semaphore(at_once), StopRequest()
    stopped: list[RunStopped] = []

    async def one(name: str, seed: int, run: TrainConfig) -> None:
        async with gate:
            if stop.reason:
                return
            sinks = [sink(name, seed, run)]
            try:
                await train(run, data, model_directory, f"{name}/seed_{seed}", stop, resume=True, sinks=sinks)
            except RunStopped as error:  # the others have their own step to end
                stopped.append(error)

    with stopping_on_signals(stop, next(iter(runs.values())).run):
        await gather_or_cancel(*(one(name, seed, run) for (name, seed), run in runs.items()))
    if stopped:
        raise stopped[0]
