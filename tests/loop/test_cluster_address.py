"""A Ray that is not there is said within seconds."""

from __future__ import annotations

import socket
from threading import Thread

import pytest

from actors.cluster import cluster_for
from actors.lost_head import ask_head
from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config
from tests.processes import run_code


def _answer_one(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.sendall(answer)
        connection.recv(100)  # to close with something unread would reset the connection


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_listener_that_is_no_ray_head(answer: bytes) -> None:
    with socket.socket() as listening:  # the system accepts; nobody, or another server, speaks
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        if answer:
            Thread(target=_answer_one, args=(listening, answer), daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        run = load_config(TrainConfig, None, [f"cluster.address={address}"])
        said = "what answers is no Ray head" if answer else "no answer within 4 s"
        with pytest.raises(ResourceError, match=rf"nobody answers at {address} \({said}\)"), cluster_for(run):
            pass


def test_a_head_that_answers_in_time_or_not() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        Thread(target=_answer_one, args=(listening, settings), daemon=True).start()
        assert ask_head(f"127.0.0.1:{listening.getsockname()[1]}") == ""
        assert ask_head(f"127.0.0.1:{listening.getsockname()[1]}", 0.2) == "no answer within 0.2 s"


def test_joining_that_hangs_ends_the_process_in_one_line() -> None:
    code = "import time, actors.lost_head as head\nwith head.bounded(0.2, 'cluster.address: no Ray'): time.sleep(60)"
    ended = run_code(code, timeout_s=50)
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: cluster.address: no Ray within 0.2 s (cluster.connect_deadline_s)\n",
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "expected host:port, ray://host:port or auto, got 'nonsense'"),
        ("127.0.0.1:http", "expected host:port"),
        ("127.0.0.1:99999", "nobody answers at 127.0.0.1:99999"),
        ("no.such.host.invalid:6379", "nobody answers at no.such.host.invalid:6379"),
        ("{closed}", "nobody answers at {closed}"),
        ("ray://{closed}", "nobody answers at ray://{closed}"),
    ],
)
def test_an_address_where_nobody_answers(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{bound.getsockname()[1]}"
        address, said = address.format(closed=closed), said.format(closed=closed)
        for config, environment in ((f"cluster.address={address}", None), ("run.seed=0", address)):
            if environment is not None:
                monkeypatch.setenv("RAY_ADDRESS", environment)
            run = load_config(TrainConfig, None, [config])
            with pytest.raises(ResourceError, match=r"^cluster\.address: ") as caught, cluster_for(run):
                pass
            assert said in str(caught.value)
