"""Ray's head and this machine's raylet: do they answer, and what becomes of a job when they do so no longer.

Ray would wait for minutes, then end the process from native code without a line. Nothing that is asked of Ray can be
relied on without a head, so the head is asked by a plain socket, and a job that lost it ends at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gps_ray.base.errors import LostError, ResourceError, one_line

__all__ = ["ask_head", "bounded", "end_now", "head_watched"]

ANSWER_DEADLINE_S = 4.0
_PERIOD_S = 2.0
# The head speaks gRPC: HTTP/2's client preface and an empty SETTINGS frame; a server's first frame is of that type too.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def ask_head(address: str, deadline_s: float = ANSWER_DEADLINE_S) -> str:
    """Why nobody, or no gRPC server, answers at ``host:port``; "" where one does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=deadline_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""  # it would say nothing before its own handshake
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except TimeoutError:
        return f"no answer within {deadline_s:g} s"
    except (OSError, OverflowError, UnicodeError, ValueError) as error:
        return one_line(error)
    return "" if len(answer) > 3 and answer[3] == _SETTINGS else "what answers is no Ray head"


@contextlib.contextmanager
def bounded(deadline_s: float, what: str) -> Iterator[None]:
    """End the process with one line where the block takes longer: it may hang in native code, where no exception
    comes in."""

    def overdue() -> None:
        end_now(f"{what} within {deadline_s:g} s (cluster.connect_deadline_s)", ResourceError.exit_code)

    timer = threading.Timer(deadline_s, overdue)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def head_watched(address: str, raylet_socket: str, deadline_s: float) -> Iterator[None]:
    """Within the block the process ends, with one line and LostError's exit code, once the head at ``address`` has not
    answered for ``deadline_s``, or nobody listens on the raylet's Unix socket any more: Ray may hang then."""
    ended = threading.Event()

    def watch() -> None:
        answered = time.monotonic()
        while not ended.wait(_PERIOD_S):
            if not _listens(raylet_socket) and not ended.wait(_PERIOD_S):
                end_now(
                    "this machine's Ray node (raylet) was lost; where it is not the job's own start it again, then "
                    "--resume goes on from the last checkpoint",
                    LostError.exit_code,
                )
            reason = ask_head(address)
            if not reason:
                answered = time.monotonic()
            elif time.monotonic() - answered > deadline_s and not ended.is_set():
                end_now(
                    f"Ray's head (gcs) at {address} has not answered for {deadline_s:g} s "
                    f"(cluster.head_deadline_s; {reason}); start one, then --resume goes on from the last checkpoint",
                    LostError.exit_code,
                )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _listens(path: str) -> bool:
    """Does a process listen on this Unix socket? One that is only busy does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_DEADLINE_S)
        try:
            connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
    return True


def end_now(line: str, code: int) -> None:
    """This process and all below it, at once: what Ray would clean up needs the head."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    for pid in _below(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    os._exit(code)


def _below(pid: int) -> list[int]:
    """All processes that descend from ``pid``."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:  # it grows on the way
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]
