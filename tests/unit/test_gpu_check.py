"""The script for a lent GPU runs here too, on the CPU and a small shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_part_without_a_policy_runs_on_the_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        ["deploy/gpu_check.sh", "machine", str(tmp_path), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "SHAPE": "small", "SIZES": "512 4096"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "gpu_update.json").read_text())
    assert [row["microbatch_tokens"] for row in result["rows"]] == [512, 4096]
    assert "needs a GPU that torch can use" in (tmp_path / "out" / "gpu_tests.log").read_text()


def test_a_wrong_word_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(["deploy/gpu_check.sh", "run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "expected pack, machine or policy, got run\n")
