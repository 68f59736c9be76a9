"""`make demo-llm` as a user runs it, with fewer steps; and what becomes of the model that it trains."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gps_ray.model import load_model, weights_of
from gps_ray.run.metrics import read_metrics
from tests.processes import ROOT, run_job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

CONFIG = ("--config", str(ROOT / "configs" / "smollm2_mixture.yaml"))
SMALL = (
    "data.task_options.num_pool_prompts=300",
    "data.task_options.num_evaluation_prompts=48",
    "data.task_options.num_heldout_probe_prompts=0",
    "cluster.local_dashboard=false",
)
NUM_STEPS = 2


def test_the_demo_trains_and_its_model_is_what_was_evaluated(tmp_path: Path) -> None:
    model, runs = tmp_path / "model", tmp_path / "demo"
    if cached := os.environ.get("GPS_RAY_TEST_SMOLLM2"):  # a folder of jobs.fetch_model, to save the download
        shutil.copytree(cached, model)
    places = (f"model.path={model}", f"run.directory={runs}", f"run.num_steps={NUM_STEPS}")
    arguments = ("--selectors", "uniform,gps_fused", "--fetch", "smollm2-135m-instruct")
    done = run_job("demo", *CONFIG, *arguments, *places, *SMALL, timeout_s=2400)
    assert done.returncode == 0, done.stderr
    for shown in ("first pass@1", "final pass@1", "useful groups", "rollouts", "tokens", "seconds", "gps_fused"):
        assert shown in done.stdout
    assert (runs / "report.html").is_file()

    for selector in ("uniform", "gps_fused"):
        run = runs / selector / "seed_0"
        metrics = read_metrics(run / "metrics.jsonl")
        assert [row["step"] for row in metrics] == list(range(NUM_STEPS + 1))
        assert metrics[0]["val/pass@1"] == read_metrics(runs / "uniform" / "seed_0" / "metrics.jsonl")[0]["val/pass@1"]
        trained, start = weights_of(load_model(run / "final_model")), weights_of(load_model(model))
        assert trained.keys() == start.keys()
        assert any(not np.array_equal(trained[name], start[name]) for name in start)

    final = read_metrics(runs / "gps_fused" / "seed_0" / "metrics.jsonl")[-1]
    engines = ["torch", *(["vllm"] if importlib.util.find_spec("vllm") is not None else [])]
    for engine in engines:
        out = tmp_path / f"{engine}.json"
        places = (f"model.path={runs / 'gps_fused' / 'seed_0' / 'final_model'}", f"rollout.engine={engine}")
        limits = ("rollout.vllm.max_model_len=512", "rollout.vllm.kv_cache_memory_bytes=536870912")
        done = run_job("evaluate", *CONFIG, "--out", str(out), *places, *limits, *SMALL, timeout_s=900)
        assert done.returncode == 0, done.stderr
        found = json.loads(out.read_text())
        # Other draws of the same accuracy: the two intervals over the same prompts meet.
        assert found["val/pass@1/low"] <= final["val/pass@1/high"]
        assert found["val/pass@1/high"] >= final["val/pass@1/low"]


def test_a_model_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    model = f"model.path={tmp_path / 'model'}"
    arguments = ("--fetch", "smollm2-135m-instruct", f"run.directory={tmp_path / 'run'}", model)
    environment = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_INDEX": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = run_job("demo", *CONFIG, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "jobs.fetch_model --gguf FILE" in done.stderr
    assert not (tmp_path / "model").exists()
