"""What the records of a run folder have in common: models that refuse what they do not know, files by size and hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "FileEntry", "Stored", "entry_of"]

Count = Annotated[int, Field(ge=0)]


class Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Stored):
    """A file, or its first ``num_bytes``."""

    num_bytes: Count = 0
    sha256: str = hashlib.sha256().hexdigest()


def entry_of(path: Path, num_bytes: int | None = None) -> FileEntry:
    """The file's size and SHA-256, or those of its first ``num_bytes``; a file that is not there is empty."""
    if not path.exists():
        return FileEntry()
    with path.open("rb") as file:
        if num_bytes is None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileEntry(num_bytes=file.tell(), sha256=digest)
        # A prefix that is asked for ends in a segment, whose size is bounded.
        begin = file.read(num_bytes)
    return FileEntry(num_bytes=len(begin), sha256=hashlib.sha256(begin).hexdigest())
