"""Which weights a model folder holds."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["model_fingerprint"]

# What of a model folder decides its responses; a README does not.
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")


def model_fingerprint(directory: Path) -> str:
    """SHA-256 over names and whole contents of a model folder's files. Two checkpoints of one model differ in nothing
    but their numbers, so sizes and headers would not do; a gigabyte takes about a second."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.suffix in _SUFFIXES)
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = list(pool.map(_file_digest, files))
    named = [f"{path.name} {digest}" for path, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
