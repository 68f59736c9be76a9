"""What an evaluation keeps, and when it is found again."""

from __future__ import annotations

import datetime
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from gps_ray.base.types import ChunkHeader, GroupFailure, Prompt, RolloutSample, RolloutStatus
from gps_ray.model.fingerprint import model_fingerprint
from gps_ray.run.evaluation_cache import EvaluationCache, chunk_key

DAY = datetime.date(2026, 1, 2)
PROMPT = Prompt(prompt_id="a", text="1 + 1", answer="2", task="exact")


def _header() -> ChunkHeader:
    counts = {
        name: np.array([3, 1], np.int32)
        for name in ("num_right", "num_wrong", "num_failed", "num_truncated", "num_response_tokens")
    }
    return ChunkHeader(
        chunk_id=4,
        step=0,
        stream="evaluation/x",
        policy_version=0,
        prompt_ids=("a", "b"),
        reward_sum=np.array([1 / 3, 0.1]),
        cpu_s=0.1,
        wall_s=1 / 7,
        failures=(GroupFailure(prompt_id="c", reason="gone"),),
        samples=(
            RolloutSample(
                prompt_id="a", prompt_text="1", response_text="\ud800 \n", reward=0.1, status=RolloutStatus.RIGHT
            ),
        ),
        answers=((("2", 1), (None, 0)), (("", 2),)),
        **counts,
    )


def test_a_header_comes_back_as_it_was(tmp_path: Path) -> None:
    header = _header()
    EvaluationCache(tmp_path / "cache.jsonl", DAY).add("key", header)
    found = EvaluationCache(tmp_path / "cache.jsonl", DAY).find("key")
    assert found is not None
    for field in fields(header):
        before, after = getattr(header, field.name), getattr(found, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            before, after = before.tolist(), after.tolist()
        assert before == after, field.name
    assert found.samples[0].status is RolloutStatus.RIGHT


def test_a_line_that_was_cut_off_costs_that_chunk_alone_and_the_date_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "cache.jsonl"
    EvaluationCache(path, DAY).add("first", _header())
    EvaluationCache(path, DAY).add("second", _header())
    path.write_bytes(path.read_bytes()[:-20])
    later = EvaluationCache(path, DAY + datetime.timedelta(days=1))
    assert later.date == DAY
    assert later.find("first") is not None
    assert later.find("second") is None
    later.add("second", _header())
    assert EvaluationCache(path, DAY).find("second") is not None


def test_what_decides_a_chunk_decides_its_key() -> None:
    key = chunk_key({"seed": 0}, [PROMPT])
    assert key == chunk_key({"seed": 0}, [replace(PROMPT, level="hard")])
    for other in (
        chunk_key({"seed": 1}, [PROMPT]),
        chunk_key({"seed": 0}, [PROMPT, PROMPT]),
        chunk_key({"seed": 0}, [replace(PROMPT, extra_info={"tests": 1})]),
        chunk_key({"seed": 0}, [replace(PROMPT, answer="3")]),
    ):
        assert other != key


def test_a_model_is_known_by_its_numbers_and_not_by_its_readme(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64 + b"1")
    (tmp_path / "README.md").write_text("a")
    first = model_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("b")
    assert model_fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64 + b"2")
    assert model_fingerprint(tmp_path) != first
