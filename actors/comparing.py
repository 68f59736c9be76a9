"""The same run under several selectors and seeds, one after the other on the connected cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.training import prepare, run_training
from gps_ray.config import TrainConfig
from gps_ray.loop import ProgressSink
from gps_ray.plan import comparison_config
from gps_ray.run_folder import RunFolder

__all__ = ["run_comparison"]


def run_comparison(
    config: TrainConfig,
    selectors: Sequence[str],
    seeds: Sequence[int],
    directory: Path,
    sink: Callable[[TrainConfig], ProgressSink],
) -> dict[str, list[Path]]:
    """Run folders by selector, in the order of the seeds. What is finished stays, what was begun goes on.

    All runs share data, model and warm start; seeds are matched, so that differences can be paired. ``sink`` makes the
    display of one run.
    """
    folders: dict[str, list[Path]] = {selector: [] for selector in selectors}
    for seed in seeds:
        for selector in selectors:
            one, data = prepare(comparison_config(config, selector, seed, directory))
            if not RunFolder(one.run.directory).is_finished(one.run.num_steps):
                run_training(one, data, resume=True, sinks=[sink(one)])
            folders[selector].append(one.run.directory)
    return folders
