import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import PosteriorMoments, Prompt
from gps_ray.config import TrainConfig
from gps_ray.run.folder import FolderPosition, JsonLines, RunFolder, check_can_be_written
from gps_ray.run.segments import Position, read_segments

PROMPTS = [Prompt(prompt_id=i, text=f"text {i}", answer="1", task="t", level="easy") for i in ("a", "b")]


def test_lines_are_cut_back_to_an_offset(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl")
    assert lines.num_bytes == 0
    lines.append({"step": 1})
    offset = lines.num_bytes
    lines.append({"step": 2})
    assert lines.roll_back(offset) == []
    assert lines.path.read_text() == '{"step": 1}\n'


def test_a_file_that_lost_lines_keeps_the_others_and_says_so(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl")
    for step in (1, 2):
        lines.append({"step": step})
    offset = lines.num_bytes
    os.truncate(lines.path, offset - 3)
    (note,) = lines.roll_back(offset)
    assert note.startswith(f"m.jsonl: expected {offset} bytes, found {offset - 3}: the run goes on")
    assert lines.path.read_text() == '{"step": 1}\n'
    lines.path.unlink()
    assert len(lines.roll_back(offset)) == 1


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


def test_a_folder_goes_back_to_where_it_was(tmp_path: Path) -> None:
    def write(step: int) -> None:
        folder.metrics.append({"step": step})
        folder.write_verifier_notes(step, ["odd"])
        folder.write_probe(step, "pool_probe", PROMPTS, None, np.array([1, 2]), np.array([4, 4]))

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    folder = RunFolder(tmp_path)
    folder.create(TrainConfig(), {"pool": PROMPTS})
    write(1)
    position, before = folder.position(), content()
    write(2)
    assert RunFolder(tmp_path).roll_back(position) == []
    assert (tmp_path / "discarded" / "probes").exists()
    shutil.rmtree(tmp_path / "discarded")
    assert content() == before
    assert folder.roll_back(FolderPosition()) == []
    assert folder.position() == FolderPosition(tables={"outcomes": Position(), "probes": Position()})


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
    folder.note(0, [])
    assert notes() == []


def test_probe_rows_stand_beside_their_predictions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(TrainConfig(), {"pool": PROMPTS})
    prediction = PosteriorMoments(mean=np.array([0.25, 0.5]), std=np.array([0.1, 0.2]), seen=np.array([True, False]))
    folder.write_probe(3, "pool_probe", PROMPTS, prediction, np.array([1, 2]), np.array([4, 4]))
    (segment,) = read_segments(folder.probes)
    rows = segment.table.to_pylist()
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


@pytest.mark.parametrize("place", [".", "..", "file", "file/below", "/proc/nobody/may", "a\0b"])
def test_a_run_folder_that_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ConfigError, match=r"^run\.directory: "):
        check_can_be_written(Path(place))
    check_can_be_written(Path("new/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
