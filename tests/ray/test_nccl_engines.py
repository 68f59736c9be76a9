"""Engines in processes of their own, whose weights come over sockets. A TCP store stands for the process group."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from torch import Tensor
from torch.distributed import TCPStore

from gps_ray.weights.nccl import NcclPayload, NcclPublisher
from tests.unit.weights.nccl_parts import WAIT_S, NumberedPolicy, nccl_receiver, publisher_settings

pytestmark = pytest.mark.ray


class _StoreGroup:
    """By a TCP store, where vLLM's groups meet too: tensors under running numbers, counted by who takes them."""

    def __init__(self, init_info: Mapping[str, Any], listener: socket.socket | None = None) -> None:
        self._store = TCPStore(
            init_info["master_address"],
            init_info["master_port"],
            world_size=init_info["world_size"],
            is_master=listener is not None,
            timeout=timedelta(seconds=WAIT_S if listener is None else 2),
            master_listen_fd=None if listener is None else listener.detach(),
            use_libuv=False,
        )
        self._num = 0
        self.closed = threading.Event()

    def send(self, tensors: Iterable[Tensor]) -> Callable[[], bool]:
        for tensor in tensors:
            self._store.set(f"tensor/{self._num}", str(tensor[0].item()))
            self._num += 1
        return lambda: self._store.add("num_received", 0) == self._num

    def receive(self) -> float:
        value = float(self._store.get(f"tensor/{self._num}"))
        self._num += 1
        self._store.add("num_received", 1)
        return value

    def close(self) -> None:
        self.closed.set()


def _be_an_engine(orders: Any) -> None:
    """Loads what it is told to, or as far as ``halt`` says, and answers with what it received."""
    engine, group = nccl_receiver(), None
    while True:
        payload, version, halt = orders.recv()
        with engine.receiving(version, payload) as update:
            received: list[float] = []
            for _ in update.update_info["names"]:
                if halt == "entering" or (halt == "receiving" and received):
                    orders.send(received)
                    time.sleep(600)
                if update.init_info is not None and not received:
                    group = _StoreGroup(update.init_info)
                assert group is not None
                received.append(group.receive())
        orders.send(received)


class _EngineProcess:
    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")  # one process imports torch for all
        context.set_forkserver_preload([__name__])
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_be_an_engine, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def load(self, payload: NcclPayload, version: int, halt: str | None = None) -> Any:
        self._orders.send((payload, version, halt))
        assert self._orders.poll(300), "no answer"
        return self._orders.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _num_served(others: set[threading.Thread]) -> int:
    """Connections that are served by threads begun after ``others``, which end when they like."""
    return sum("(_serve)" in thread.name for thread in set(threading.enumerate()) - others)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_engine_takes_nothing_but_its_own_group(caplog: pytest.LogCaptureFixture) -> None:
    """Engines in processes of their own, killed as the pool's are: on the way into the group, and while receiving."""
    groups: list[_StoreGroup] = []

    def open_group(init_info: Mapping[str, Any], listener: socket.socket) -> _StoreGroup:
        groups.append(_StoreGroup(init_info, listener))
        return groups[-1]

    publisher = NcclPublisher(publisher_settings(), open_group)
    others = set(threading.enumerate())

    def publish(version: int) -> NcclPayload:
        return publisher.publish(NumberedPolicy(version))

    engines = [_EngineProcess() for _ in range(4)]
    survivor, successor = engines[0], engines[3]
    try:
        first, second = publish(1), publish(2)
        assert survivor.load(first, 1) == [1.0, -1.0]
        assert engines[1].load(first, 1) == [1.0, -1.0]
        assert engines[1].load(second, 2, halt="receiving") == [2.0]
        engines[1].kill()
        assert groups[1].closed.wait(WAIT_S)
        assert engines[2].load(second, 2, halt="entering") == []
        engines[2].kill()
        assert survivor.load(second, 2) == [2.0, -2.0]
        assert successor.load(second, 2) == [2.0, -2.0]
        third = publish(3)
        assert [engine.load(third, 3) for engine in (survivor, successor)] == [[3.0, -3.0]] * 2
        # The second engine that was killed never came to its group, which is given up at its deadline.
        _until(lambda: _num_served(others) == 2)
        assert "1/2 clients joined" in caplog.text
        assert [group.closed.is_set() for group in groups] == [False, True, False]
    finally:
        for engine in engines:
            engine.kill()
    _until(lambda: _num_served(others) == 0)
    publisher.close()
