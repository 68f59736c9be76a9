"""Spend test-time samples where they pay: ``gps-ray allocate --static``, and ``--run`` on the models of finished runs.

``python -m jobs.allocate --run RUN_DIR [RUN_DIR ...] --out DIR`` samples the policies of finished runs on held-out
prompts, with the predictors that chose their training prompts. DIR/allocate.json holds what every allocator
solves, DIR/allocate.html shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_ray.allocation.comparison import AllocationSettings, Comparison
from gps_ray.integrations.commands import allocate
from jobs.cli import run_job


def main(argv: Sequence[str]) -> int:
    return allocate.main(argv, _on_run)


def _on_run(run: Path, settings: AllocationSettings, sampled_file: Path) -> Comparison:
    from actors.allocating import allocate_on_run  # recorded outcomes need no Ray

    return allocate_on_run(run, settings, sampled_file)


if __name__ == "__main__":
    run_job(main)
