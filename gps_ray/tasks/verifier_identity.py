"""Which code judges: what kept verdicts must be known by."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from gps_ray.tasks.functions import FunctionTask
from gps_ray.tasks.interface import Task

__all__ = ["foreign_identity", "verifier_identity"]

_OWN = Path(__file__).parent
# What built-in verifiers leave the judging to.
_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym")


def verifier_identity(task: Task) -> str:
    """A hash of all that decides the task's verdicts: the sources of gps-ray's verifiers, of the user's own (those that
    a task asks in turn among them, ``parts``), and the versions of the packages that built-in ones ask."""
    return _hash([*sorted(_OWN.rglob("*.py")), *sorted({*_files(task)})])


def foreign_identity(task: Task) -> str:
    """The same without gps-ray's own sources: the user's files and the versions of packages."""
    return _hash(sorted({*_files(task)}))


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for package in _PACKAGES:
        digest.update(f"{package} {_version(package)}\0".encode())
    return digest.hexdigest()[:16]


def _files(task: Task) -> Iterator[Path]:
    file = Path(task.source_file if isinstance(task, FunctionTask) else inspect.getfile(type(task)))
    if not file.is_relative_to(_OWN):
        yield file
    for part in getattr(task, "parts", ()):
        yield from _files(part)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
