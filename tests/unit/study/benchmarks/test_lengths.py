"""The length benchmark on a made run: what it holds out it does not see, and what cannot be measured is said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import GroupOutcome, Prompt, RolloutStatus, SelectionRequest, SlotKind
from gps_ray.config import TrainConfig
from gps_ray.run.folder import RunFolder
from gps_ray.run.outcomes import write_outcomes
from gps_ray.run.segments import Segments
from gps_ray.selection.interface import unpredicted_selection
from gps_ray.study.benchmarks import lengths
from jobs import bench

NUM_PROMPTS, GROUP_SIZE, BATCH = 200, 4, 20
COST = ("--cost-pool", "300", "--cost-batch", "8")


def _write_run(directory: Path, num_steps: int) -> Path:
    """Two kinds of texts in turn; the second is answered at five times the length."""
    rng = generator(0, "test/lengths")
    forms = ("Say {} in one word.", "Write all the numbers up to {}, one after the other.")
    pool = [
        Prompt(
            prompt_id=f"p{row}", text=forms[row % 2].format(rng.integers(999)) + " " * (row // 2), answer="", task="t"
        )
        for row in range(NUM_PROMPTS)
    ]
    folder = RunFolder(directory)
    folder.create(TrainConfig(), {"pool": pool})
    for step in range(1, num_steps + 1):
        rows = rng.choice(NUM_PROMPTS, size=BATCH, replace=False)
        request = SelectionRequest(step=step, round=0, num_prompts=BATCH, group_size=GROUP_SIZE)
        selection = unpredicted_selection(request, tuple(f"p{row}" for row in rows), SlotKind.RANDOM, BATCH)
        outcomes = [
            GroupOutcome(
                prompt_id=f"p{row}",
                policy_version=step - 1,
                rewards=np.zeros(GROUP_SIZE, np.float32),
                status=np.full(GROUP_SIZE, RolloutStatus.WRONG, np.int8),
                response_lengths=rng.integers(8, 13, GROUP_SIZE).astype(np.int32) * (5 if row % 2 else 1),
            )
            for row in rows
        ]
        write_outcomes(Segments(folder.outcomes), step, outcomes, [selection])
    return directory


def test_held_out_prompts_are_ranked_by_the_posterior_and_not_by_the_record(tmp_path: Path) -> None:
    out = tmp_path / "lengths.json"
    assert bench.main(["lengths", "--run", str(_write_run(tmp_path / "run", 16)), *COST, "--out", str(out)]) == 0
    rows = {(row["prompts"], row["predictor"]): row for row in json.loads(out.read_text())["rows"]}
    held_out, seen = rows["held out", "posterior"], rows["seen before", "posterior"]
    assert held_out["groups"] > 15
    # Two kinds in equal shares, and chance within each: the kind alone is worth some .75.
    assert held_out["spearman"] > 0.6
    assert abs(rows["held out", "record"]["spearman"]) < 0.4
    assert held_out["rms_log"] < 0.3 < rows["held out", "record"]["rms_log"]
    assert 0.5 < held_out["within_80"] <= 1
    # Within a kind nothing is left to be known, so a record ranks no better.
    assert seen["spearman"] == pytest.approx(rows["seen before", "record"]["spearman"], abs=0.15)
    assert rows["300 prompts, B=8", "predict the pool"]["cpu_ms"] >= 0


def _arguments(run: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    lengths.add_arguments(parser)
    return parser.parse_args(["--run", str(run), *COST, *words])


def test_what_is_no_run_or_too_short_a_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--run: expected the folder of a run with prompts"):
        lengths.run(_arguments(tmp_path))
    with pytest.raises(DataError, match="has no outcomes"):
        lengths.run(_arguments(_write_run(tmp_path / "none", 0)))
    with pytest.raises(DataError, match="at least two steps"):
        lengths.run(_arguments(_write_run(tmp_path / "one", 1)))
    with pytest.raises(ConfigError, match="--cost-batch: 900"):
        lengths.run(_arguments(_write_run(tmp_path / "run", 3), "--cost-batch", "900"))
