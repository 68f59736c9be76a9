"""What an evaluation has measured, kept chunk by chunk, so that one that was interrupted goes on.

``responses.jsonl``: a first line with the date that chat templates are told, then a line per finished chunk. A chunk's
key is a hash of all that decides what comes out (``chunk_key``): prompts that share an engine batch are a part of that,
so a chunk is found whole or made anew. A line that a kill cut off is made anew too.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.types import ChunkHeader, GroupFailure, Prompt, RolloutSample, RolloutStatus

__all__ = ["EvaluationCache", "chunk_key"]

_ARRAYS = ("num_right", "num_wrong", "num_failed", "num_truncated", "num_response_tokens", "reward_sum")


def chunk_key(facts: Mapping[str, Any], prompts: Sequence[Prompt]) -> str:
    """Of the chunk of these prompts: ``facts`` is all else that decides the responses and their verdicts."""
    content = [[p.prompt_id, p.answer, [asdict(turn) for turn in p.chat], dict(p.extra_info)] for p in prompts]
    return hashlib.sha256(json.dumps([facts, content], sort_keys=True, default=str).encode()).hexdigest()


class EvaluationCache:
    """Finished chunks by key. Several evaluations may share one; each line is written at once and synced."""

    def __init__(self, path: Path, date: datetime.date) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise DataError(f"--out: cannot use {path}: {error.strerror}; choose another folder") from error
        rows = [row for row in map(_parsed, lines) if row is not None]
        found = next((row["date"] for row in rows if "date" in row), None)
        self.date = datetime.date.fromisoformat(found) if found else date
        self._lines = {row["key"]: row["header"] for row in rows if "key" in row}
        if lines and lines[-1]:
            self._append(b"")  # ends a line that was cut off, so that the next one begins anew
        if not found:
            self._write({"date": date.isoformat()})

    def find(self, key: str) -> ChunkHeader | None:
        row = self._lines.get(key)
        return None if row is None else _header(row)

    def add(self, key: str, header: ChunkHeader) -> None:
        row = {field.name: getattr(header, field.name) for field in fields(header)}
        row |= {name: row[name].tolist() for name in _ARRAYS}
        row |= {name: [asdict(part) for part in row[name]] for name in ("failures", "samples")}
        self._write({"key": key, "header": row})

    def _write(self, row: Mapping[str, Any]) -> None:
        self._append(json.dumps(row, default=int).encode())

    def _append(self, line: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _header(row: Mapping[str, Any]) -> ChunkHeader:
    samples = [RolloutSample(**{**s, "status": RolloutStatus(s["status"])}) for s in row["samples"]]
    plain: dict[str, Any] = {
        **row,
        "prompt_ids": tuple(row["prompt_ids"]),
        "failures": tuple(GroupFailure(**failure) for failure in row["failures"]),
        "samples": tuple(samples),
        "verifier_notes": tuple(row["verifier_notes"]),
        "answers": tuple(tuple((answer, status) for answer, status in group) for group in row["answers"]),
    }
    plain |= {name: np.array(row[name], np.float64 if name == "reward_sum" else np.int32) for name in _ARRAYS}
    return ChunkHeader(**plain)
