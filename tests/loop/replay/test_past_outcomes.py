"""A text prior from tables and run folders, as the job writes it and gps_fused loads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import GroupOutcome, Prompt, RolloutStatus, Selection, SlotKind
from gps_ray.config import SelectionConfig, TrainConfig
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.text_prior import load_text_prior
from gps_ray.run.folder import RunFolder
from gps_ray.run.outcomes import write_outcomes
from gps_ray.run.segments import Segments
from gps_ray.selection.registry import build_selector
from gps_ray.study.replay.past_outcomes import read_all, read_past
from jobs.pretrain_predictor import main
from tests.loop.replay.tables import features, make_logits, make_texts, write, write_static


def _write_run(directory: Path, groups: dict[int, list[tuple[str, str]]]) -> Path:
    """A run folder with step -> [(prompt text, statuses)], a status being one of r (right), w (wrong), f (failed)."""
    folder = RunFolder(directory)
    texts = sorted({text for step in groups.values() for text, _ in step} | {"never chosen"})
    pool = [Prompt(prompt_id=f"id {text}", text=text, answer="", task="test") for text in texts]
    folder.create(TrainConfig(), {"pool": pool})
    kinds = {"r": RolloutStatus.RIGHT, "w": RolloutStatus.WRONG, "f": RolloutStatus.FAILED}
    for step, entries in groups.items():
        ids, size = tuple(f"id {text}" for text, _ in entries), len(entries)
        selection = Selection(
            step=step,
            round=0,
            prompt_ids=ids,
            num_rollouts=np.full(size, len(entries[0][1]), np.int32),
            predicted_mean=np.full(size, np.nan),
            predicted_std=np.full(size, np.nan),
            slot_kind=np.full(size, SlotKind.RANDOM, np.int8),
            num_candidates=size,
            cpu_s=0.0,
        )
        outcomes = [
            GroupOutcome(
                prompt_id=prompt_id,
                policy_version=step - 1,
                rewards=np.zeros(len(statuses), np.float32),
                status=np.array([kinds[s] for s in statuses], np.int8),
                response_lengths=np.ones(len(statuses), np.int32),
            )
            for prompt_id, (_, statuses) in zip(ids, entries, strict=True)
        ]
        write_outcomes(Segments(folder.outcomes), step, outcomes, [selection])
    return directory


def test_a_runs_outcomes_are_added_up_per_prompt(tmp_path: Path) -> None:
    run = _write_run(tmp_path, {1: [("a", "rrww"), ("b", "wwff")], 2: [("a", "rrrr"), ("c", "ffff")]})
    past = read_past(run)
    counts = dict(zip(past.prompts, zip(past.num_right.tolist(), past.num_tried.tolist(), strict=True), strict=True))
    # What failed was not judged; a prompt without a verdict is left out, and so is one that was never chosen.
    assert counts == {"a": (6, 8), "b": (0, 2)}


def test_the_job_writes_what_gps_fused_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table and a run together; the selector then predicts before the first outcome."""
    texts = make_texts(80, "run")
    right = generator(0, "test/run").binomial(4, expit(make_logits(texts)))
    entries = [(text, "r" * k + "w" * (4 - k)) for text, k in zip(texts, right, strict=True)]
    run = _write_run(tmp_path / "run", {1: entries[:40], 2: entries[40:]})
    table = write_static(tmp_path / "table.parquet", 200)
    out = tmp_path / "prior"
    assert main(["--outcomes", str(table), str(run), "--out", str(out), *features(tmp_path)]) == 0
    num_prompts = len({*texts, *make_texts(200, "static")})
    shown = capsys.readouterr().out
    assert f"rollouts of {num_prompts:,} prompts" in shown
    assert f"selection.fused.text_prior={out}" in shown
    assert load_text_prior(out).report.num_prompts == num_prompts

    new = make_texts(100, "new")
    config = SelectionConfig.model_validate({"selector": "gps_fused", "fused": {"text_prior": str(out)}})
    pool = PromptTable(prompt_ids=tuple(new), texts=tuple(new), embeddings=np.zeros((100, 4), np.float32), num_pool=100)
    posterior = build_selector(config, pool, 8, 0).predict(np.arange(100), 0)
    assert posterior is not None
    assert rank_correlation(posterior.mean(), make_logits(new)) > 0.6


def test_what_holds_no_outcomes_is_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    few = _write_run(tmp_path / "few", {1: [("a", "rw"), ("b", "ww")]})
    not_started = _write_run(tmp_path / "not_started", {})
    wrong = write(tmp_path / "wrong.parquet", prompt=["a"], successes=[3], rollouts=[2])
    for source, message in (
        (empty, "expected a run folder with prompts.parquet"),
        (tmp_path / "absent", "expected a Parquet file"),
        (wrong, "row 0 has 3 successes of 2 rollouts"),
        (few, "expected at least 50 prompts to learn from, got 2"),
        (not_started, "expected at least 50 prompts to learn from, got 0"),
    ):
        with pytest.raises(DataError) as error:
            main(["--outcomes", str(source), "--out", str(tmp_path / "prior"), *features(tmp_path)])
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "prior").exists()


def test_outcomes_of_a_prompt_that_the_run_does_not_list_are_refused(tmp_path: Path) -> None:
    run = _write_run(tmp_path / "run", {1: [("a", "rw")]})
    other = _write_run(tmp_path / "other", {1: [("b", "rw")]})
    (run / "prompts.parquet").write_bytes((other / "prompts.parquet").read_bytes())
    with pytest.raises(DataError, match=r"prompts\.parquet lacks prompt id a"):
        read_past(run)


def test_several_sources_are_one_table(tmp_path: Path) -> None:
    first = _write_run(tmp_path / "a", {1: [("one", "rw"), ("two", "ww")]})
    second = _write_run(tmp_path / "b", {1: [("two", "rr")], 2: [("three", "wf")]})
    joined = read_all([first, second])
    assert joined.prompts == ("one", "two", "three")
    assert joined.num_right.tolist() == [1, 2, 0]
    assert joined.num_tried.tolist() == [2, 4, 1]
