"""Tables in segments: appended to by many lives of a run, cut back to any position that was committed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gps_ray.run.segments as segments_module
from gps_ray.base.errors import DataError, StorageError
from gps_ray.run.segments import INDEX, Position, Segments, read_segments


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "STEPS_PER_SEGMENT", 4)


def _table(step: int, num_rows: int = 2) -> pa.Table:
    schema = pa.schema([("step", pa.int32()), ("text", pa.string()), ("values", pa.list_(pa.float32()))])
    columns = ([step] * num_rows, [f"row {step}"] * num_rows, [[float(step)] * 3] * num_rows)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _steps(directory: Path) -> list[int]:
    rows = []
    for segment in read_segments(directory):
        assert not segment.damage, segment.damage
        assert segment.table is not None
        rows += segment.table["step"].to_pylist()
    return rows


def _written(directory: Path, num_steps: int) -> tuple[Segments, Position]:
    segments = Segments(directory)
    for step in range(num_steps):
        segments.append(step, _table(step, 1))
    return segments, segments.position()


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 300)),  # so many bytes of the next append are on disk
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(events=_EVENTS, back=st.integers(0, 3))
def test_after_any_events_a_roll_back_gives_what_was_committed(events: list[tuple[str, int]], back: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root) / "outcomes"
        segments, rows, step = Segments(directory), list[int](), 0
        committed: list[tuple[Position, list[int], int]] = [(Position(), [], 0)]
        for event, number in events:
            if event == "append":
                segments.append(step, _table(step, number))
                rows += [step] * number
                step += 1
            elif event == "commit":
                committed.append((segments.position(), list(rows), step))
            else:
                segments.append(step, _table(step, 3))
                newest = max(directory.glob("*.arrows"))
                os.truncate(newest, max(0, newest.stat().st_size - number))
                # The manifest of the newest commit may be damaged: then an older one is gone back to.
                del committed[max(1, len(committed) - back) :]
                position, rows, step = committed[-1][0], list(committed[-1][1]), committed[-1][2]
                segments = Segments(directory)
                cut_into = newest.name == position.name and newest.stat().st_size < position.newest.num_bytes
                notes = segments.roll_back(position)
                if cut_into:
                    assert len(notes) == 1
                    return
                assert notes == []
            if event != "append":
                assert _steps(directory) == rows
        assert _steps(directory) == rows
        assert len(list(directory.glob("*"))) <= step // 4 + 2


def test_a_segment_holds_so_many_steps_and_is_listed_once_finished(tmp_path: Path) -> None:
    segments, position = _written(tmp_path / "outcomes", 10)
    names = sorted(path.name for path in segments.directory.iterdir())
    assert names == ["from_step_00000000.arrows", "from_step_00000004.arrows", "from_step_00000008.arrows", INDEX]
    assert position.name == "from_step_00000008.arrows"
    index = (segments.directory / INDEX).read_bytes()
    assert [line.split(b'"')[3].decode() for line in index.splitlines()] == names[:2]
    assert segments.position() == position
    assert (segments.directory / INDEX).read_bytes() == index
    assert Segments(segments.directory).position() == position


def test_what_is_cut_off_can_be_read_in_discarded(tmp_path: Path) -> None:
    segments, position = _written(tmp_path / "outcomes", 6)
    for step in range(6, 9):
        segments.append(step, _table(step, 1))
    assert segments.roll_back(position) == []
    assert _steps(tmp_path / "outcomes") == list(range(6))
    discarded = sorted((tmp_path / "discarded" / "outcomes").iterdir())
    assert [pa.ipc.open_stream(str(path)).read_all()["step"].to_pylist() for path in discarded] == [[6, 7], [8]]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, _flip, lambda path: os.truncate(path, 900)])
def test_damage_ends_no_run_and_is_said(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    directory = tmp_path / "outcomes"
    _, position = _written(directory, 10)
    damage(directory / position.name)
    segments = Segments(directory)
    (note,) = segments.roll_back(position)
    assert note.startswith(f"outcomes/{position.name}: expected {position.newest.num_bytes} bytes")
    assert "begun anew; the run goes on" in note
    segments.append(10, _table(10, 1))
    assert _steps(directory) == [*range(8), 10]
    assert Segments(directory).roll_back(segments.position()) == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 900)])
def test_a_finished_segment_that_lost_bytes_is_said_and_readers_find_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    directory = tmp_path / "outcomes"
    _, position = _written(directory, 10)
    damage(directory / "from_step_00000004.arrows")
    (note,) = Segments(directory).roll_back(position)
    assert "outcomes/from_step_00000004.arrows: expected" in note
    assert [bool(segment.damage) for segment in read_segments(directory)] == [False, True, False]


def test_a_finished_segment_of_other_bytes_is_found_by_its_readers(tmp_path: Path) -> None:
    _written(tmp_path, 10)
    path = tmp_path / "from_step_00000000.arrows"
    content = path.read_bytes()
    at = content.index(b"row 1") if b"row 1" in content else len(content) - 20
    path.write_bytes(content[:at] + b"R" + content[at + 1 :])
    assert [bool(segment.damage) for segment in read_segments(tmp_path)] == [True, False, False]


def test_a_list_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    directory = tmp_path / "outcomes"
    _, position = _written(directory, 10)
    before = (directory / INDEX).read_bytes()
    _flip(directory / INDEX)
    (note,) = Segments(directory).roll_back(position)
    assert note.startswith("outcomes/segments.jsonl: not as it was written: made anew from the 2 finished segments")
    assert (directory / INDEX).read_bytes() == before
    assert Segments(directory).roll_back(position) == []


def test_two_writers_are_noticed(tmp_path: Path) -> None:
    one, two = Segments(tmp_path), Segments(tmp_path)
    one.append(1, _table(1))
    two.append(2, _table(2))
    with pytest.raises(DataError, match=r"somebody else writes into run\.directory"):
        one.append(3, _table(3))


def test_an_append_that_fails_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = Segments(tmp_path)
    segments.append(1, _table(1))
    path = tmp_path / "from_step_00000000.arrows"
    before = path.read_bytes()
    real = Path.open

    class Full:
        """A file on a disk that takes ten more bytes."""

        def __init__(self, file: object) -> None:
            self._file, self._room = file, 10

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()  # type: ignore[attr-defined]

        def write(self, data: memoryview) -> int:
            if not self._room:
                raise OSError(28, "No space left on device")
            written = self._file.write(data[: self._room])  # type: ignore[attr-defined]
            self._room = 0
            return int(written)

    monkeypatch.setattr(Path, "open", lambda self, *args, **more: Full(real(self, *args, **more)))
    with pytest.raises(StorageError, match=r"arrows: no room: the disk is full"):
        segments.append(2, _table(2))
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_table_of_a_file_per_step_is_still_read(tmp_path: Path) -> None:
    for step in (1, 2):
        pq.write_table(_table(step, 1), tmp_path / f"step_{step:06d}.parquet")
    assert _steps(tmp_path) == [1, 2]
