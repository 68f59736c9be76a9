"""Maths problems as people have them, DeepScaleR's and GSM8K in verl's columns: a pretrained model trains on them."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gps_ray.base.types import RolloutStatus
from gps_ray.run.metrics import read_metrics
from gps_ray.tasks.dataset import read_prompts
from gps_ray.tasks.registry import load_task
from tests.processes import run_job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

DEEPSCALER = Path(__file__).parents[2].parent / "shared" / "data" / "maths_train_aime.parquet"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if cached := os.environ.get("GPS_RAY_TEST_SMOLLM2"):  # a folder of jobs.fetch_model, to save the download
        return Path(cached)
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    done = run_job("fetch_model", "--out", str(folder), timeout_s=600)
    assert done.returncode == 0, done.stderr
    return folder


def _deepscaler(tmp_path: Path) -> list[str]:
    if not DEEPSCALER.exists():
        pytest.skip(f"needs {DEEPSCALER.name} beside the project")
    done = run_job("prepare_data", "--format", "deepscaler", "--in", str(DEEPSCALER), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    return [f"data.pool_file={tmp_path / 'train.parquet'}", f"data.evaluation_file={tmp_path / 'evaluation.parquet'}"]


def _gsm8k(tmp_path: Path) -> list[str]:
    """The columns of verl's own GSM8K script, with problems made here."""
    places = {}
    for split, numbers in (("train", range(2, 34)), ("test", range(40, 48))):
        rows = [
            {
                "data_source": "openai/gsm8k",
                "prompt": [{"role": "user", "content": f"Ann has {n} apples and buys {n + 3} more. How many has she?"}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(2 * n + 3)},
                "extra_info": {"split": split, "index": n, "answer": f"{n} + {n + 3}\n#### {2 * n + 3}"},
            }
            for n in numbers
        ]
        places[split] = tmp_path / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), places[split])
    return [
        f"data.train=[{{path: {places['train']}, verifier: math}}]",
        f"data.evaluation=[{{path: {places['test']}, verifier: math}}]",
    ]


@pytest.mark.parametrize("source", [_deepscaler, _gsm8k])
def test_two_steps_on_maths(tmp_path: Path, model: Path, source: object) -> None:
    assert callable(source)
    where = source(tmp_path)
    run = tmp_path / "run"
    done = run_job(
        "train",
        *where,
        "data.task=math" if source is _deepscaler else "data.task=by_source",
        f"model.path={model}",
        f"run.directory={run}",
        "run.num_steps=2",
        "run.sample_every_steps=1",
        "rollout.num_workers=1",
        "rollout.num_threads=1",
        "learning.num_threads=1",
        "rollout.max_response_tokens=32",
        "selection.num_prompts=4",
        f"selection.features.cache_directory={tmp_path / 'features'}",
        "evaluation.every_steps=2",
        "evaluation.rollouts_per_prompt=1",
        "evaluation.num_probe_prompts=0",
        "cluster.local_dashboard=false",
        "cluster.object_store_memory_bytes=2147483648",
        timeout_s=1700,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2]
    # Every response had a verdict, in training and in evaluations.
    assert all(row.get("rollout/num_failed", 0) == 0 for row in metrics)
    assert metrics[-1]["cost/num_rollouts"] == 2 * 4 * 8


def test_the_verdicts_on_deepscalers_own_answers_are_right(tmp_path: Path) -> None:
    places = _deepscaler(tmp_path)
    task = load_task("math", {})
    prompts = read_prompts(Path(places[0].partition("=")[2]), config_key="data.pool_file")
    assert len(prompts) > 800
    for prompt in prompts:
        for response, expected in (
            (f"So the answer is \\boxed{{{prompt.answer}}}.", RolloutStatus.RIGHT),
            ("So the answer is \\boxed{-123456789}.", RolloutStatus.WRONG),
            ("", RolloutStatus.WRONG),
        ):
            assert task.verify(prompt, response)[1] is expected, (prompt.answer, response)
