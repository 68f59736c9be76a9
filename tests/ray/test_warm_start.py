"""``python -m jobs.warm_start``: one Ray actor, then the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import load_model, load_tokenizer
from tests.processes import SMALL_RUN, Head, run_job

pytestmark = pytest.mark.ray

ARGUMENTS = (*SMALL_RUN, "warm_start.num_steps=20")


@pytest.mark.slow
def test_it_trains_once_and_then_finds_the_folder_without_a_cluster(head: Head, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, f"warm_start.cache_directory={tmp_path / 'warm'}")
    first = run_job("warm_start", *arguments, head=head)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.splitlines()[-1])
    assert folder.parent == tmp_path / "warm"
    assert load_model(folder).config.model_type == EmbeddedModelConfig().family
    assert load_tokenizer(folder).encode("numbers 3 target")[1] == load_tokenizer(folder).encode("3")[0]
    assert "step 20 of 20" in first.stderr
    changed = (folder / "model.safetensors").stat().st_mtime_ns

    again = run_job("warm_start", *arguments)
    assert again.stdout.splitlines() == [str(folder)]
    assert again.stderr == ""
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_a_diverging_warm_start_is_one_line(head: Head, tmp_path: Path) -> None:
    diverging = "warm_start.learning_rate=1.0e30"
    failed = run_job("warm_start", *ARGUMENTS, diverging, f"warm_start.cache_directory={tmp_path / 'warm'}", head=head)
    assert failed.returncode == 2
    *shown, line = failed.stderr.splitlines()
    assert all(text.startswith("warm start: step") for text in shown)
    assert line.startswith("error: warm start, step ")
    assert "lower warm_start.learning_rate" in line
    assert not list((tmp_path / "warm").glob("*/warm_start.json"))


def test_a_warm_start_that_takes_too_long_is_ended(head: Head, tmp_path: Path) -> None:
    short = "warm_start.deadline_s=0.1"
    late = run_job("warm_start", *ARGUMENTS, short, f"warm_start.cache_directory={tmp_path / 'warm'}", head=head)
    assert late.returncode == 2
    assert "error: the warm start took longer than 0.1 s; raise warm_start.deadline_s" in late.stderr
    assert list((tmp_path / "warm").iterdir()) == []
