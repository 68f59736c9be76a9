"""`make demo-llm` as a user runs it, with fewer steps; and what becomes of the model that it trains."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gps_ray.base.intervals import mean_estimate
from gps_ray.base.types import RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.model import load_model, weights_of
from gps_ray.run.metrics import read_metrics
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.registry import load_task
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


def plain_transformers(model: Path, overrides: tuple[str, ...]) -> tuple[float, float, float]:
    """pass@1 on the config's evaluation set and its interval, by nothing but transformers and the verifier."""
    config = load_config(TrainConfig, Path(CONFIG[1]), [*overrides, f"model.path={model}"])
    task = load_task(config.data.task, config.data.task_options)
    tokenizer, policy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    rates: list[float] = []
    for prompt in load_data(config.data, 0).evaluation:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        torch.manual_seed(len(rates))
        drawn = policy.generate(
            **chat,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=config.rollout.max_response_tokens,
            num_return_sequences=config.evaluation.rollouts_per_prompt,
        )
        texts = tokenizer.batch_decode(drawn[:, chat["input_ids"].shape[1] :], skip_special_tokens=True)
        rates.append(float(np.mean([task.verify(prompt, text)[1] is RolloutStatus.RIGHT for text in texts])))
    found = mean_estimate(np.array(rates), (0.0, 1.0))
    return found.value, found.low, found.high


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
        # The export is in bfloat16, as the config says: rounding alone is no training.
        rounded = {name: torch.from_numpy(value).bfloat16().float().numpy() for name, value in start.items()}
        assert any(not np.array_equal(trained[name], rounded[name]) for name in rounded)

    final = read_metrics(runs / "gps_fused" / "seed_0" / "metrics.jsonl")[-1]
    _, low, high = plain_transformers(runs / "gps_fused" / "seed_0" / "final_model", SMALL)
    # Other draws of the same accuracy: the two intervals over the same prompts meet.
    assert low <= final["val/pass@1/high"]
    assert high >= final["val/pass@1/low"]
    engines = ["torch", *(["vllm"] if importlib.util.find_spec("vllm") is not None else [])]
    for engine in engines:
        out = tmp_path / f"evaluated_by_{engine}"
        where = (f"model.path={runs / 'gps_fused' / 'seed_0' / 'final_model'}", f"rollout.engine={engine}")
        limits = ("rollout.vllm.max_model_len=512", "rollout.vllm.kv_cache_memory_bytes=536870912")
        done = run_job("evaluate", *CONFIG, "--out", str(out), *where, *limits, *SMALL, timeout_s=900)
        assert done.returncode == 0, done.stderr
        (suites,) = json.loads((out / "evaluation.json").read_text())["models"].values()
        found = suites["evaluation"]["avg@2"]
        assert found["low"] <= final["val/pass@1/high"]
        assert found["high"] >= final["val/pass@1/low"]


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
