"""A learner's checkpoint from somebody else runs nothing."""

from __future__ import annotations

import builtins
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from gps_ray.base.errors import CheckpointError
from gps_ray.learning.dcp import load_shards, save_shards


class _Runs:
    """Unpickled, it calls ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def _metadata(directory: Path) -> Metadata:
    metadata = pickle.loads((directory / ".metadata").read_bytes())  # noqa: S301 - the test's own file
    assert isinstance(metadata, Metadata)
    return metadata


def _plant(directory: Path, place: str, bomb: Any) -> None:
    planted: Any = _metadata(directory)
    if place == "whole":
        planted = bomb
    elif place == "planner data":
        planted.planner_data["weight"] = bomb
    elif place == "storage data":
        key = next(iter(planted.storage_data))
        planted.storage_data[key] = bomb
    elif place == "tensor metadata":
        planted.state_dict_metadata["weight"] = bomb
    elif place == "storage meta":
        planted.storage_meta = bomb
    else:
        planted.version = [{"deep": (bomb,)}]
    (directory / ".metadata").write_bytes(pickle.dumps(planted))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_shards({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}, tmp_path / "learner")
    return tmp_path / "learner"


PLACES = ["whole", "planner data", "storage data", "tensor metadata", "storage meta", "nested"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["system", "eval", "nested reduce", "getattr", "forbidden global"])
def test_a_planted_pickle_is_refused_in_one_line(folder: Path, tmp_path: Path, place: str, kind: str) -> None:
    trace = tmp_path / "trace"
    bomb = {
        "system": _Runs(os.system, f"touch {trace}"),
        "eval": _Runs(builtins.eval, f"open({str(trace)!r}, 'w')"),
        "nested reduce": _Runs(_Runs, _Runs(builtins.open, str(trace), "w")),
        "getattr": _Runs(builtins.getattr, "", "join"),
        "forbidden global": io.BytesIO,
    }[kind]
    _plant(folder, place, bomb)
    with pytest.raises(CheckpointError, match="which no checkpoint of gps-ray holds") as caught:
        load_shards({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, folder)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("opcodes", [b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93.", b"ctorch\nsave\n."])
def test_no_name_leads_from_torch_to_elsewhere(folder: Path, opcodes: bytes) -> None:
    (folder / ".metadata").write_bytes(opcodes)
    with pytest.raises(CheckpointError, match="which no checkpoint of gps-ray holds"):
        load_shards({"weight": torch.zeros(2, 3)}, folder)


def test_metadata_that_is_something_else_is_refused(folder: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(CheckpointError, match="a dict in place of the metadata"):
        load_shards({"weight": torch.zeros(2, 3)}, folder)


def test_a_tensor_that_the_metadata_calls_bytes_runs_nothing(folder: Path, tmp_path: Path) -> None:
    """The library unpickles such a value without a limit: the metadata alone is not the only door."""
    trace = tmp_path / "trace"
    metadata = _metadata(folder)
    metadata.state_dict_metadata["weight"] = BytesStorageMetadata()
    (index,) = [index for index in metadata.storage_data if index.fqn == "weight"]
    info = metadata.storage_data.pop(index)
    buffer = io.BytesIO()
    torch.save(_Runs(os.system, f"touch {trace}"), buffer)
    info.relative_path, info.offset, info.length = "planted.distcp", 0, len(buffer.getvalue())
    (folder / "planted.distcp").write_bytes(buffer.getvalue())
    metadata.storage_data[type(index)("weight")] = info
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError):
        load_shards({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, folder)
    assert not trace.exists()


def test_shards_and_plain_values_come_back_as_they_were(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "weight": torch.randn(3, 2).to(torch.bfloat16),
        "groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}],
    }
    save_shards(state, tmp_path)
    found: dict[str, Any] = {
        "weight": torch.zeros(3, 2, dtype=torch.bfloat16),
        "groups": [{"lr": 0.0, "betas": (0.0, 0.0)}],
    }
    load_shards(found, tmp_path)
    assert torch.equal(found["weight"], state["weight"])
    assert found["groups"] == state["groups"]
