"""The ring of versions. On the CPU the tensors themselves stand for their description: both read the memory as it is
now."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gps_ray.config import LearningConfig, RunConfig
from gps_ray.weights.device_snapshots import DeviceSnapshots, tensor_list
from gps_ray.weights.ipc import ipc_payload
from tests.unit.learning.rollouts import MIXED, ids, make_groups, make_learner, make_model, make_tables


def _read(copies: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: copy.float().numpy().copy() for name, copy in copies.items()}


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_version_stays_whole_while_the_learner_goes_on(tmp_path: Path, recompute: bool) -> None:
    config = LearningConfig(num_threads=1, activation_checkpointing=recompute, learning_rate=0.01)
    learner = make_learner(make_model(tmp_path), config)
    groups = make_groups([MIXED, MIXED])
    num_versions = RunConfig(max_policy_lag=1).num_live_versions
    assert num_versions == 3
    snapshots = DeviceSnapshots(num_versions, torch.float32, lambda copies: copies)
    messages, expected = [], []
    for version in range(2 * num_versions):
        messages.append(snapshots.publish(version, learner.device_weights()))
        expected.append(learner.weights())
        for message, weights in list(zip(messages, expected, strict=True))[-num_versions:]:
            assert _same(_read(message), weights)
        learner.update(make_tables(groups), ids(groups))
    # The oldest lies under the newest, in the same memory.
    assert not _same(_read(messages[0]), expected[0])
    assert messages[0] is messages[num_versions]


def test_each_copy_is_exported_once() -> None:
    exported: list[int] = []

    def export(tensor: Tensor) -> dict[str, Any]:
        exported.append(tensor.data_ptr())
        return {"cpu": (tensor,)}

    snapshots = DeviceSnapshots(2, torch.float32, lambda copies: ipc_payload(copies, export))
    parameters = {"a": torch.zeros(2), "b": torch.zeros(3)}
    for version in range(5):
        parameters["a"] += 1
        payload = snapshots.publish(version, parameters.items())
        assert payload.handles[0]["cpu"][0].tolist() == [version + 1] * 2
    assert len(set(exported)) == len(exported) == 4
    assert parameters["a"].data_ptr() not in exported


def test_floats_are_copied_in_the_engines_dtype_and_described_as_vllm_reads_it() -> None:
    parameters = {"w": torch.full((2, 3), 1 / 3), "counts": torch.arange(4)}
    snapshots = DeviceSnapshots(2, torch.bfloat16, tensor_list)
    description = snapshots.publish(1, parameters.items()).update_info()
    assert description == {"names": ["w", "counts"], "dtype_names": ["bfloat16", "int64"], "shapes": [[2, 3], [4]]}
    copies = snapshots.copies(1)
    assert copies is not None
    assert torch.equal(copies["w"], parameters["w"].bfloat16())
    assert torch.equal(copies["counts"], parameters["counts"])


def test_a_transposed_parameter_is_copied_into_plain_rows() -> None:
    parameter = torch.arange(6.0).reshape(2, 3).T
    snapshots = DeviceSnapshots(2, torch.float32, tensor_list)
    snapshots.publish(1, [("w", parameter)])
    copies = snapshots.copies(1)
    assert copies is not None
    assert copies["w"].is_contiguous()
    assert torch.equal(copies["w"], parameter)


def test_a_version_is_held_until_its_memory_is_taken() -> None:
    snapshots = DeviceSnapshots(2, torch.float32, tensor_list)
    parameter = torch.zeros(3)

    def seen_while_copied() -> Iterator[tuple[str, Tensor]]:
        assert snapshots.copies(5) is None
        yield "w", parameter

    for version in (5, 6):
        snapshots.publish(version, [("w", parameter)])
    assert snapshots.copies(5) is not None
    snapshots.publish(7, seen_while_copied())
    assert snapshots.copies(5) is None
    assert snapshots.copies(6) is not None
    assert snapshots.copies(7) is not None
    snapshots.close()
    assert snapshots.copies(7) is None
