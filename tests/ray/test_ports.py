"""Every port on which a job's processes listen beyond loopback stands in SECURITY.md."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.processes import ROOT, SMALL_RUN, end, process_tree, start_job, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # needs a Ray of its own


def _listening() -> dict[str, tuple[str, int]]:
    """Address and port of every listening TCP socket of this machine, by inode."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] != "0A":
                continue
            number = address[-8:]  # of an IPv6 address its last word, which holds a mapped IPv4 one
            text = "any" if set(address) == {"0"} else socket.inet_ntoa(struct.pack("<I", int(number, 16)))
            found[fields[9]] = text, int(port, 16)
    return found


def _sockets(pid: int) -> Iterator[str]:
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            link = os.readlink(descriptor)
            if link.startswith("socket:["):
                yield link[len("socket:[") : -1]
    except OSError:
        return


def _what(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
    for what in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "ray::", "jobs.train"):
        if what in command:
            return what
    return command[:80]


@pytest.mark.timeout(300)
def test_what_listens_beyond_loopback_is_written_down(tmp_path: Path) -> None:
    settings = (
        "run.num_steps=5000",
        "run.max_idle_steps=null",
        "rollout.engine=simulated",
        "selection.selector=uniform",
    )
    process = start_job("train", *SMALL_RUN, *settings, f"run.directory={tmp_path / 'run'}", log=tmp_path / "log")
    try:
        wait_for("a step", lambda: (tmp_path / "run" / "metrics.jsonl").exists())
        listening = _listening()
        seen = {
            (_what(pid), *listening[inode])
            for pid in process_tree(process.pid)
            for inode in _sockets(pid)
            if inode in listening
        }
        beyond = {(what, address, port) for what, address, port in seen if address != "127.0.0.1"}
        assert {"gcs_server", "raylet", "ray::"} <= {what for what, _, _ in beyond}
        table = (ROOT / "SECURITY.md").read_text()
        for what in {what for what, _, _ in beyond}:
            assert re.search(rf"^\| `{re.escape(what)}` \|", table, re.M), (
                f"{what} listens, and SECURITY.md does not say so"
            )
        answers = {
            what: {_answer(port, address) for w, address, port in beyond if w == what}
            for what in ("DashboardAgent", "RuntimeEnvAgent")
        }
        assert answers["RuntimeEnvAgent"] <= {401}, "without the token it turns away"
        assert 200 in answers["DashboardAgent"], "metrics are open, as SECURITY.md says"
    finally:
        end(process)


def _answer(port: int, address: str) -> int:
    """The status of a GET without a token; 0 where it speaks no HTTP."""
    try:
        return requests.get(f"http://{'127.0.0.1' if address == 'any' else address}:{port}/", timeout=10).status_code
    except requests.RequestException:
        return 0
