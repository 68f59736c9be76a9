"""The selector inside TRL's own trainers: what it is told, what it reads ahead, what a kill cannot lose."""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gps_ray
from gps_ray.config import EmbeddedModelConfig, TrainConfig, load_config
from gps_ray.model import make_embedded_model
from gps_ray.tasks.registry import load_generated_task
from tests.own_data import make_own_model
from tests.trl_runs import GROUP_SIZE, PROMPTS, kill_at, learnt, make_trainer, right_of, trl_adapter

ROOT = Path(__file__).parents[2]
NUM_PROMPTS = 4  # per generation batch
NUM_BATCHES = 7  # of an epoch, which has five, and the next
# per_device_train_batch_size, steps_per_generation, gradient_accumulation_steps, num_iterations -> lag as it is logged,
# by update: a batch of the loader is read ahead, but not over the end of an epoch.
LOADERS = {
    "plain": ((16, 1, 1, 1), [0, 1, 1, 1, 1, 0, 1]),
    "accumulated": ((4, 4, 4, 1), [0, 1, 1, 1, 1, 0, 1]),
    # The second half of a batch is read when its outcomes are known, and the next batch behind it.
    "reused": ((8, 2, 1, 2), [0, 0, 0, 0, 0, 0, 0]),
    # Two batches before each update: means of 0 and 1, 2 and 1, 2, 0 and 1.
    "two a step": ((16, 1, 2, 1), [0.5, 1.5, 2, 0.5]),
}


def _settings(loader: str) -> dict[str, Any]:
    """A run of ``NUM_BATCHES`` generation batches."""
    device, per_generation, accumulated, iterations = LOADERS[loader][0]
    return {
        "per_device_train_batch_size": device,
        "steps_per_generation": per_generation,
        "gradient_accumulation_steps": accumulated,
        "num_iterations": iterations,
        "max_steps": math.ceil(NUM_BATCHES * per_generation * iterations / accumulated),
    }


@pytest.mark.parametrize(("loader", "rloo"), [*((name, False) for name in LOADERS), ("reused", True)])
def test_each_outcome_reaches_its_prompt_once_however_often_the_batch_is_read(
    tmp_path: Path, loader: str, rloo: bool
) -> None:
    trainer = make_trainer(
        tmp_path,
        rloo=rloo,
        **_settings(loader),
        eval_strategy="steps",
        eval_steps=3,
        per_device_eval_batch_size=8,
    )
    trainer.train()
    rows, num_right, num_tried = learnt(trainer)
    assert len(rows) == NUM_BATCHES * NUM_PROMPTS  # evaluations are not outcomes
    assert num_right.tolist() == [right_of(row) for row in rows]
    assert set(num_tried) == {GROUP_SIZE}
    assert all(len(set(batch)) == NUM_PROMPTS for batch in rows.reshape(-1, NUM_PROMPTS).tolist())
    assert [row["gps/lag"] for row in trainer.state.log_history if "gps/lag" in row] == LOADERS[loader][1]
    useful = (num_right > 0) & (num_right < GROUP_SIZE)
    shares = trainer.feed.metrics["share_useful"], trainer.state.log_history[0]["gps/share_useful"]
    first = useful[: 2 * NUM_PROMPTS] if loader == "two a step" else useful[:NUM_PROMPTS]
    assert shares == (useful[-NUM_PROMPTS:].mean(), first.mean())


class _Killed(Exception):
    """What ends a run that is then resumed."""


def _kill() -> None:
    raise _Killed


def _run(folder: Path, loader: str, killed_at: int | None = None, **changes: Any) -> Any:
    """A trainer after its run; killed during the update of a step and resumed by another one where that is given."""
    settings = _settings(loader) | {"save_strategy": "steps", "save_total_limit": 1, **changes}
    trainer = make_trainer(folder, **settings)
    if killed_at is None:
        trainer.train()
        return trainer
    kill_at(trainer, killed_at, _kill)
    with pytest.raises(_Killed):
        trainer.train()
    resumed = make_trainer(folder, **settings)
    resumed.train(resume_from_checkpoint=True)
    return resumed


@pytest.mark.parametrize(
    ("loader", "save_steps", "killed_at"),
    # "reused" has four updates per batch: step 10 is in the middle of the third.
    [("plain", 3, 4), ("reused", 10, 13), pytest.param("accumulated", 5, 6, marks=pytest.mark.slow)],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, loader: str, save_steps: int, killed_at: int
) -> None:
    runs = [_run(tmp_path / str(killed), loader, killed, save_steps=save_steps) for killed in (None, killed_at)]
    whole, resumed = (run.feed.state() for run in runs)
    assert list(whole) == list(resumed)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
    for (name, weights), other in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(weights, other), name
    assert [run.state.epoch for run in runs] == [NUM_BATCHES / 5, NUM_BATCHES / 5]


@pytest.mark.parametrize(("loader", "num_steps"), [("plain", 2), ("reused", 6)])
def test_training_again_begins_with_what_was_read_and_not_rolled_out(
    tmp_path: Path, loader: str, num_steps: int
) -> None:
    trainer = make_trainer(tmp_path, **_settings(loader) | {"max_steps": num_steps})
    trainer.train()
    read_ahead = trainer.feed.state()["out"].tolist()
    # "reused" ends in the middle of its second batch, before the third is read.
    assert len(read_ahead) == (1 if loader == "plain" else 0)
    trainer.train()
    rows, num_right, _ = learnt(trainer)
    batches = rows.reshape(-1, NUM_PROMPTS).tolist()
    assert len(batches) == 4
    assert batches[2 : 2 + len(read_ahead)] == read_ahead
    assert num_right.tolist() == [right_of(row) for row in rows]


def test_a_checkpoint_without_a_selector_is_said(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer(tmp_path, **changes).train()
    (tmp_path / "run" / "checkpoint-2" / trl_adapter().STATE_FILE).unlink()
    resumed = make_trainer(tmp_path, **changes | {"max_steps": 3})
    with pytest.warns(UserWarning, match="the selector begins anew"):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.selector.num_updates == 1


def test_wrong_use_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gps_ray.UsageError, match=r"expected group_size 4 \(num_generations\), got 8"):
        make_trainer(tmp_path, selector=gps_ray.Selector(PROMPTS))
    other = gps_ray.Selector([*PROMPTS[:5], *PROMPTS[:4:-1]], group_size=GROUP_SIZE)
    with pytest.raises(gps_ray.UsageError, match="differ from row 5 on"):
        make_trainer(tmp_path, selector=other)
    with pytest.raises(gps_ray.UsageError, match="expected ignore_data_skip"):
        make_trainer(tmp_path, ignore_data_skip=True)
    with pytest.warns(UserWarning, match="has 20 prompts, and 2 batches of 8 are out at once"):
        make_trainer(tmp_path, per_device_train_batch_size=32)
    monkeypatch.setattr(trl_adapter().trl, "__version__", "1.17.2")
    with pytest.warns(UserWarning, match=r"was tested with TRL 1\.16, this is 1\.17\.2"):
        make_trainer(tmp_path)


def test_the_lines_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "trl.md").read_text()
    lines = textwrap.dedent(page[page.index("    from datasets") : page.index("\nA test runs these lines")])
    trl_adapter()
    make_own_model(tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(lines.replace("max_steps=3)", "max_steps=3, use_cpu=True, report_to='none')"), found)  # noqa: S102
    assert found["trainer"].state.global_step == 3
    again = gps_ray.Selector.load("runs/sums/selector.safetensors", found["dataset"]["prompt"])
    assert again.num_updates == 3


@pytest.mark.slow
def test_the_study_runs_each_arm_once_and_reads_what_is_there(tmp_path: Path) -> None:
    trl_adapter()
    task = load_generated_task("countdown", {}, "")
    make_embedded_model(EmbeddedModelConfig(num_layers=1), task.vocabulary(), tmp_path / "model")
    options = {"--config": "configs/demo.yaml", "--model": str(tmp_path / "model"), "--out": str(tmp_path / "out")}
    options |= {"--num-seeds": "2", "--num-batches": "1", "--num-evaluation-prompts": "32", "--rollouts-per-pass": "64"}
    command = [sys.executable, "-m", "examples.trl_study", *(word for pair in options.items() for word in pair)]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500) for _call in range(2)
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    results = ["own_0.json", "gps_fused_0.json", "own_1.json", "gps_fused_1.json"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == sorted(results)
    assert "train_runtime" in first.stdout
    assert "train_runtime" not in second.stdout
    assert [line.split(":")[0] for line in second.stdout.splitlines()[-6:]] == [
        f"{name} {arm}" for name in ("share_useful", "accuracy") for arm in ("own", "gps_fused", "difference")
    ]
    # Half of a mini-batch a pass: as many batches and updates as without.
    assert [len(json.loads((tmp_path / "out" / name).read_text())["share_useful_by_batch"]) for name in results] == [
        1
    ] * 4


def test_the_study_cuts_an_update_into_equal_passes_and_nothing_else_changes(tmp_path: Path) -> None:
    trl_adapter()
    from examples.trl_study import _settings

    config = load_config(TrainConfig, ROOT / "configs" / "demo.yaml", ())
    args = argparse.Namespace(out=tmp_path, num_batches=3, rollouts_per_pass=None)
    whole = _settings(args, config, 0)
    args.rollouts_per_pass = 32
    cut = _settings(args, config, 0)
    assert (whole.gradient_accumulation_steps, cut.gradient_accumulation_steps) == (1, 4)
    for name in ("generation_batch_size", "max_steps", "logging_steps"):
        assert getattr(cut, name) == getattr(whole, name)
    args.rollouts_per_pass = 100
    with pytest.raises(gps_ray.UsageError, match="expected a divisor of an update's 128 rollouts, got 100"):
        _settings(args, config, 0)


def _two_processes(folder: Path, *arguments: str) -> list[int]:
    """Exit codes of two processes of one run, over the loopback interface alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.trl_process", str(folder), *arguments]
    processes = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    try:
        return [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_process_chooses_for_two_and_both_may_be_killed(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        make_trainer(tmp_path / name)  # writes the model that both processes load
    assert _two_processes(tmp_path / "whole") == [0, 0]
    whole = json.loads((tmp_path / "whole" / "learnt.json").read_text())
    rows, num_right, num_tried = (np.array(values) for values in whole["learnt"])
    assert len(rows) == 8 * 3
    assert set(num_tried) == {GROUP_SIZE}
    # Each process has six rollouts: the middle one of three groups is half in the one and half in the other, and each
    # counts its own responses.
    expected = [right_of(row) if place % 3 != 1 else 2 * min(2, right_of(row)) for place, row in enumerate(rows)]
    assert num_right.tolist() == expected
    # Whoever is a moment later finds the other one gone, and ends with an error.
    codes = _two_processes(tmp_path / "killed", "4")
    assert min(codes) < 0
    assert 0 not in codes
    assert _two_processes(tmp_path / "killed") == [0, 0]
    assert json.loads((tmp_path / "killed" / "learnt.json").read_text()) == whole
