"""torch.distributed.checkpoint, in one process or over the workers of a process group, with one-line errors.

Its metadata, and its values that are no tensors, are pickles, and a pickle of somebody else's can run anything when it
is read. A run folder may come from anywhere, so both are read by unpicklers that know a short list of names.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from gps_ray.base.errors import CheckpointError
from gps_ray.base.storage import storage_error

__all__ = ["load_shards", "save_shards"]

_METADATA = "torch.distributed.checkpoint.metadata"
# All that the metadata of a checkpoint is made of, beside plain values.
_KNOWN = {
    *(
        (_METADATA, name)
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
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"{module}.{name}, which no checkpoint needs: it may have been made to run code. Do not use this folder"
            )
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{type(metadata).__name__} in place of a checkpoint's metadata")
        for info in (metadata.storage_data or {}).values():
            if Path(info.relative_path).name != str(info.relative_path):
                raise pickle.UnpicklingError(f"the file {info.relative_path}, which lies outside of the checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Plain values and tensors only (the library's own runs whatever the pickle says)."""
        name = read_item.dest_index.fqn
        loaded = torch.load(value, weights_only=True)
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded


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
    """Write this worker's part of ``state`` (nested dictionaries of tensors) into ``directory``. Raises StorageError,
    in all workers, where one could not write its part."""
    try:
        _save(state, directory)
    except CheckpointError as error:
        cause: BaseException = error.__cause__ or error
        if isinstance(cause, CheckpointException) and cause.failures:
            cause = next(iter(cause.failures.values()))[0]
        raise storage_error(directory, cause) from error


def _save(state: dict[str, Any], directory: Path) -> None:
    with _one_line_errors(directory, "a folder that can be written"):
        directory.mkdir(exist_ok=True)
        state_dict_saver.save(state, checkpoint_id=str(directory), no_dist=not torch.distributed.is_initialized())


def load_shards(state: dict[str, Any], directory: Path) -> None:
    """Fill the tensors of ``state`` in place. Raises CheckpointError where the folder does not hold all of them."""
    with _one_line_errors(directory, "all shards of this model and its optimizer"):
        state_dict_loader.load(
            state,
            storage_reader=_Reader(str(directory)),
            planner=_Planner(),
            no_dist=not torch.distributed.is_initialized(),
        )
