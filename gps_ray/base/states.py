"""States: named numeric arrays, nested by prefix, at rest as safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import State

__all__ = ["below", "load_state_file", "nested", "save_state_file"]


def nested(prefix: str, state: State) -> State:
    """A part's state as it stands in that of the whole: every name below ``prefix/``."""
    return {f"{prefix}/{name}": array for name, array in state.items()}


def below(prefix: str, state: State) -> State:
    """The inverse of ``nested``: what stands below ``prefix/``, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}


def save_state_file(state: State, path: Path) -> None:
    """A component's named arrays as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)


def load_state_file(path: Path) -> State:
    """Raises CheckpointError where the file is not whole."""
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, got: {error}; resume from an older step"
        ) from error
