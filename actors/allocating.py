"""Sample a finished run's policy on prompts it has never seen, and compare allocators on what comes."""

from __future__ import annotations

from pathlib import Path

from actors.cluster import cluster_for
from actors.evaluating import count_responses
from actors.training import prepare
from gps_ray.allocation.comparison import AllocationSettings, Comparison
from gps_ray.allocation.from_run import compare_on_run, fully_judged
from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config
from gps_ray.predictor.recorded import RecordedOutcomes, write_recorded
from gps_ray.run.folder import RunFolder
from gps_ray.run.outcomes import read_outcomes

__all__ = ["allocate_on_run"]


def allocate_on_run(directory: Path, settings: AllocationSettings, sampled_file: Path) -> Comparison:
    """Every evaluation and held-out probe prompt is sampled ``settings.maximum`` times with the run's final model.

    The counts go to ``sampled_file`` (Parquet, as ``--static`` reads it); the predictor is that of the run. Prompts
    that lack a verdict are left out, which is printed.
    """
    folder = RunFolder(directory.absolute())
    if not (folder.final_model / "config.json").exists():
        raise ConfigError(f"--run: {directory} holds no finished run (no final_model); give a run that has ended")
    overrides = [f"model.path={folder.final_model}"]
    config, data = prepare(load_config(TrainConfig, folder.config, overrides))
    prompts = [*data.evaluation, *data.heldout_probe]
    with cluster_for(config):
        counts = count_responses(config, prompts, settings.maximum, "allocation", config.rollout_sampling)
    recorded = RecordedOutcomes(
        prompts=tuple(prompt.text for prompt in prompts), num_right=counts.num_right, num_tried=counts.num_tried
    )
    kept = fully_judged(recorded, settings.maximum)
    if len(kept) < len(prompts):
        print(
            f"{directory}: {len(prompts) - len(kept)} of {len(prompts)} prompts lack a verdict and are left out",
            flush=True,
        )
    recorded = recorded.take(kept)
    write_recorded(recorded, sampled_file)
    outcomes = read_outcomes(folder.outcomes)
    print(f"{directory}: sampled; its predictor now learns from the run's {len(outcomes)} groups once more", flush=True)
    import torch

    # As the run's selector had it: the number decides the last bits, and more than a small network can use only wait.
    torch.set_num_threads(config.selection.num_threads)
    return compare_on_run(
        pool=data.pool,
        prompts=[prompts[row] for row in kept],
        outcomes=outcomes,
        recorded=recorded,
        selection=config.selection,
        settings=settings,
        run_seed=config.run.seed,
        group_size=config.rollout.group_size,
    )
