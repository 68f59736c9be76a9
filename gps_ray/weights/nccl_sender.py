"""Published versions sent to vLLM engines by NCCL: the learner's side of vLLM's ``nccl`` weight transfer.

An engine's connection stands for its life. It has a process group of its own, the learner as rank 0 and the engine's
ranks after it, which begins with its first request and ends with the connection: a killed engine takes nothing away
from the others, and the one started in its place brings a new connection. Sending runs in threads and on a CUDA stream
of its own beside the training, from copies (``device_snapshots``) that the next update does not touch.

On a connection the engine says {policy_version, num_ranks} and hears {init_info}, null where the group is there
already; both enter the broadcast; then it hears {} or, at either point, {error}. All in JSON.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["NcclGroup", "SendGroup", "WeightSender"]

log = logging.getLogger(__name__)

_POLL_S = 0.002
# Sent without a look at the engine: a launch waits where about a thousand are queued, which it does for ever once the
# engine has left.
_MAX_TENSORS_QUEUED = 256


class SendGroup(Protocol):
    """The learner's end of one engine's process group."""

    def send(self, tensors: Iterable[Tensor]) -> Callable[[], bool]:
        """Begin to broadcast, one after the other; what is returned says whether all have arrived."""
        ...

    def close(self) -> None:
        """Give up the group, even in the middle of a broadcast."""
        ...


class NcclGroup:
    """By vLLM's own communicator, so that both ends are of one make. ``init_info`` is what the engine is given too,
    ``listener`` the socket at its address.

    It is vLLM's ``trainer_init`` but for two things: a port that nobody can take on the way, and ``deadline_s`` for the
    engine's ranks to come to it.
    """

    def __init__(
        self, init_info: Mapping[str, Any], listener: socket.socket, *, device: torch.device, deadline_s: float
    ) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        torch.cuda.set_device(device)  # a setting of each thread
        world_size = init_info["world_size"]
        # Not by StatelessProcessGroup.create: where nobody comes it closes the socket once more than there is to close,
        # by its number, which may be another thread's file by then.
        store = TCPStore(
            init_info["master_address"],
            init_info["master_port"],
            world_size=world_size,
            is_master=True,
            timeout=timedelta(seconds=deadline_s),
            master_listen_fd=listener.detach(),
            use_libuv=False,  # as at the engine's end
        )
        ranks = StatelessProcessGroup(rank=0, world_size=world_size, store=store)
        self._communicator = PyNcclCommunicator(ranks, device)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def send(self, tensors: Iterable[Tensor]) -> Callable[[], bool]:
        for tensor in tensors:
            self._communicator.broadcast(tensor, src=0, stream=self._stream)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(self._stream)
        return arrived.query

    def close(self) -> None:
        self._communicator.destroy()  # aborts what is under way


class WeightSender:
    """Listens on ``host`` from the start until the process ends.

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
        self._listener = Listener((host, 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> dict[str, Any]:
        """``host``, ``port`` and ``key`` (hex) for ``gps_ray.weights.transfer``."""
        host, port = self._listener.address
        return {"host": host, "port": port, "key": self._key.hex()}

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                time.sleep(_POLL_S)  # it left again, or too many files are open for now
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        group: SendGroup | None = None
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
            pass  # a stranger, or the engine is gone
        except Exception:
            # It does not come, it hangs, or NCCL fails.
            log.warning("the connection to an engine is given up", exc_info=True)
        finally:
            connection.close()
            if group is not None:
                group.close()

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
