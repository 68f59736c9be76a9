"""Tables that grow with the run, in few files that are only appended to: the groups of every step, the probes.

A segment holds the rows of ``STEPS_PER_SEGMENT`` steps as an Arrow stream: the schema, then a batch (zstd) per
append. One that is finished is listed in ``segments.jsonl`` with size and SHA-256, once. So a checkpoint has to hash
the newest segment only, a manifest says how far a table goes in two lines, whatever the length of the run, and going
back to a manifest is cutting two files. The stream has no end mark: any prefix of whole batches is a table.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.storage import writing
from gps_ray.run.stored import FileEntry, Stored, entry_of

__all__ = [
    "INDEX",
    "STEPS_PER_SEGMENT",
    "Position",
    "Segment",
    "Segments",
    "append_whole",
    "files_of",
    "read_segments",
]

STEPS_PER_SEGMENT = 1000
INDEX = "segments.jsonl"
_PREFIX, _SUFFIX = "from_step_", ".arrows"
_END_MARK = 8  # bytes


class Position(Stored):
    """How far a table goes: the first bytes of its newest segment ("" where it has none) and of ``segments.jsonl``."""

    name: str = ""
    newest: FileEntry = FileEntry()
    index: FileEntry = FileEntry()


class _Finished(Stored):
    """A line of ``segments.jsonl``."""

    name: str
    file: FileEntry


class Segments:
    """A table in ``directory``. One process appends, maybe another one asks for positions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._index = directory / INDEX
        self._written: tuple[Path, int] | None = None  # where this process left off

    def append(self, step: int, table: pa.Table) -> str:
        """Append the rows as one batch and return the segment's name. Raises DataError where somebody else has
        appended since this process did, StorageError, with the segment as it was, where they cannot be written."""
        path = self.directory / f"{_PREFIX}{step // STEPS_PER_SEGMENT * STEPS_PER_SEGMENT:08d}{_SUFFIX}"
        with writing(self.directory):
            self.directory.mkdir(exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        if self._written is not None:
            expected = self._written[1] if self._written[0] == path else 0
            if size != expected:
                raise DataError(
                    f"{path}: expected {expected} bytes as this run left it, found {size}: somebody else writes into "
                    "run.directory; end the other run, then go on with --resume, which cuts this back"
                )
        data = _schema_message(table.schema) if size == 0 else b""
        with writing(path):
            append_whole(path, data + _batch_message(table), size)
        self._written = path, path.stat().st_size
        return path.name

    def position(self) -> Position:
        """Where the table ends now, safe on disk; segments that were finished meanwhile are listed first."""
        names = _names(self.directory)
        if not names:
            return Position()
        listed = {line.name for line in _read_index(self._index)}
        new = [name for name in names[:-1] if name not in listed]
        if new:
            lines = [_Finished(name=name, file=entry_of(self.directory / name)).model_dump_json() for name in new]
            size = self._index.stat().st_size if self._index.exists() else 0
            with writing(self._index):
                append_whole(self._index, "".join(line + "\n" for line in lines).encode(), size)
        newest = self.directory / names[-1]
        _sync(newest)
        return Position(name=newest.name, newest=entry_of(newest), index=entry_of(self._index))

    def roll_back(self, position: Position) -> list[str]:
        """Back to ``position``; what was appended since moves to ``discarded/``. Returns what is damaged, a line each.
        Nothing that a run needs to go on is in its tables, so damage ends none: it is said, and mended where it would
        grow."""
        self._written = None
        notes = self._roll_back_index(position)
        finished = _read_index(self._index)
        kept = {INDEX, position.name, *(line.name for line in finished)}
        for path in sorted(self.directory.glob("*")):
            if path.name not in kept:
                self._discard(path)
        for line in finished:
            path = self.directory / line.name
            size = path.stat().st_size if path.exists() else 0
            if size != line.file.num_bytes:
                notes.append(
                    f"{self._name(path)}: expected {line.file.num_bytes} bytes, found {size}: the run goes on; reports "
                    "and replays lack its steps until it is restored"
                )
        return notes + self._roll_back_newest(position)

    def _roll_back_newest(self, position: Position) -> list[str]:
        if not position.name:
            return []
        path, size = self.directory / position.name, position.newest.num_bytes
        if entry_of(path, size) == position.newest:
            if path.stat().st_size > size:
                self._keep_rest(path, size)
                os.truncate(path, size)
            return []
        found = path.stat().st_size if path.exists() else 0
        if path.exists():
            self._discard(path)
        return [
            f"{self._name(path)}: expected {size} bytes as they were written, found {found} bytes or others: moved to "
            "discarded/ and begun anew; the run goes on, reports and replays lack its earlier steps"
        ]

    def _keep_rest(self, path: Path, size: int) -> None:
        with path.open("rb") as file:
            schema = _schema_message(pa.ipc.read_schema(file))
            file.seek(size)
            rest = file.read()
        self._discarded(f"{path.stem}.after_{size}{_SUFFIX}").write_bytes(schema + rest)

    def _roll_back_index(self, position: Position) -> list[str]:
        if entry_of(self._index, position.index.num_bytes) == position.index:
            if self._index.exists():
                os.truncate(self._index, position.index.num_bytes)
            return []
        finished = [name for name in _names(self.directory) if _first_step(name) < _first_step(position.name)]
        lines = [_Finished(name=name, file=entry_of(self.directory / name)).model_dump_json() for name in finished]
        self._index.unlink(missing_ok=True)
        append_whole(self._index, "".join(line + "\n" for line in lines).encode(), 0)
        return [
            f"{self._name(self._index)}: not as it was written: made anew from the {len(finished)} finished segments "
            "that are there; whether one is damaged or lost can no longer be told"
        ]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.directory.parent).as_posix()

    def _discarded(self, name: str) -> Path:
        target = self.directory.parent / "discarded" / self.directory.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _discard(self, path: Path) -> None:
        shutil.move(path, self._discarded(path.name))


def files_of(directory: Path, position: Position) -> dict[str, int]:
    """The table's files at ``position``, by name, each with so many of its first bytes."""
    if not position.name:
        return {}
    index = (directory / INDEX).read_bytes()[: position.index.num_bytes] if position.index.num_bytes else b""
    finished = {line.name: line.file.num_bytes for line in _lines(index)}
    newest = {position.name: position.newest.num_bytes}
    return finished | newest | ({INDEX: position.index.num_bytes} if index else {})


@dataclass(frozen=True, slots=True)
class Segment:
    """``table``: the rows that can be read. ``damage``: why there may be more, "" where the file is whole."""

    path: Path
    table: pa.Table | None
    damage: str = ""


def read_segments(directory: Path) -> Iterator[Segment]:
    """A table's segments by step; finished ones are held to their hash. Of an earlier layout, a Parquet file per step,
    each file is one. Neither a segment that is cut off nor one that is lost raises."""
    for path in sorted(directory.glob("step_*.parquet")):
        yield _read(path, pq.read_table)
    expected = {line.name: line.file for line in _read_index(directory / INDEX)}
    for name in sorted({*_names(directory), *expected}, key=_first_step):
        path = directory / name
        segment = _read(path, _read_stream) if path.exists() else Segment(path, None, "it is not there")
        if not segment.damage and name in expected and entry_of(path) != expected[name]:
            segment = Segment(path, segment.table, f"it is not as {INDEX} says")
        yield segment


def _read(path: Path, reader: Any) -> Segment:
    try:
        result = reader(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        return Segment(path, None, one_line(error))
    return result if isinstance(result, Segment) else Segment(path, result)


def _read_stream(path: Path) -> Segment:
    """All whole batches. Errors before the first one are raised."""
    batches, damage = [], ""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        try:
            batches.extend(reader)
        except (pa.ArrowException, OSError) as error:
            damage = f"cut off after {len(batches)} batches ({one_line(error)})"
        return Segment(path, pa.Table.from_batches(batches, reader.schema), damage)


def _names(directory: Path) -> list[str]:
    return sorted((path.name for path in directory.glob(f"{_PREFIX}*{_SUFFIX}")), key=_first_step)


def _first_step(name: str) -> int:
    digits = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return int(digits) if digits.isdecimal() else 0


def _read_index(path: Path) -> list[_Finished]:
    return _lines(path.read_bytes()) if path.exists() else []


def _lines(index: bytes) -> list[_Finished]:
    """Its whole lines; one that cannot be read is left out."""
    finished = []
    for line in index.split(b"\n")[:-1]:
        try:
            finished.append(_Finished.model_validate_json(line))
        except ValueError:
            continue
    return finished


def _schema_message(schema: pa.Schema) -> bytes:
    message: bytes = schema.serialize().to_pybytes()
    return message


def _batch_message(table: pa.Table) -> bytes:
    """The rows as one message of a stream; none for no rows."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    stream: bytes = sink.getvalue().to_pybytes()
    return stream[len(_schema_message(table.schema)) : -_END_MARK]


def append_whole(path: Path, data: bytes, size: int) -> None:
    """Append all or, where that fails, nothing to a file of ``size`` bytes."""
    with path.open("ab", buffering=0) as file:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except OSError:
            os.truncate(path, size)
            raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
