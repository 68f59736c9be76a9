"""Run folders that several report tests read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.loop.report.synthetic_run import Synthetic, write_synthetic_run

SMALL = Synthetic(
    num_steps=12, num_planned=20, every_steps=4, probe_every_steps=6, num_pool=120, num_prompts=16, group_size=4
)


@pytest.fixture(scope="session")
def gps_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a predictor, 12 of 20 steps done."""
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "gps", SMALL)


@pytest.fixture
def bare_run(tmp_path: Path) -> Callable[[str, Sequence[dict[str, float]]], Path]:
    """Makes a run folder with nothing but a config and the given metrics."""

    def make(name: str, rows: Sequence[dict[str, float]]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text("run:\n  num_steps: 40\nselection:\n  selector: uniform\n")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make
