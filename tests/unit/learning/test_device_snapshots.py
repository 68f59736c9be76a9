"""The ring of versions. On the CPU the tensors themselves stand for handles: both read the memory as it is now."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gps_ray.config import LearningConfig, RunConfig
from gps_ray.learning.device_snapshots import DeviceSnapshots
from tests.unit.learning.rollouts import MIXED, ids, make_groups, make_learner, make_model, make_tables


def _read(message: dict[str, Any]) -> dict[str, Any]:
    return {
        name: handle["cpu"].float().numpy().copy()
        for name, handle in zip(message["names"], message["ipc_handles"], strict=True)
    }


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_version_stays_whole_while_the_learner_goes_on(tmp_path: Path, recompute: bool) -> None:
    config = LearningConfig(num_threads=1, activation_checkpointing=recompute, learning_rate=0.01)
    learner = make_learner(make_model(tmp_path), config)
    groups = make_groups([MIXED, MIXED])
    num_versions = RunConfig(max_policy_lag=1).num_live_versions
    assert num_versions == 3
    snapshots = DeviceSnapshots(num_versions, torch.float32, lambda tensor: {"cpu": tensor})
    messages, expected = [], []
    for _ in range(2 * num_versions):
        messages.append(snapshots.publish(learner.device_weights()))
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
        return {"cpu": tensor}

    snapshots = DeviceSnapshots(2, torch.float32, export)
    parameters = {"a": torch.zeros(2), "b": torch.zeros(3)}
    for version in range(5):
        parameters["a"] += 1
        message = snapshots.publish(parameters)
        assert message["ipc_handles"][0]["cpu"].tolist() == [version + 1] * 2
    assert len(set(exported)) == len(exported) == 4
    assert parameters["a"].data_ptr() not in exported


def test_a_message_is_what_vllm_reads() -> None:
    parameters = {"w": torch.full((2, 3), 1 / 3), "counts": torch.arange(4)}
    message = DeviceSnapshots(2, torch.bfloat16, lambda tensor: {"cpu": tensor}).publish(parameters)
    handles = message.pop("ipc_handles")
    assert message == {"names": ["w", "counts"], "dtype_names": ["bfloat16", "int64"], "shapes": [[2, 3], [4]]}
    assert torch.equal(handles[0]["cpu"], parameters["w"].bfloat16())
    assert torch.equal(handles[1]["cpu"], parameters["counts"])


def test_a_transposed_parameter_is_copied_into_plain_rows() -> None:
    parameter = torch.arange(6.0).reshape(2, 3).T
    copy = DeviceSnapshots(2, torch.float32, lambda tensor: {"cpu": tensor}).publish({"w": parameter})["ipc_handles"][0]
    assert copy["cpu"].is_contiguous()
    assert torch.equal(copy["cpu"], parameter)
