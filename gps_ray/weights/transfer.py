"""What an engine hands to vLLM's weight-transfer protocol, and what it settles with the learner before.

Does not import vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any, Literal

from gps_ray.base.errors import RolloutError

__all__ = ["LearnerConnection", "check_same_gpu", "init_info", "update_info"]

_REMEDY = "set rollout.vllm.weight_transfer=object_store"


def init_info(backend: Literal["object_store", "ipc"]) -> dict[str, Any]:
    """What the backend must know before the first update. The learner exports each parameter on its own, unpacked."""
    return {"packed": False} if backend == "ipc" else {}


def update_info(message: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM's ipc and nccl backends are told of an update: the learner's message without what is for us."""
    return {name: value for name, value in message.items() if name != "sender"}


def check_same_gpu(message: Mapping[str, Any], gpu_uuid: str) -> None:
    """Raise RolloutError where the learner's ``message`` (``gps_ray.weights.device_snapshots``) leads to no memory of
    the engine's own GPU: each of its ``ipc_handles`` is a mapping of GPU UUID to handle."""
    handles = message.get("ipc_handles")
    if handles is None:
        raise RolloutError(
            f"rollout.vllm.weight_transfer: ipc expected handles from the learner, got its weights; {_REMEDY}"
        )
    others = sorted({uuid for handle in handles for uuid in handle} - {gpu_uuid})
    if others:
        raise RolloutError(
            f"rollout.vllm.weight_transfer: with ipc learner and engine must share a GPU, the learner is on "
            f"{', '.join(others)}, the engine on {gpu_uuid}; run on a cluster of one GPU, or {_REMEDY}"
        )


class LearnerConnection:
    """An engine's way to the learner's sender (``gps_ray.weights.nccl_sender``, which says what is spoken)."""

    def __init__(self, num_ranks: int, deadline_s: float) -> None:
        """``num_ranks``: of the engine. ``deadline_s``: for each answer."""
        self._num_ranks = num_ranks
        self._deadline_s = deadline_s
        self._sender: Mapping[str, Any] | None = None
        self._connection: Connection[Any, Any] | None = None

    @contextmanager
    def receiving(self, message: Mapping[str, Any], policy_version: int) -> Iterator[dict[str, Any] | None]:
        """Within the block the learner sends the version. Yields the init info of the group that has to be entered
        first, None where it is the one of last time. Raises RolloutError where the learner cannot send it."""
        sender = message.get("sender")
        if sender is None:
            raise RolloutError(
                f"rollout.vllm.weight_transfer: nccl expected the learner's address, got its weights; {_REMEDY}"
            )
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

    def _connect(self, sender: Mapping[str, Any]) -> None:
        self.close()
        try:
            self._connection = Client((sender["host"], sender["port"]), authkey=bytes.fromhex(sender["key"]))
        except (OSError, EOFError, AuthenticationError) as error:
            raise RolloutError(
                f"rollout.vllm.weight_transfer: no connection to the learner at {sender['host']}:{sender['port']} "
                f"({type(error).__name__}: {error}); open the nodes' ports to each other, or {_REMEDY}"
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
            raise RolloutError(f"rollout.vllm.weight_transfer: {answer['error']}; {_REMEDY}")
        return answer

    def _lost(self, error: Exception) -> RolloutError:
        self.close()
        return RolloutError(
            f"rollout.vllm.weight_transfer: the learner left while it was to send weights ({type(error).__name__}: "
            f"{error}); see the learner's log, raise rollout.start_deadline_s, or {_REMEDY}"
        )
