"""One driver per run folder, on file systems without locks too.

The holder is the owner of the newest ``driver.lease.<generation>``. A lease appears by ``link`` of a file that was
written whole, which only one of several can do for one generation, on network file systems as well; the newest is never
removed, so no generation comes twice. Its mtime is the sign of life, 0 once it is given up. A newcomer takes the next
generation where the newest is given up, its process is dead (same host) or it gave no sign for ``lease_s``. A holder
that slept finds a newer one, and ends before it writes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gps_ray.base.errors import CheckpointError, StorageError
from gps_ray.base.json_files import parse_json

__all__ = ["Driver", "DriverSign", "Lease", "driver_of", "look_at_driver"]

_NAME = "driver.lease"


@dataclass(frozen=True, slots=True)
class Driver:
    """A process: ``place`` tells boots and containers of one host name apart, ``started`` is in clock ticks."""

    host: str
    place: str
    pid: int
    started: int

    @classmethod
    def this(cls) -> Driver:
        try:
            place = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
        except OSError:
            place = ""
        return cls(socket.gethostname(), place, os.getpid(), _process_start(os.getpid()))

    def is_beside(self, other: Driver) -> bool:
        """Of the same host and boot: whether the other lives can be seen from here."""
        return (self.host, self.place) == (other.host, other.place)

    def is_dead(self) -> bool:
        """Of a process of this host and boot."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it lives, as another user's
        return _process_start(self.pid) != self.started


def _process_start(pid: int) -> int:
    """Clock ticks from boot to the process's start; 0 for one that has ended, or where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


class Lease:
    """The run folder is this driver's within the block. ``clock`` gives seconds since the epoch.

    Entering raises CheckpointError, naming the holder, where another driver holds the folder.
    """

    def __init__(
        self,
        root: Path,
        lease_s: float,
        *,
        driver: Driver | None = None,
        is_dead: Callable[[Driver], bool] = Driver.is_dead,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root, self._lease_s, self._clock, self._is_dead = root, lease_s, clock, is_dead
        self._driver = driver or Driver.this()
        self._path: Path | None = None  # of this driver's lease, while it has one
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> Lease:
        self.take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.release()

    def take(self) -> None:
        """Hold the folder from now on, or raise CheckpointError."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        newest = self._newest()
        if newest is not None and not self._is_over(newest):
            raise CheckpointError(self._held_by(newest))
        path = self._root / f"{_NAME}.{0 if newest is None else _generation(newest) + 1:06d}"
        whole = self._root / f".{_NAME}.{secrets.token_hex(16)}"
        whole.write_text(json.dumps(asdict(self._driver)))
        try:
            os.utime(whole, (self._clock(), self._clock()))
            os.link(whole, path)
        except FileExistsError:
            raise CheckpointError(self._held_by(path)) from None
        finally:
            whole.unlink()
        self._path = path
        self.check()  # who looked long ago may have made an old generation anew
        for older in self._all():
            if _generation(older) < _generation(path):
                older.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise CheckpointError where the folder is no longer this driver's, as after it was stopped for too long,
        StorageError where it is gone."""
        newest = self._newest()
        if newest is None and self._path is not None:
            raise StorageError(
                f"run.directory: {self._root} is gone, or its lease: deleted, or its disk is away; this driver writes "
                "nothing more; bring it back, then --resume goes on from the last checkpoint"
            )
        if self._path is None or newest != self._path:
            raise CheckpointError(f"{self._held_by(newest)}: this driver has lost it and writes nothing more")

    def beat(self) -> None:
        """The sign of life. Nobody heeds that of a lease which is not the newest."""
        if self._path is not None:
            os.utime(self._path, (self._clock(), self._clock()))

    def release(self) -> None:
        """Give the folder up; no harm where it was lost."""
        if self._path is not None and self._path.exists():
            os.utime(self._path, (0, 0))
        self._path = None

    def _beat_on(self) -> None:
        while not self._ended.wait(self._lease_s / 6):
            try:
                self.beat()
            except OSError:
                continue  # lost, which check says, or a file system that is away for a moment

    def _all(self) -> list[Path]:
        return [path for path in self._root.glob(f"{_NAME}.*") if path.suffix[1:].isdecimal()]

    def _newest(self) -> Path | None:
        return max(self._all(), key=_generation, default=None)

    def _is_over(self, path: Path) -> bool:
        if self._silent_s(path) > self._lease_s:
            return True
        holder = _read(path)
        return holder is not None and self._driver.is_beside(holder) and self._is_dead(holder)

    def _silent_s(self, path: Path) -> float:
        try:
            return self._clock() - path.stat().st_mtime
        except FileNotFoundError:  # a newer one has come meanwhile
            return 0.0

    def _held_by(self, path: Path | None) -> str:
        holder = None if path is None else _read(path)
        if path is None or holder is None:
            return f"run.directory: {self._root} is held by another driver; end it, or choose another folder"
        return (
            f"run.directory: {self._root} is held by process {holder.pid} on {holder.host}, which gave a sign of life "
            f"{max(0.0, self._silent_s(path)):.0f} s ago (run.lease_s = {self._lease_s:g}); end it, or choose another"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSign:
    """How the driver of a run folder is, from outside. ``silent_s``: seconds since its last sign of life, None where
    it gave the folder up; ``is_dead``: its process is gone, as far as this host can tell. ``host``: "" where the lease
    does not say."""

    host: str
    pid: int
    silent_s: float | None
    is_dead: bool


def look_at_driver(root: Path, clock: Callable[[], float] = time.time) -> DriverSign | None:
    """Who drives the run or did last; None where there is no lease. Changes nothing."""
    leases = [path for path in root.glob(f"{_NAME}.*") if path.suffix[1:].isdecimal()]
    for path in sorted(leases, key=_generation, reverse=True):
        try:
            beat_at = path.stat().st_mtime
        except FileNotFoundError:  # a newer one has come meanwhile
            continue
        holder = _read(path)
        return DriverSign(
            host=holder.host if holder else "",
            pid=holder.pid if holder else 0,
            silent_s=None if beat_at == 0 else max(0.0, clock() - beat_at),
            is_dead=holder is not None and Driver.this().is_beside(holder) and holder.is_dead(),
        )
    return None


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _read(path: Path) -> Driver | None:
    """Who made the lease; None where that cannot be told, so that only silence ends it."""
    try:
        return driver_of(parse_json(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def driver_of(record: Any) -> Driver:
    """The driver whose fields ``record`` holds. Raises KeyError, TypeError or ValueError where it does not."""
    return Driver(str(record["host"]), str(record["place"]), int(record["pid"]), int(record["started"]))
