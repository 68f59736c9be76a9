"""A real S3 server on this machine (moto), for what talks to one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.processes import end, free_port, wait_for

__all__ = ["s3_bucket"]


@contextlib.contextmanager
def s3_bucket(monkeypatch: pytest.MonkeyPatch, log: Path) -> Iterator[str]:
    """The URI of a new bucket's folder, as ``run.mirror`` takes it, with a %s for the folder's name. This process and
    those that it starts have the keys."""
    pytest.importorskip("moto", reason="needs moto[s3], flask and flask-cors of the dev extra")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for("the S3 server", lambda: _answers(url))
        assert requests.put(f"{url}/bucket", timeout=30).ok
        yield f"s3://bucket/%s?scheme=http&endpoint_override=127.0.0.1:{port}"
    finally:
        end(server)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/moto-api/", timeout=30).status_code > 0
    except requests.RequestException:
        return False
