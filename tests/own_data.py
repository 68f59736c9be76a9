"""A run on data and a verifier of a user's own: a folder with a file of theirs, a tiny model, and two Parquet files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import make_embedded_model
from tests.processes import ROOT, Head, job_environment

__all__ = ["copy_project", "make_own_model", "run_own_job", "user_environment", "write_own_data"]


def make_own_model(directory: Path, max_position_embeddings: int = 128) -> Path:
    """A folder of a model that says random numbers."""
    config = EmbeddedModelConfig(
        num_layers=1, hidden_size=32, num_heads=2, max_position_embeddings=max_position_embeddings
    )
    make_embedded_model(config, [str(number) for number in range(20)], directory)
    return directory


def copy_project(folder: Path) -> None:
    """What a user's folder holds of ours: `actors` and `jobs` are found where a job is started, or shipped with it."""
    for package in ("gps_ray", "actors", "jobs"):
        shutil.copytree(ROOT / package, folder / package)


def write_own_data(folder: Path, num_pool: int = 16, num_evaluation: int = 8) -> None:
    """``pool.parquet`` and ``evaluation.parquet``."""
    rows = [
        {"data_source": "own", "prompt": f"{number} {number + 1}", "reward_model": {"ground_truth": str(number)}}
        for number in range(num_pool + num_evaluation)
    ]
    pq.write_table(pa.Table.from_pylist(rows[:num_pool]), folder / "pool.parquet")
    pq.write_table(pa.Table.from_pylist(rows[num_pool:]), folder / "evaluation.parquet")


def user_environment(head: Head | None = None) -> dict[str, str]:
    """Of somebody with the environment active, in a folder of their own."""
    environment = job_environment() if head is None else head.environment
    path = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"} | {"PATH": path}


def run_own_job(folder: Path, *overrides: str, head: Head | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m jobs.train`` in ``folder``: a few steps, one small engine, no probes, nothing but what was given."""
    arguments = [
        "model.path=model",
        "data.pool_file=pool.parquet",
        "data.evaluation_file=evaluation.parquet",
        "selection.selector=uniform",
        "selection.num_prompts=4",
        "rollout.num_workers=1",
        "rollout.num_verifiers=1",
        "rollout.max_response_tokens=8",
        "rollout.verify_deadline_s=60",
        "learning.num_threads=1",
        "evaluation.num_probe_prompts=0",
        "evaluation.rollouts_per_prompt=4",
        "run.num_steps=3",
        "run.directory=run",
        "run.max_idle_steps=null",
        "cluster.local_dashboard=false",
        *overrides,
    ]
    return subprocess.run(
        [sys.executable, "-m", "jobs.train", *arguments],
        cwd=folder,
        env=user_environment(head),
        capture_output=True,
        text=True,
        timeout=600,
    )
