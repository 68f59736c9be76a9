"""Wrong configs and wrong data: one clear line, exit code 2, nothing started."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from gps_ray.base.errors import GpsRayError
from jobs.train import main
from tests.processes import SMALL_RUN, run_code, run_job

pytestmark = pytest.mark.ray


def _files(tmp_path: Path, case: str) -> tuple[str, ...]:
    """A valid evaluation set and a pool that is broken in one way."""
    row = {
        "data_source": "countdown",
        "prompt": [{"role": "user", "content": "x"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "{}"},
        "extra_info": {"index": 0},
    }
    for name in ("pool", "evaluation"):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    pool = tmp_path / "pool.parquet"
    if case == "column":
        pq.write_table(pa.Table.from_pylist([row]).drop_columns(["reward_model"]), pool)
    elif case == "truncated":
        pool.write_bytes(pool.read_bytes()[:-40])
    return (f"data.pool_file={pool}", f"data.evaluation_file={tmp_path / 'evaluation.parquet'}")


CASES = {
    "unknown key": ["selection.selectr", "unknown key", "selector"],
    "unknown selector": ["selection.selector", "best", "uniform"],
    "B larger than the pool": ["selection.num_prompts", "300", "200"],
    "missing model folder": ["model.path", "no-such-folder"],
    "column": ["data.pool_file", "reward_model"],
    "truncated": ["data.pool_file", "pool.parquet"],
    "too few CPUs": ["rollout.num_workers", "needs", "CPU"],
    "existing run": ["run.directory", "--resume"],
}


def _arguments(tmp_path: Path, case: str) -> list[str]:
    run = tmp_path / "run"
    arguments = [*SMALL_RUN, f"run.directory={run}"]
    if case == "unknown key":
        arguments.append("selection.selectr=gps")
    elif case == "unknown selector":
        arguments.append("selection.selector=best")
    elif case == "B larger than the pool":
        arguments.append("selection.num_prompts=300")
    elif case == "missing model folder":
        arguments.append("model.path=no-such-folder")
    elif case == "too few CPUs":
        arguments.append("rollout.num_workers=1000")
    elif case == "existing run":
        (run / "checkpoints").mkdir(parents=True)
    else:
        arguments += _files(tmp_path, case)
    return arguments


@pytest.mark.parametrize(("case", "expected"), CASES.items())
def test_the_error_names_the_key_and_the_remedy(tmp_path: Path, case: str, expected: list[str]) -> None:
    arguments = _arguments(tmp_path, case)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GpsRayError) as caught:
        main(arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert not ray.is_initialized()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("train", *_arguments(tmp_path, "too few CPUs"), timeout_s=120)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: rollout.num_workers: the run needs 501 CPUs")


# Ray asks whether its node is there; here the answer is never yes, as on a machine that is too busy.
NODE_THAT_NEVER_COMES = """
import ray._private.services as services
def get_node(*arguments):
    raise RuntimeError("not there yet")
services.get_node = get_node
from jobs.cli import run_job
from jobs.train import main
run_job(main)
"""


@pytest.mark.slow
def test_a_local_ray_that_does_not_come_up_is_said_in_one_line(tmp_path: Path) -> None:
    settings = (*SMALL_RUN, f"run.directory={tmp_path / 'run'}", "cluster.local_dashboard=false")
    done = run_code(NODE_THAT_NEVER_COMES, *settings)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: cluster.address: expected a local Ray within the 30 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_driver_that_only_starts_others_imports_no_transformers_and_no_ray_train() -> None:
    """They cost several seconds in each process, and a wrong config is to be said at once."""
    heavy = ("transformers", "peft", "ray.train", "ray.data")
    heavier = (*heavy, "torch", "sklearn", "scipy.stats", "matplotlib")  # until the config is read
    done = run_code(
        f"import sys, jobs.train; print([m for m in {heavier} if m in sys.modules])\n"
        f"import jobs.compare; print([m for m in {heavy} if m in sys.modules])"
    )
    assert done.stdout == "[]\n[]\n", done.stderr


def test_a_process_that_holds_a_model_waits_for_no_scikit_learn() -> None:
    code = """
import sys
from gps_ray.base.lean_imports import lean_imports
with lean_imports():
    import gps_ray.learning.learner, gps_ray.rollout.torch_engine
print([module for module in ("sklearn", "pandas", "scipy.stats") if module in sys.modules])
"""
    done = run_code(code)
    assert done.stdout == "[]\n", done.stderr
