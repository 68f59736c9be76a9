"""torch.distributed.checkpoint, in one process or over the workers of a process group, with one-line errors.

Its metadata is a pickle, and so is every value that is not a tensor. A run folder may come from somebody else: the
metadata is read by an unpickler that knows the few globals which the library itself writes, the values by torch's own
restricted one, and anything else is refused before it runs.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from gps_ray.base.errors import CheckpointError

__all__ = ["load_shards", "save_shards"]

_CHECKPOINT = "torch.distributed.checkpoint"
# What the library's own writer puts into .metadata; none of these does more than hold its arguments.
_GLOBALS = {
    *(
        (f"{_CHECKPOINT}.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A dotted name would walk from a known module to any other; no dtype has one.
        is_dtype = module == "torch" and isinstance(vars(torch).get(name), torch.dtype)
        if (module, name) not in _GLOBALS and not is_dtype:
            raise pickle.UnpicklingError(f"{module}.{name}, which no checkpoint of gps-ray holds")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """The library's reader, which runs nothing that stands in the metadata."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"a {type(metadata).__name__} in place of the metadata")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    """The library's planner, which unpickles whatever the metadata calls bytes: here tensors and plain values only."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


@contextmanager
def _one_line_errors(directory: Path, expected: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
            yield
    # The library wraps a worker's failure in a BaseException, and raises what a damaged file leads to as it comes.
    except (CheckpointException, Exception) as error:
        cause: BaseException = error
        if isinstance(error, CheckpointException) and error.failures:
            cause = next(iter(error.failures.values()))[0]
        reason = (str(cause).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"learner checkpoint {directory}: expected {expected}, got {type(cause).__name__}: {reason}"
        ) from error


def save_shards(state: dict[str, Any], directory: Path) -> None:
    """Write this worker's part of ``state`` (nested dictionaries of tensors) into ``directory``."""
    with _one_line_errors(directory, "a folder that can be written"):
        directory.mkdir(parents=True, exist_ok=True)
        state_dict_saver.save(state, checkpoint_id=str(directory), no_dist=not torch.distributed.is_initialized())


def load_shards(state: dict[str, Any], directory: Path) -> None:
    """Fill the tensors of ``state`` in place. Raises CheckpointError where the folder does not hold all of them, or
    holds a pickle of anything else."""
    with _one_line_errors(directory, "all shards of this model and its optimizer"):
        state_dict_loader.load(
            state,
            storage_reader=_Reader(directory),
            planner=_Planner(),
            no_dist=not torch.distributed.is_initialized(),
        )
