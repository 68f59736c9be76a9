"""Somebody else's checkpoint must not run code, wherever in it a pickle lies."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from gps_ray.base.errors import CheckpointError
from gps_ray.learning.dcp import load_shards, save_shards


class Run:
    """Unpickled, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def _state() -> dict[str, Any]:
    return {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"lr": 0.5, "betas": (0.9, 0.99), "on": True}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_shards(_state(), tmp_path / "learner")
    return tmp_path / "learner"


def _metadata(folder: Path) -> Metadata:
    return FileSystemReader(str(folder)).read_metadata()


def test_what_was_saved_is_loaded(folder: Path) -> None:
    state = {"model": {"w": torch.zeros(2, 3)}, "optimizer": {"lr": 0.0, "betas": (0.0, 0.0), "on": False}}
    load_shards(state, folder)
    assert torch.equal(state["model"]["w"], _state()["model"]["w"])  # type: ignore[arg-type]
    assert state["optimizer"] == _state()["optimizer"]


@pytest.mark.parametrize("where", ["whole", "planner data", "storage data", "name of a tensor"])
@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, Path.touch])
def test_a_planted_call_in_the_metadata_is_refused_and_not_made(
    folder: Path, tmp_path: Path, where: str, function: Any
) -> None:
    touched = tmp_path / "touched"
    arguments = {
        os.system: (f"touch {touched}",),
        eval: (f"open({str(touched)!r}, 'w')",),
        getattr: ("text", "upper"),
        __import__: ("antigravity",),
        Path.touch: (touched,),
    }[function]
    planted = Run(function, *arguments)
    metadata: Any = _metadata(folder)
    if where == "planner data":
        metadata.planner_data = planted
    elif where == "storage data":
        metadata.storage_data[planted] = next(iter(metadata.storage_data.values()))
    elif where == "name of a tensor":
        metadata.state_dict_metadata[planted] = next(iter(metadata.state_dict_metadata.values()))
    (folder / ".metadata").write_bytes(pickle.dumps(planted if where == "whole" else metadata))
    with pytest.raises(CheckpointError, match="which no checkpoint needs") as caught:
        load_shards(_state(), folder)
    assert "\n" not in str(caught.value)
    assert not touched.exists()


def test_a_planted_call_in_a_value_that_is_no_tensor_is_refused_and_not_made(folder: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    value = io.BytesIO()
    torch.save(Run(os.system, f"touch {touched}"), value)
    metadata: Any = _metadata(folder)
    (index,) = (key for key in metadata.storage_data if key.fqn == "optimizer.lr")
    info = metadata.storage_data[index]
    (folder / "planted.distcp").write_bytes(value.getvalue())
    info.relative_path, info.offset, info.length = "planted.distcp", 0, len(value.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="Weights only load failed"):
        load_shards(_state(), folder)
    assert not touched.exists()


@pytest.mark.parametrize("path", ["../learner/__0_0.distcp", "/etc/hostname"])
def test_no_file_outside_of_the_checkpoint_is_read(folder: Path, path: str) -> None:
    metadata: Any = _metadata(folder)
    for info in metadata.storage_data.values():
        info.relative_path = path
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="outside of the checkpoint"):
        load_shards(_state(), folder)
