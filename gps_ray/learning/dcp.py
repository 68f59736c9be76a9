"""torch.distributed.checkpoint, in one process or over the workers of a process group, with one-line errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from gps_ray.base.errors import CheckpointError

__all__ = ["load_shards", "save_shards"]


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
    """Fill the tensors of ``state`` in place. Raises CheckpointError where the folder does not hold all of them."""
    with _one_line_errors(directory, "all shards of this model and its optimizer"):
        state_dict_loader.load(state, checkpoint_id=str(directory), no_dist=not torch.distributed.is_initialized())
