"""The setting of the GPS paper as a whole run: PPO, one response per prompt, chosen by gps; two train workers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gps_ray.run.metrics import read_metrics
from tests.processes import SMALL_RUN, Head, run_job

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_with_one_response_per_prompt_runs_and_resumes(head: Head, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = (
        *SMALL_RUN,
        "learning.loss=ppo",
        "learning.kl_coefficient=0.01",
        "learning.rollout_is=token",
        "learning.num_workers=2",
        "learning.num_cpus_per_worker=0.5",
        "rollout.group_size=1",
        "selection.selector=gps",
        "selection.num_prompts=32",
        "rollout.prompts_per_chunk=16",
        "checkpoint.every_steps=2",
        "evaluation.every_steps=4",
        f"run.directory={run}",
    )
    for number, more in ((2, ()), (4, ("--resume",))):
        job = run_job("train", *arguments, f"run.num_steps={number}", *more, head=head, timeout_s=400)
        assert job.returncode == 0, job.stderr[-3000:]
    steps = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] > 0]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert row["train/num_groups_trained"] == 32
        assert row["train/num_skipped_updates"] == 0
        for name in ("train/loss", "train/value_loss", "train/reference_kl", "train/tis_mean"):
            assert math.isfinite(row[name]), name
        # The engine and the learner hold the same weights: next to nothing to correct.
        assert row["train/tis_mean"] == pytest.approx(1.0, abs=1e-2)
    # The value model survived the restart: it goes on where it was, not from zero.
    assert steps[2]["train/value_mean"] != 0.0
    assert (run / "final_model" / "model.safetensors").exists()
