"""What keeps a file of the run from being written, as one line that says file, need and free."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gps_ray.base.errors import StorageError, one_line

__all__ = ["check_room", "human_bytes", "storage_error", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# With less than this a file system counts as full where a library does not say why it failed.
_ROOM = 1 << 20  # bytes
_GO_ON = "then --resume goes on from the last checkpoint"


@contextmanager
def writing(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Within the block ``path`` is written: an OSError, or one of ``others``, becomes StorageError."""
    kinds: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except kinds as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: BaseException, need: int | None = None) -> StorageError:
    """The StorageError that says why ``path``, of ``need`` bytes, could not be written."""
    code = error.errno if isinstance(error, OSError) else None
    there = path if path.is_dir() else path.parent
    free = _free(there)
    if code in _FULL or (code is None and free is not None and free < _ROOM):
        needs = "" if need is None else f" for {human_bytes(need)}"
        left = "" if free is None else f", {human_bytes(free)} free"
        why = (
            "over the quota or the limit of a file's size"
            if code in (errno.EDQUOT, errno.EFBIG)
            else "the disk is full"
        )
        return StorageError(f"{path}: no room{needs}: {why}{left}; make room, {_GO_ON}")
    if free is None or code in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
        return StorageError(f"{path}: its folder is gone: deleted, or its disk is away; bring it back, {_GO_ON}")
    if code in _REFUSED:
        return StorageError(f"{path}: may not be written ({one_line(error)}); make its folder writable, {_GO_ON}")
    return StorageError(f"{path}: cannot be written ({type(error).__name__}: {one_line(error)}); see to it, {_GO_ON}")


def check_room(path: Path, need: int) -> None:
    """Raise StorageError where the file system of the folder ``path`` has no ``need`` bytes left."""
    free = _free(path)
    if free is not None and free < need:
        raise storage_error(path, OSError(errno.ENOSPC, ""), need)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def human_bytes(num: int) -> str:
    """``num`` bytes in the largest unit that leaves a figure of 1 or more."""
    value, units = float(num), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
