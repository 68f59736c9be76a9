"""Weights by CUDA IPC, where the learner and all engines share one GPU: handles travel, engines copy within the GPU.

The handles lead to copies of the parameters (``device_snapshots``). vLLM's own backend ``ipc`` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from gps_ray.base.errors import RolloutError
from gps_ray.weights.device_snapshots import DeviceSnapshots, TensorList, tensor_list
from gps_ray.weights.interface import (
    KEY,
    REMEDY,
    PublisherSettings,
    ReceiverSettings,
    Transport,
    VllmBackend,
    VllmUpdate,
    WeightPayload,
    WeightSource,
    payload_of,
)

__all__ = ["TRANSPORT", "IpcPayload", "IpcPublisher", "IpcReceiver", "check_same_gpu", "ipc_handle", "ipc_payload"]

# GPU UUID -> arguments of torch's ``rebuild_cuda_tensor``
IpcHandle = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IpcPayload(WeightPayload):
    """The tensors and a handle for each. Good until ``num_live_versions`` more have been published."""

    tensors: TensorList
    handles: tuple[IpcHandle, ...]

    def update_info(self) -> dict[str, Any]:
        """As vLLM's ipc backend reads it."""
        return {**self.tensors.update_info(), "ipc_handles": list(self.handles)}


def ipc_handle(tensor: Tensor) -> IpcHandle:
    _, arguments = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return {str(torch.cuda.get_device_properties(tensor.device).uuid): arguments}


def ipc_payload(copies: Mapping[str, Tensor], export: Callable[[Tensor], IpcHandle] = ipc_handle) -> IpcPayload:
    """To be made once of tensors that stay where they are: torch keeps exported memory until every receiver has let it
    go, and a killed worker never does."""
    return IpcPayload(tensors=tensor_list(copies), handles=tuple(export(copy) for copy in copies.values()))


class IpcPublisher:
    """On the only train worker that this transport allows."""

    def __init__(self, settings: PublisherSettings) -> None:
        dtype = getattr(torch, settings.dtype)
        self._snapshots = DeviceSnapshots(settings.num_live_versions, dtype, ipc_payload)

    def publish(self, source: WeightSource) -> IpcPayload:
        return self._snapshots.publish(source.policy_version, source.device_weights())

    def close(self) -> None:
        self._snapshots.close()


class IpcReceiver:
    def __init__(self, settings: ReceiverSettings) -> None:
        """Needs none of them."""

    @contextmanager
    def receiving(self, policy_version: int, payload: WeightPayload) -> Iterator[VllmUpdate]:
        payload = payload_of(IpcPayload, payload)
        check_same_gpu(payload, str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))
        yield VllmUpdate(update_info=payload.update_info())


def check_same_gpu(payload: IpcPayload, gpu_uuid: str) -> None:
    """Raise RolloutError where a handle leads to no memory of the engine's own GPU."""
    others = sorted({uuid for handle in payload.handles for uuid in handle} - {gpu_uuid})
    if others:
        raise RolloutError(
            f"{KEY}: with ipc learner and engine must share a GPU, the learner is on {', '.join(others)}, the engine "
            f"on {gpu_uuid}; run on a cluster of one GPU, or {REMEDY}"
        )


TRANSPORT = Transport(
    # Each parameter is exported on its own, unpacked.
    backend=VllmBackend(name="ipc", init_info={"packed": False}),
    publisher=IpcPublisher,
    receiver=IpcReceiver,
    gpus="shared",
)
