"""``jobs.evaluate``: killed and gone on with, without a pool, two models side by side."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.types import Prompt
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model.embedded import make_embedded_model
from gps_ray.tasks.dataset import write_prompts
from jobs.evaluate import main
from tests.processes import Head, end, run_job, start_job, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MATHS = ("math", "aime", "amc", "minerva", "olympiad_bench")


def _sums(path: Path, num: int) -> None:
    write_prompts(
        path,
        [
            Prompt(prompt_id="", text=f"{i} + 7 =", answer=str(i + 7), task="sums", level=f"level {i % 2}")
            for i in range(num)
        ],
    )


def _model(directory: Path) -> str:
    """Random weights: what it says matters to nobody here, that it says the same twice does."""
    make_embedded_model(EmbeddedModelConfig(), ("+", "=", "7", *map(str, range(8, 40))), directory)
    return f"model.path={directory}"


def _figures(out: Path) -> dict[str, Any]:
    """Everything but what it cost in seconds."""
    models = json.loads((out / "evaluation.json").read_text())["models"]
    (suites,) = models.values()
    return {name: {k: v for k, v in suite.items() if k not in ("worker_s", "cpu_s")} for name, suite in suites.items()}


def _num_chunks(out: Path) -> int:
    file = out / "responses.jsonl"
    return file.read_bytes().count(b'"header"') if file.exists() else 0


def test_killed_and_started_again_it_gives_the_same_figures(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sums(tmp_path / "sums.parquet", 24)
    arguments = (
        _model(tmp_path / "model"),
        f"evaluation.suites.sums.file={tmp_path / 'sums.parquet'}",
        "evaluation.suites.sums.task=exact",
        "evaluation.suites.sums.rollouts_per_prompt=64",
        "rollout.prompts_per_chunk=1",
        "rollout.num_workers=1",
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start_job("evaluate", *arguments, "--out", str(killed), log=tmp_path / "log", head=head)
    try:
        wait_for("a chunk in the cache", lambda: _num_chunks(killed) or process.poll() is not None, 500)
    finally:
        end(process, signal.SIGKILL)
    num_kept = _num_chunks(killed)
    assert 0 < num_kept < 24, (tmp_path / "log").read_text()
    assert not (killed / "evaluation.json").exists()
    with (killed / "responses.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # as a kill in the midst of a line leaves it

    def evaluate(out: Path) -> str:
        """The same job in this process, which has imported all that it needs; what it prints."""
        assert main([*arguments, f"cluster.address={head.address}", "--out", str(out)]) == 0
        return capsys.readouterr().out

    assert f"sums: 24 prompts, {24 - num_kept} of 24 chunks to make" in evaluate(killed)
    evaluate(whole)
    assert _figures(killed) == _figures(whole)
    assert {"avg@64", "pass@64", "maj@64", "by_level"} <= _figures(whole)["sums"].keys()
    page = (whole / "evaluation.html").read_text()
    assert "First responses" in page
    assert "0 + 7 =" in page
    # Everything is there: no engine is started for it again.
    assert "0 of 24 chunks to make" in evaluate(killed)
    assert _figures(killed) == _figures(whole)


def test_a_model_against_itself_differs_by_nothing(head: Head, tmp_path: Path) -> None:
    """The simulated engine draws by seed alone, so both sides are the same responses."""
    _sums(tmp_path / "sums.parquet", 10)
    _model(tmp_path / "other")
    arguments = (
        "rollout.engine=simulated",
        "rollout.num_workers=1",
        "data.task=exact",
        f"data.evaluation_file={tmp_path / 'sums.parquet'}",
        f"cluster.address={head.address}",
        "--against",
        str(tmp_path / "other"),
        "--out",
        str(tmp_path / "out"),
    )
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert len(found["models"]) == 2
    difference = found["differences"]["evaluation"]["avg@4"]
    assert difference == {"mean": 0, "low": 0, "high": 0}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the usual maths sets are not part of the repository")
def test_the_usual_maths_sets_run_through_it(head: Head, tmp_path: Path) -> None:
    """A tiny model of random weights and few tokens: the road, not the score."""
    for name in MATHS:
        raw = str(DATA / f"maths_test_{name}.parquet")
        done = run_job(
            "prepare_data", "--format", "deepscaler", "--evaluation-only", "--in", raw, "--out", str(tmp_path / name)
        )
        assert done.returncode == 0, done.stderr
    suites = [
        setting
        for name in MATHS
        for setting in (
            f"evaluation.suites.{name}.file={tmp_path / name / 'evaluation.parquet'}",
            f"evaluation.suites.{name}.max_prompts=6",
            f"evaluation.suites.{name}.task=math",
            f"evaluation.suites.{name}.max_response_tokens=8",
        )
    ]
    out = tmp_path / "out"
    settings = (_model(tmp_path / "model"), "evaluation.rollouts_per_prompt=2", "rollout.prompts_per_chunk=3")
    done = run_job("evaluate", *settings, *suites, "--out", str(out), head=head, timeout_s=800)
    assert done.returncode == 0, done.stderr
    figures = _figures(out)
    assert list(figures) == list(MATHS)
    for name in MATHS:
        assert figures[name]["num_prompts"] == 6
        assert figures[name]["num_responses"] == 12
        assert figures[name]["num_failed_responses"] == 0
        assert "maj@2" in figures[name]
