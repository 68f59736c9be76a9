"""The learner's sender against the engine's own connection, over real sockets; a queue stands for the process group."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor

from gps_ray.errors import RolloutError
from gps_ray.learning.device_snapshots import DeviceSnapshots
from gps_ray.learning.weight_sender import WeightSender
from gps_ray.rollout.weight_transfer import LearnerConnection, update_info

WAIT_S = 30


class _Group:
    def __init__(self, init_info: Mapping[str, Any]) -> None:
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
        self.snapshots = DeviceSnapshots(2, torch.float32, None)
        self.sender = WeightSender(self.snapshots.copies, self._open, host="127.0.0.1", deadline_s=deadline_s)

    def _open(self, init_info: Mapping[str, Any]) -> _Group:
        self.groups.append(_Group(init_info))
        return self.groups[-1]

    def group(self, init_info: Mapping[str, Any] | None) -> _Group:
        """The one that an engine was told of, which may still be opening; the newest for None."""
        end = time.monotonic() + WAIT_S
        while init_info is not None and not any(group.init_info == init_info for group in self.groups):
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.groups[-1]

    def publish(self, version: int) -> dict[str, Any]:
        pairs = [("a", torch.full((2,), float(version))), ("b", torch.full((3,), -float(version)))]
        return {**self.snapshots.publish(version, pairs), "sender": self.sender.address}


@pytest.fixture
def learner() -> _Learner:
    return _Learner()


def _engine(num_ranks: int = 1) -> LearnerConnection:
    return LearnerConnection(num_ranks, WAIT_S)


def _load(engine: LearnerConnection, learner: _Learner, message: Mapping[str, Any], version: int) -> Any:
    """The init info, and what came over the group that is the newest."""
    with engine.receiving(message, version) as init_info:
        group = learner.group(init_info)
        received = [group.received.get(timeout=WAIT_S) for _ in message["names"]]
        assert [list(tensor.shape) for tensor in received] == message["shapes"]
        assert [tensor[0].item() for tensor in received] == [version, -version]
    return init_info


def test_the_first_load_makes_a_group_and_later_ones_use_it(learner: _Learner) -> None:
    engine = _engine(num_ranks=4)
    init_info = _load(engine, learner, learner.publish(1), 1)
    assert init_info == learner.groups[0].init_info
    assert (init_info["rank_offset"], init_info["world_size"]) == (1, 5)
    message = learner.publish(2)
    assert _load(engine, learner, message, 2) is None
    # An older version that is still held, as a restarted worker loads it.
    assert _load(engine, learner, message, 1) is None
    assert len(learner.groups) == 1
    assert update_info(message).keys() == {"names", "dtype_names", "shapes"}


def _begin_to_receive_and_vanish(engine: LearnerConnection, message: Mapping[str, Any]) -> None:
    loading = engine.receiving(message, 1)
    loading.__enter__()
    engine.close()


def test_an_engine_that_leaves_takes_its_own_group_with_it_even_while_it_receives(learner: _Learner) -> None:
    message = learner.publish(1)
    engines = [_engine(), _engine()]
    for engine in engines:
        _load(engine, learner, message, 1)
    learner.groups[1].arrives.clear()
    _begin_to_receive_and_vanish(engines[1], message)
    assert learner.groups[1].closed.wait(WAIT_S)
    assert not learner.groups[0].closed.is_set()
    assert _load(_engine(), learner, message, 1) is not None
    assert len(learner.groups) == 3


def test_what_is_no_longer_held_is_refused_and_the_connection_goes_on(learner: _Learner) -> None:
    engine = _engine()
    messages = {version: learner.publish(version) for version in (1, 2, 3)}
    with (
        pytest.raises(RolloutError, match="no longer holds policy version 1"),
        engine.receiving(messages[1], 1),
    ):
        pytest.fail("nothing is sent")
    _load(engine, learner, messages[3], 3)


def test_a_version_overwritten_while_it_is_sent_is_an_error(learner: _Learner) -> None:
    engine = _engine()
    message = learner.publish(1)
    _load(engine, learner, message, 1)
    learner.groups[0].arrives.clear()
    loading = engine.receiving(message, 1)
    loading.__enter__()
    learner.publish(2)
    learner.publish(3)
    learner.groups[0].arrives.set()
    with pytest.raises(RolloutError, match="overwritten while it was sent"):
        loading.__exit__(None, None, None)


def test_a_broadcast_that_never_ends_is_given_up() -> None:
    learner = _Learner(deadline_s=0.2)
    engine = _engine()
    message = learner.publish(1)
    _load(engine, learner, message, 1)
    learner.groups[0].arrives.clear()
    with pytest.raises(RolloutError, match="left while it was to send"), engine.receiving(message, 1):
        assert learner.groups[0].closed.wait(WAIT_S)
    learner.groups.clear()
    assert _load(engine, learner, message, 1) is not None


def test_an_engine_follows_a_restarted_learner(learner: _Learner) -> None:
    engine = _engine()
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
    message["sender"] = {**message["sender"], **change}
    with pytest.raises(RolloutError, match=rf"^rollout\.vllm\.weight_transfer: no connection.*{expected}") as caught:
        _load(_engine(), learner, message, 1)
    assert "rollout.vllm.weight_transfer=object_store" in str(caught.value)
    # A stranger does not stop the sender.
    _load(_engine(), learner, learner.publish(2), 2)


def test_weights_in_place_of_an_address_are_refused() -> None:
    with pytest.raises(RolloutError, match="nccl expected the learner's address"), _engine().receiving({"a": 1}, 1):
        pytest.fail("nothing is sent")
