"""Weights by NCCL, where every train worker and every rank of an engine has a GPU of its own, on any nodes.

What travels as a value is the learner's address; the engine asks there and train worker 0 broadcasts from copies of the
parameters (``device_snapshots``), on a CUDA stream of its own. What the two say to each other is in
``nccl_connection``; vLLM's own backend ``nccl`` receives.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gps_ray.weights.device_snapshots import DeviceSnapshots, TensorList, tensor_list
from gps_ray.weights.interface import (
    Publisher,
    PublisherSettings,
    ReceiverSettings,
    Transport,
    VllmBackend,
    VllmUpdate,
    WeightPayload,
    WeightSource,
    payload_of,
)
from gps_ray.weights.nccl_connection import LearnerConnection, SenderAddress, SendGroup, WeightSender

__all__ = ["TRANSPORT", "NcclGroup", "NcclPayload", "NcclPublisher", "NcclReceiver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclPayload(WeightPayload):
    """What will be broadcast, and where to ask for it until ``num_live_versions`` more have been published."""

    tensors: TensorList
    sender: SenderAddress


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


class NcclPublisher:
    """On train worker 0: keeps and sends what all of them gather there. ``open_group`` is the sender's."""

    def __init__(
        self, settings: PublisherSettings, open_group: Callable[[Mapping[str, Any], socket.socket], SendGroup]
    ) -> None:
        self._snapshots = DeviceSnapshots(settings.num_live_versions, getattr(torch, settings.dtype), tensor_list)
        self._sender = WeightSender(
            self._snapshots.copies, open_group, host=settings.host, deadline_s=settings.deadline_s
        )

    def publish(self, source: WeightSource) -> NcclPayload:
        tensors = self._snapshots.publish(source.policy_version, source.device_weights())
        return NcclPayload(tensors=tensors, sender=self._sender.address)

    def close(self) -> None:
        self._sender.close()
        self._snapshots.close()


class _Gathering:
    """On the other train workers: takes part in gathering, parameter by parameter, and keeps nothing."""

    def publish(self, source: WeightSource) -> None:
        for _ in source.device_weights():
            pass

    def close(self) -> None:
        """Nothing was opened."""


def _publisher(settings: PublisherSettings) -> Publisher:
    if settings.rank:
        return _Gathering()
    device = torch.device("cuda", torch.cuda.current_device())
    return NcclPublisher(settings, partial(NcclGroup, device=device, deadline_s=settings.deadline_s))


class NcclReceiver:
    def __init__(self, settings: ReceiverSettings) -> None:
        self._learner = LearnerConnection(settings.num_ranks, settings.deadline_s)

    @contextmanager
    def receiving(self, policy_version: int, payload: WeightPayload) -> Iterator[VllmUpdate]:
        payload = payload_of(NcclPayload, payload)
        with self._learner.receiving(payload.sender, policy_version) as init_info:
            yield VllmUpdate(update_info=payload.tensors.update_info(), init_info=init_info)


TRANSPORT = Transport(
    # Set up by the first load, which names the group to enter.
    backend=VllmBackend(name="nccl"),
    publisher=_publisher,
    receiver=NcclReceiver,
    gpus="own",
)
