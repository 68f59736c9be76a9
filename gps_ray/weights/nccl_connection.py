"""What the learner and an engine say to each other around a broadcast; both ends of it.

An engine's connection stands for its life. It has a process group of its own, the learner as rank 0 and the engine's
ranks after it, which begins with its first request and ends with the connection: a killed engine takes nothing away
from the others, and the one started in its place brings a new connection. Sending runs in threads beside the training,
from copies (``device_snapshots``) that the next update does not touch.

On a connection the engine says {policy_version, num_ranks} and hears {init_info}, null where the group is there
already; both enter the broadcast; then it hears {} or, at either point, {error}. All in JSON.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any, Protocol

from torch import Tensor

from gps_ray.base.errors import RolloutError
from gps_ray.weights.interface import KEY, REMEDY

__all__ = ["LearnerConnection", "SendGroup", "SenderAddress", "WeightSender"]

log = logging.getLogger(__name__)

_POLL_S = 0.002
_CLOSE_S = 5.0
# Sent without a look at the engine: a launch waits where about a thousand are queued, which it does for ever once the
# engine has left.
_MAX_TENSORS_QUEUED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderAddress:
    """Where the learner listens, and the key (hex) by which it knows its engines."""

    host: str
    port: int
    key: str


class SendGroup(Protocol):
    """The learner's end of one engine's process group."""

    def send(self, tensors: Iterable[Tensor]) -> Callable[[], bool]:
        """Begin to broadcast, one after the other; what is returned says whether all have arrived."""
        ...

    def close(self) -> None:
        """Give up the group, even in the middle of a broadcast."""
        ...


class WeightSender:
    """Listens on ``host`` from the start until ``close``.

    ``copies(version)``: the tensors of a version in the order of its message, None once they are overwritten.
    ``open_group(init_info, listener)`` waits for the engine at the socket that ``init_info`` names, and owns it.
    ``deadline_s`` is that of one version's broadcasts.
    """

    def __init__(
        self,
        copies: Callable[[int], Mapping[str, Tensor] | None],
        open_group: Callable[[Mapping[str, Any], socket.socket], SendGroup],
        *,
        host: str,
        deadline_s: float,
    ) -> None:
        self._copies = copies
        self._open_group = open_group
        self._host = host
        self._deadline_s = deadline_s
        self._key = secrets.token_bytes(32)
        self._closed = False
        self._lock = threading.Lock()
        self._served: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server((host, 0), backlog=128)
        self._port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def address(self) -> SenderAddress:
        return SenderAddress(host=self._host, port=self._port, key=self._key.hex())

    def close(self) -> None:
        """Take no more connections, end those that are there and give up their groups. A thread that waits for an
        engine to enter its group is left to its deadline."""
        with self._lock:
            self._closed = True
            threads = [self._accepting, *self._served.values()]
            for each in (self._listener, *self._served):
                with suppress(OSError):  # the other end may have left
                    each.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it, which closing does not
        end = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _accept(self) -> None:
        with self._listener:
            while not self._closed:
                try:
                    accepted, _ = self._listener.accept()
                except OSError:
                    time.sleep(_POLL_S)  # it left again, or too many files are open for now
                    continue
                with self._lock:
                    if self._closed:
                        accepted.close()
                        return
                    thread = threading.Thread(target=self._serve, args=(accepted,), daemon=True)
                    self._served[accepted] = thread
                    thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        group: SendGroup | None = None
        connection: Connection[Any, Any] = Connection(os.dup(accepted.fileno()))
        try:
            # Here, not where it is accepted: a stranger may say nothing, or anything.
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            while True:
                request = json.loads(connection.recv_bytes())
                version = request["policy_version"]
                copies = self._copies(version)
                if copies is None:
                    _say(connection, error=f"the learner no longer holds policy version {version}")
                    continue
                if group is None:
                    listener = socket.create_server((self._host, 0))
                    init_info = {
                        "master_address": self._host,
                        "master_port": listener.getsockname()[1],
                        "rank_offset": 1,
                        "world_size": 1 + request["num_ranks"],
                    }
                    _say(connection, init_info=init_info)
                    group = self._open_group(init_info, listener)
                else:
                    _say(connection, init_info=None)
                self._send(list(copies.values()), group, connection)
                if self._copies(version) is None:
                    _say(connection, error=f"policy version {version} was overwritten while it was sent")
                else:
                    _say(connection)
        except (AuthenticationError, EOFError, ConnectionError):
            pass  # a stranger, or the engine is gone, or the sender is closed
        except Exception:
            # It does not come, it hangs, or NCCL fails.
            log.warning("the connection to an engine is given up", exc_info=True)
        finally:
            connection.close()
            if group is not None:
                group.close()
            with self._lock:
                del self._served[accepted]
                accepted.close()

    def _send(self, tensors: Sequence[Tensor], group: SendGroup, connection: Connection[Any, Any]) -> None:
        """Raises EOFError where the engine left, TimeoutError where it takes too long."""
        end = time.monotonic() + self._deadline_s
        for start in range(0, len(tensors), _MAX_TENSORS_QUEUED):
            arrived = group.send(tensors[start : start + _MAX_TENSORS_QUEUED])
            while not arrived():
                # An engine that receives has nothing to say: what can be read is the end of its connection.
                if connection.poll(_POLL_S):
                    raise EOFError
                if time.monotonic() > end:
                    raise TimeoutError(f"an engine did not receive its weights within {self._deadline_s:g} s")


def _say(connection: Connection[Any, Any], **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


class LearnerConnection:
    """An engine's way to the learner's ``WeightSender``."""

    def __init__(self, num_ranks: int, deadline_s: float) -> None:
        """``num_ranks``: of the engine. ``deadline_s``: for each answer."""
        self._num_ranks = num_ranks
        self._deadline_s = deadline_s
        self._sender: SenderAddress | None = None
        self._connection: Connection[Any, Any] | None = None

    @contextmanager
    def receiving(self, sender: SenderAddress, policy_version: int) -> Iterator[Mapping[str, Any] | None]:
        """Within the block the learner sends the version. Yields the init info of the group that has to be entered
        first, None where it is the one of last time. Raises RolloutError where the learner cannot send it."""
        if sender != self._sender:
            self._connect(sender)
        init_info = self._ask(policy_version=policy_version, num_ranks=self._num_ranks)["init_info"]
        try:
            yield init_info
        except BaseException:
            # The learner may be in the midst of it, and its answer must not pass for that to the next question.
            self.close()
            raise
        self._answer()

    def close(self) -> None:
        """Leave; the next load connects anew."""
        if self._connection is not None:
            self._connection.close()
        self._sender, self._connection = None, None

    def _connect(self, sender: SenderAddress) -> None:
        self.close()
        try:
            self._connection = Client((sender.host, sender.port), authkey=bytes.fromhex(sender.key))
        except (OSError, EOFError, AuthenticationError) as error:
            raise RolloutError(
                f"{KEY}: no connection to the learner at {sender.host}:{sender.port} "
                f"({type(error).__name__}: {error}); open the nodes' ports to each other, or {REMEDY}"
            ) from error
        self._sender = sender

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError as error:
            raise self._lost(error) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._connection is not None
        try:
            if not self._connection.poll(self._deadline_s):
                raise TimeoutError(f"no answer in {self._deadline_s:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise self._lost(error) from error
        if "error" in answer:
            raise RolloutError(f"{KEY}: {answer['error']}; {REMEDY}")
        return answer

    def _lost(self, error: Exception) -> RolloutError:
        self.close()
        return RolloutError(
            f"{KEY}: the learner left while it was to send weights ({type(error).__name__}: {error}); see the "
            f"learner's log, raise rollout.start_deadline_s, or {REMEDY}"
        )
