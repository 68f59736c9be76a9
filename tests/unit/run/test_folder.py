import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.types import PosteriorMoments, Prompt
from gps_ray.config import TrainConfig
from gps_ray.run.folder import JsonLines, RunFolder, check_can_be_written

PROMPTS = [Prompt(prompt_id=i, text=f"text {i}", answer="1", task="t", level="easy") for i in ("a", "b")]


def test_lines_are_cut_back_to_an_offset(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl")
    assert lines.num_bytes == 0
    lines.append({"step": 1})
    offset = lines.num_bytes
    lines.append({"step": 2})
    lines.truncate(offset)
    assert lines.path.read_text() == '{"step": 1}\n'
    with pytest.raises(CheckpointError, match=r"m\.jsonl"):
        lines.truncate(offset + 1)


def test_nobody_else_can_write_into_a_run_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (tmp_path / "old").mkdir(mode=0o777)
        for name in ("old", "new"):
            RunFolder(tmp_path / name).create(TrainConfig(), {"pool": PROMPTS})
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("old", "new", "old/checkpoints")}
    assert modes == {"old": 0o755, "new": 0o700, "old/checkpoints": 0o700}


def test_files_that_no_manifest_lists_are_moved_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(TrainConfig(), {"pool": PROMPTS})
    for name in ("step_000001.parquet", "step_000002.parquet"):
        (folder.outcomes / name).write_bytes(b"x")
    assert folder.data_files() == ["outcomes/step_000001.parquet", "outcomes/step_000002.parquet"]
    assert folder.discard_unlisted(["outcomes/step_000001.parquet"]) == ["outcomes/step_000002.parquet"]
    assert folder.data_files() == ["outcomes/step_000001.parquet"]
    assert (tmp_path / "discarded" / "outcomes" / "step_000002.parquet").exists()


def test_notes_follow_the_steps_that_they_are_about(tmp_path: Path) -> None:
    def notes() -> list[tuple[int, str]]:
        rows = [json.loads(line) for line in folder.notes.read_text().splitlines()]
        return [(row["step"], row["note"]) for row in rows]

    folder = RunFolder(tmp_path)
    folder.note(4, [])
    assert not folder.notes.exists()
    folder.note(4, ["a", "b"])
    folder.note(8, ["c"])
    assert notes() == [(4, "a"), (4, "b"), (8, "c")]
    # Killed before another checkpoint, and resumed as it was: the steps that c is about are made again without it.
    folder.note(8, [])
    assert notes() == [(4, "a"), (4, "b")]
    folder.restart()
    assert notes() == []


def test_probe_rows_stand_beside_their_predictions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(TrainConfig(), {"pool": PROMPTS})
    prediction = PosteriorMoments(mean=np.array([0.25, 0.5]), std=np.array([0.1, 0.2]), seen=np.array([True, False]))
    path = folder.write_probe(3, "pool_probe", PROMPTS, prediction, np.array([1, 2]), np.array([4, 4]))
    rows = pq.read_table(path).to_pylist()
    assert rows[1] == {
        "step": 3,
        "probe": "pool_probe",
        "prompt_id": "b",
        "level": "easy",
        "predicted_mean": 0.5,
        "predicted_std": 0.2,
        "seen": False,
        "num_right": 2,
        "num_tried": 4,
    }


def test_the_prompts_of_all_splits_are_listed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(TrainConfig(), {"pool": PROMPTS, "pool_probe": PROMPTS[:1]})
    table = pq.read_table(tmp_path / "prompts.parquet").to_pylist()
    assert [(row["prompt_id"], row["split"]) for row in table] == [("a", "pool"), ("b", "pool"), ("a", "pool_probe")]


def test_a_half_written_export_is_no_finished_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.append({"step": 4})
    for content in ("old", "new"):
        model = folder.unfinished_model()
        model.mkdir()
        (model / "config.json").write_text(content)
        if content == "old":
            assert not folder.is_finished(4)
        folder.finish_model()
        assert folder.is_finished(4)
        assert (folder.final_model / "config.json").read_text() == content
    assert not (tmp_path / "final_model.partial").exists()


@pytest.mark.parametrize("place", [".", "file", "file/below", "/proc/nobody/may", "a\0b"])
def test_a_run_folder_that_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ConfigError, match=r"^run\.directory: "):
        check_can_be_written(Path(place))
    check_can_be_written(Path("new/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
