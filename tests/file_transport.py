"""A transport of weights as a user would add one: a file that learner and engines see. vLLM reads it by our backend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

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

__all__ = ["TRANSPORT", "FilePayload", "FilePublisher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePayload(WeightPayload):
    path: str


class FilePublisher:
    def __init__(self, settings: PublisherSettings) -> None:
        self._folder = tempfile.TemporaryDirectory()

    def publish(self, source: WeightSource) -> FilePayload:
        path = Path(self._folder.name) / f"{source.policy_version}.safetensors"
        save_file(dict(source.device_weights()), path)
        return FilePayload(path=str(path))

    def close(self) -> None:
        self._folder.cleanup()


class FileReceiver:
    def __init__(self, settings: ReceiverSettings) -> None: ...

    @contextmanager
    def receiving(self, policy_version: int, payload: WeightPayload) -> Iterator[VllmUpdate]:
        yield VllmUpdate(update_info={"file": payload_of(FilePayload, payload).path})


TRANSPORT = Transport(
    backend=VllmBackend(name="object_store", worker_extension="gps_ray.weights.vllm_backend.WorkerExtension"),
    publisher=FilePublisher,
    receiver=FileReceiver,
)
