"""Weights through Ray's object store: numpy arrays by name, which every worker of a node reads from the same memory.

Works everywhere, with every engine; on a GPU it is a copy through the host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gps_ray.weights.interface import (
    PublisherSettings,
    ReceiverSettings,
    Transport,
    VllmBackend,
    VllmUpdate,
    WeightPayload,
    WeightSource,
    payload_of,
)

__all__ = ["TRANSPORT", "ObjectStorePayload", "ObjectStorePublisher", "ObjectStoreReceiver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStorePayload(WeightPayload):
    """All parameters by their Hugging Face names. Out of the object store they are read-only views of its memory."""

    arrays: Mapping[str, NDArray[Any]]


class ObjectStorePublisher:
    def __init__(self, settings: PublisherSettings) -> None:
        """Needs none of them."""

    def publish(self, source: WeightSource) -> ObjectStorePayload:
        return ObjectStorePayload(arrays=source.weights())

    def close(self) -> None:
        """Nothing was opened."""


class ObjectStoreReceiver:
    def __init__(self, settings: ReceiverSettings) -> None:
        self._num_ranks = settings.num_ranks

    @contextmanager
    def receiving(self, policy_version: int, payload: WeightPayload) -> Iterator[VllmUpdate]:
        arrays = payload_of(ObjectStorePayload, payload).arrays
        if self._num_ranks == 1:
            # The engine's only rank lives in this process: the arrays are handed over as they are.
            yield VllmUpdate(update_info={"arrays": arrays})
        else:
            with _shared_file(arrays) as file:
                yield VllmUpdate(update_info={"file": file})


@contextmanager
def _shared_file(arrays: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """The ranks are other processes on this node: a file in shared memory costs one copy, a message several."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        file = Path(folder) / "policy.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
        yield str(file)


TRANSPORT = Transport(
    backend=VllmBackend(
        name="object_store", worker_extension="gps_ray.weights.vllm_backend.WorkerExtension", init_info={}
    ),
    publisher=ObjectStorePublisher,
    receiver=ObjectStoreReceiver,
    engines=None,
)
