"""Weights through Ray's object store: numpy arrays by name, which every worker of a node reads from the same memory.

Works everywhere, with every engine; on a GPU it is a copy through the host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gps_ray.weights.host_arrays import in_dtype, tensors
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

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TRANSPORT", "ObjectStorePayload", "ObjectStorePublisher", "ObjectStoreReceiver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStorePayload(WeightPayload):
    """All parameters by their Hugging Face names; those named in ``bfloat16`` as bits of it (``host_arrays``). Out
    of the object store they are read-only views of its memory."""

    arrays: Mapping[str, NDArray[Any]]
    bfloat16: frozenset[str] = frozenset()

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def tensors(self) -> dict[str, Tensor]:
        """The same memory, to be read only."""
        return dict(tensors(self.arrays, self.bfloat16))


class ObjectStorePublisher:
    """Rounds to the engines' dtype before anything is stored: they would when they load, and half the bytes travel."""

    def __init__(self, settings: PublisherSettings) -> None:
        self._dtype = settings.dtype

    def publish(self, source: WeightSource) -> ObjectStorePayload:
        arrays, bfloat16 = in_dtype(dict(source.weights()), self._dtype)
        return ObjectStorePayload(arrays=arrays, bfloat16=bfloat16)

    def close(self) -> None:
        """Nothing was opened."""


class ObjectStoreReceiver:
    def __init__(self, settings: ReceiverSettings) -> None:
        self._num_ranks = settings.num_ranks

    @contextmanager
    def receiving(self, policy_version: int, payload: WeightPayload) -> Iterator[VllmUpdate]:
        found = payload_of(ObjectStorePayload, payload)
        if self._num_ranks == 1:
            # The engine's only rank lives in this process: the arrays are handed over as they are.
            yield VllmUpdate(update_info={"arrays": found.arrays, "bfloat16": found.bfloat16})
        else:
            with _shared_file(found) as file:
                yield VllmUpdate(update_info={"file": file})


@contextmanager
def _shared_file(payload: ObjectStorePayload) -> Iterator[str]:
    """The ranks are other processes on this node: a file in shared memory costs one copy, a message several."""
    from safetensors.torch import save_file

    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        file = Path(folder) / "policy.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in payload.tensors().items()}, file)
        yield str(file)


TRANSPORT = Transport(
    backend=VllmBackend(
        name="object_store", worker_extension="gps_ray.weights.vllm_backend.WorkerExtension", init_info={}
    ),
    publisher=ObjectStorePublisher,
    receiver=ObjectStoreReceiver,
    engines=None,
)
