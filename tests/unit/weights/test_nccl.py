"""The learner's publisher against the engine's own connection, over real sockets. A queue stands for the process group.
``tests/ray/test_nccl_engines.py`` kills engines."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from queue import Queue
from typing import Any

import pytest
from torch import Tensor

from gps_ray.base.errors import RolloutError
from gps_ray.weights.interface import VllmUpdate
from gps_ray.weights.nccl import NcclPayload, NcclPublisher, NcclReceiver
from tests.unit.weights.nccl_parts import WAIT_S, NumberedPolicy, nccl_receiver, publisher_settings


class _Group:
    def __init__(self, init_info: Mapping[str, Any], listener: socket.socket) -> None:
        assert listener.getsockname() == (init_info["master_address"], init_info["master_port"])
        listener.close()
        self.init_info = dict(init_info)
        self.received: Queue[Tensor] = Queue()
        self.arrives = threading.Event()
        self.arrives.set()
        self.closed = threading.Event()

    def send(self, tensors: Iterable[Tensor]) -> Callable[[], bool]:
        for tensor in tensors:
            self.received.put(tensor.clone())
        return self.arrives.is_set

    def close(self) -> None:
        self.closed.set()


class _Learner:
    def __init__(self, deadline_s: float = WAIT_S) -> None:
        self.groups: list[_Group] = []
        self.publisher = NcclPublisher(publisher_settings(deadline_s), self._open)

    def _open(self, init_info: Mapping[str, Any], listener: socket.socket) -> _Group:
        self.groups.append(_Group(init_info, listener))
        return self.groups[-1]

    def group(self, init_info: Mapping[str, Any] | None) -> _Group:
        """The one that an engine was told of, which may still be opening; the newest for None."""
        end = time.monotonic() + WAIT_S
        while init_info is not None and not any(group.init_info == init_info for group in self.groups):
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.groups[-1]

    def publish(self, version: int, num_more: int = 0) -> NcclPayload:
        return self.publisher.publish(NumberedPolicy(version, num_more))


@pytest.fixture
def learner() -> Iterator[_Learner]:
    learner = _Learner()
    yield learner
    learner.publisher.close()


def _take(group: _Group, update: VllmUpdate) -> list[Tensor]:
    received = [group.received.get(timeout=WAIT_S) for _ in update.update_info["names"]]
    assert [list(tensor.shape) for tensor in received] == update.update_info["shapes"]
    return received


def _load(engine: NcclReceiver, learner: _Learner, payload: NcclPayload, version: int) -> Any:
    """The init info, and what came over the group that is the newest."""
    with engine.receiving(version, payload) as update:
        received = _take(learner.group(update.init_info), update)
        assert [tensor[0].item() for tensor in received] == [version, -version]
        assert update.update_info.keys() == {"names", "dtype_names", "shapes"}
    return update.init_info


def test_the_first_load_makes_a_group_and_later_ones_use_it(learner: _Learner) -> None:
    engine = nccl_receiver(num_ranks=4)
    init_info = _load(engine, learner, learner.publish(1), 1)
    assert init_info == learner.groups[0].init_info
    assert (init_info["rank_offset"], init_info["world_size"]) == (1, 5)
    message = learner.publish(2)
    assert _load(engine, learner, message, 2) is None
    # An older version that is still held, as a restarted worker loads it.
    assert _load(engine, learner, message, 1) is None
    assert len(learner.groups) == 1


def _begin_to_receive_and_vanish(engine: NcclReceiver, payload: NcclPayload, version: int = 1) -> None:
    loading = engine.receiving(version, payload)
    loading.__enter__()
    engine._learner.close()


def test_an_engine_that_leaves_takes_its_own_group_with_it_even_while_it_receives(learner: _Learner) -> None:
    message = learner.publish(1)
    engines = [nccl_receiver(), nccl_receiver()]
    for engine in engines:
        _load(engine, learner, message, 1)
    learner.groups[1].arrives.clear()
    _begin_to_receive_and_vanish(engines[1], message)
    assert learner.groups[1].closed.wait(WAIT_S)
    assert not learner.groups[0].closed.is_set()
    assert _load(nccl_receiver(), learner, message, 1) is not None
    assert len(learner.groups) == 3


def test_what_is_no_longer_held_is_refused_and_the_connection_goes_on(learner: _Learner) -> None:
    engine = nccl_receiver()
    messages = {version: learner.publish(version) for version in (1, 2, 3)}
    with (
        pytest.raises(RolloutError, match="no longer holds policy version 1"),
        engine.receiving(1, messages[1]),
    ):
        pytest.fail("nothing is sent")
    _load(engine, learner, messages[3], 3)


def test_a_version_overwritten_while_it_is_sent_is_an_error(learner: _Learner) -> None:
    engine = nccl_receiver()
    message = learner.publish(1)
    _load(engine, learner, message, 1)
    learner.groups[0].arrives.clear()
    loading = engine.receiving(1, message)
    loading.__enter__()
    learner.publish(2)
    learner.publish(3)
    learner.groups[0].arrives.set()
    with pytest.raises(RolloutError, match="overwritten while it was sent"):
        loading.__exit__(None, None, None)


def test_a_broadcast_that_never_ends_is_given_up() -> None:
    learner = _Learner(deadline_s=0.2)
    engine = nccl_receiver()
    message = learner.publish(1)
    _load(engine, learner, message, 1)
    learner.groups[0].arrives.clear()
    with pytest.raises(RolloutError, match="left while it was to send"), engine.receiving(1, message):
        assert learner.groups[0].closed.wait(WAIT_S)
    learner.groups.clear()
    assert _load(engine, learner, message, 1) is not None


def test_a_model_of_many_tensors_is_not_queued_at_once(learner: _Learner) -> None:
    """Where the engine leaves in the midst of it, what is queued without end would never be looked at again."""
    engine = nccl_receiver()
    _load(engine, learner, learner.publish(1), 1)
    message = learner.publish(2, num_more=2000)
    with engine.receiving(2, message) as update:
        assert len(_take(learner.groups[0], update)) == 2002
    learner.groups[0].arrives.clear()
    _begin_to_receive_and_vanish(engine, message, 2)
    assert learner.groups[0].closed.wait(WAIT_S)
    assert 0 < learner.groups[0].received.qsize() < 1000


def test_after_an_error_within_the_engine_the_next_load_begins_anew(learner: _Learner) -> None:
    engine = nccl_receiver()
    message = learner.publish(1)
    with pytest.raises(ValueError, match="shape"), engine.receiving(1, message):
        raise ValueError("shape")
    assert _load(engine, learner, message, 1) == learner.groups[1].init_info
    assert learner.groups[0].closed.wait(WAIT_S)


def test_an_engine_follows_a_restarted_learner(learner: _Learner) -> None:
    engine = nccl_receiver()
    _load(engine, learner, learner.publish(1), 1)
    restarted = _Learner()
    assert _load(engine, restarted, restarted.publish(1), 1) == restarted.groups[0].init_info
    assert learner.groups[0].closed.wait(WAIT_S)


def _wrong() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"key": "00"}, "AuthenticationError"
    yield {"port": 1}, "ConnectionRefusedError"


@pytest.mark.parametrize(("change", "expected"), _wrong())
def test_no_way_to_the_learner_is_one_clear_error(learner: _Learner, change: dict[str, Any], expected: str) -> None:
    message = learner.publish(1)
    wrong = replace(message, sender=replace(message.sender, **change))
    with pytest.raises(RolloutError, match=rf"^rollout\.vllm\.weight_transfer: no connection.*{expected}") as caught:
        _load(nccl_receiver(), learner, wrong, 1)
    assert "rollout.vllm.weight_transfer=object_store" in str(caught.value)
    # A stranger does not stop the sender.
    _load(nccl_receiver(), learner, learner.publish(2), 2)


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4)])
def test_strangers_keep_nobody_from_the_learner(learner: _Learner, says: bytes) -> None:
    message = learner.publish(1)
    with closing(socket.create_connection((message.sender.host, message.sender.port))) as stranger:
        stranger.sendall(says)
        with suppress(ConnectionResetError):
            while says and stranger.recv(4096):  # until the sender has had enough of it
                pass
        _load(nccl_receiver(), learner, message, 1)


def _begin(engine: NcclReceiver, payload: NcclPayload, version: int) -> Any:
    loading = engine.receiving(version, payload)
    loading.__enter__()
    return loading


@pytest.mark.parametrize("sends", [False, True])
def test_a_closed_publisher_leaves_no_thread_no_group_and_no_port(sends: bool) -> None:
    others = set(threading.enumerate())
    learner, engines = _Learner(), [nccl_receiver(), nccl_receiver()]
    payload = learner.publish(1)
    for engine in engines:
        _load(engine, learner, payload, 1)
    stranger = socket.create_connection((payload.sender.host, payload.sender.port))
    loading = None
    if sends:
        learner.groups[0].arrives.clear()
        loading = _begin(engines[0], payload, 1)
    learner.publisher.close()
    assert set(threading.enumerate()) - others == set()
    assert [group.closed.is_set() for group in learner.groups] == [True, True]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((payload.sender.host, payload.sender.port))
    with pytest.raises(RolloutError, match="the learner left while it was to send"):
        _load(engines[1], learner, payload, 1)
    if loading is not None:
        with pytest.raises(RolloutError, match="the learner left while it was to send"):
            loading.__exit__(None, None, None)
    stranger.close()
