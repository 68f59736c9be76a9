"""The table of transports: what a config must give each, and what each makes of a policy and tells vLLM of it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from gps_ray.base.errors import ConfigError, RolloutError
from gps_ray.config import LearningConfig, RolloutConfig, TrainConfig, load_config
from gps_ray.loop.plan import resolve
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.rollout.vllm_setup import engine_arguments
from gps_ray.weights.device_snapshots import tensor_list
from gps_ray.weights.host_arrays import tensors
from gps_ray.weights.interface import PublisherSettings, ReceiverSettings
from gps_ray.weights.ipc import IpcPayload, IpcReceiver, check_same_gpu, ipc_payload
from gps_ray.weights.nccl import NcclReceiver
from gps_ray.weights.object_store import ObjectStorePayload, ObjectStoreReceiver
from gps_ray.weights.transports import TRANSPORTS, load_transport
from tests.file_transport import TRANSPORT, FilePayload
from tests.unit.learning.rollouts import make_learner, make_model

SETTINGS = PublisherSettings(rank=0, dtype="float32", num_live_versions=2, deadline_s=1, host="127.0.0.1")
RECEIVER = ReceiverSettings(num_ranks=1, deadline_s=1)
IPC = (
    "rollout.engine=vllm",
    "rollout.vllm.weight_transfer=ipc",
    "rollout.num_workers=2",
    "rollout.num_gpus_per_worker=0.25",
    "learning.num_gpus_per_worker=0.5",
)
NCCL = (
    "rollout.engine=vllm",
    "rollout.vllm.weight_transfer=nccl",
    "rollout.num_workers=2",
    "rollout.num_gpus_per_worker=1",
    "rollout.vllm.tensor_parallel_size=2",
    "learning.num_gpus_per_worker=1",
    "learning.num_workers=2",
)


def _resolve(*overrides: str) -> TrainConfig:
    return resolve(load_config(TrainConfig, None, overrides))


def _refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _resolve(*overrides)
    message = str(caught.value)
    assert message.startswith("rollout.vllm.weight_transfer: ")
    assert "\n" not in message
    return message


def test_ipc_takes_a_learner_and_workers_on_one_gpu() -> None:
    assert _resolve(*IPC).rollout.vllm.weight_transfer == "ipc"


def test_nccl_takes_several_ranks_on_either_side() -> None:
    assert _resolve(*NCCL).rollout.vllm.weight_transfer == "nccl"


@pytest.mark.parametrize(
    ("config", "override", "expected"),
    [
        (IPC, "rollout.engine=torch", "needs rollout.engine=vllm, got torch"),
        (IPC, "rollout.num_gpus_per_worker=0", "set rollout.num_gpus_per_worker"),
        (IPC, "learning.num_gpus_per_worker=0", "set learning.num_gpus_per_worker"),
        (IPC, "learning.num_workers=2", "set learning.num_workers=1"),
        (IPC, "rollout.vllm.tensor_parallel_size=2", "set rollout.vllm.tensor_parallel_size=1"),
        (IPC, "rollout.num_workers=3", "got 1.25 GPUs"),
        (IPC, "learning.lora_rank=4", "set learning.lora_rank=0"),
        (NCCL, "rollout.engine=torch", "nccl needs rollout.engine=vllm, got torch"),
        (NCCL, "rollout.num_gpus_per_worker=0", "set rollout.num_gpus_per_worker"),
        (NCCL, "rollout.num_gpus_per_worker=0.5", "set rollout.num_gpus_per_worker=1"),
        (NCCL, "learning.num_gpus_per_worker=0.5", "set learning.num_gpus_per_worker=1"),
        (NCCL, "learning.lora_rank=4", "set learning.lora_rank=0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(config: tuple[str, ...], override: str, expected: str) -> None:
    message = _refused(*config, override)
    assert expected in message
    assert "rollout.vllm.weight_transfer=object_store" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pigeon", "expected one of object_store, ipc, nccl or 'package.module:TRANSPORT', got 'pigeon'"),
        ("no.such.module:TRANSPORT", "cannot import"),
        ("tests.file_transport:FilePayload", "must be a gps_ray.weights.interface.Transport, got type"),
    ],
)
def test_a_name_that_stands_for_no_transport_is_refused(name: str, expected: str) -> None:
    assert expected in _refused(f"rollout.vllm.weight_transfer={name}")


def test_another_transport_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/ray/test_vllm.py serves what it brings."""
    monkeypatch.setitem(TRANSPORTS, "file", "tests.file_transport:TRANSPORT")
    config = _resolve("rollout.engine=vllm", "rollout.vllm.weight_transfer=file")
    assert load_transport("file") is TRANSPORT
    assert "needs rollout.engine=vllm, got torch" in _refused("rollout.vllm.weight_transfer=file")
    arguments = engine_arguments(tmp_path, config.rollout, "float32")
    assert arguments["weight_transfer_config"] == {"backend": "object_store"}
    learner = make_learner(make_model(tmp_path), LearningConfig(num_threads=1))
    publisher = TRANSPORT.publisher(SETTINGS)
    payload = publisher.publish(learner)
    assert isinstance(payload, FilePayload)
    with TRANSPORT.receiver(RECEIVER).receiving(0, payload) as update:
        _assert_same(load_file(update.update_info["file"]), learner.weights())
    publisher.close()
    assert not Path(payload.path).exists()


def _assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


@pytest.mark.parametrize("name", ["object_store", "ipc", "nccl"])
def test_vllm_is_told_the_backend(name: str) -> None:
    rollout = RolloutConfig.model_validate({"engine": "vllm", "vllm": {"weight_transfer": name}})
    assert engine_arguments(Path("m"), rollout, "bfloat16")["weight_transfer_config"] == {"backend": name}


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_object_store_brings_the_learners_arrays(tmp_path: Path, num_ranks: int) -> None:
    """One rank gets them as they are; several, in processes of their own, a file that is gone afterwards."""
    learner = make_learner(make_model(tmp_path), LearningConfig(num_threads=1))
    transport = load_transport("object_store")
    publisher = transport.publisher(SETTINGS)
    payload = publisher.publish(learner)
    assert isinstance(payload, ObjectStorePayload)
    receiver = transport.receiver(ReceiverSettings(num_ranks=num_ranks, deadline_s=1))
    with receiver.receiving(0, payload) as update:
        assert update.init_info is None
        if num_ranks == 1:
            assert update.update_info["arrays"] is payload.arrays
        else:
            _assert_same(load_file(update.update_info["file"]), learner.weights())
    assert num_ranks == 1 or not Path(update.update_info["file"]).exists()
    publisher.close()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_what_bfloat16_engines_are_to_have_travels_in_two_bytes(tmp_path: Path, num_ranks: int) -> None:
    """And is to the bit what such an engine makes of four."""
    learner = make_learner(make_model(tmp_path), LearningConfig(num_threads=1), "bfloat16")
    whole = learner.weights()
    publisher = load_transport("object_store").publisher(replace(SETTINGS, dtype="bfloat16"))
    payload = publisher.publish(learner)
    assert isinstance(payload, ObjectStorePayload)
    assert payload.num_bytes == sum(array.nbytes for array in whole.values()) // 2
    for array in payload.arrays.values():
        array.flags.writeable = False  # as out of the store
    one, other = TorchEngine(tmp_path, dtype="bfloat16"), TorchEngine(tmp_path, dtype="bfloat16")
    for number, (engine, published) in enumerate([(one, payload), (other, ObjectStorePayload(arrays=whole))]):
        engine.model.get_input_embeddings().weight.data.zero_()
        engine.load_weights(number, published)
    expected = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    with ObjectStoreReceiver(ReceiverSettings(num_ranks=num_ranks, deadline_s=1)).receiving(0, payload) as update:
        info = update.update_info
        found = dict(tensors(info["arrays"], info["bfloat16"])) if num_ranks == 1 else load_tensors(info["file"])
    assert found.keys() == whole.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, torch.from_numpy(whole[name]).to(torch.bfloat16)), name


def _ipc(*uuids: str) -> IpcPayload:
    copies = {name: torch.zeros(1) for name in list("ab")[: len(uuids)]}
    left = list(uuids)
    return ipc_payload(copies, lambda _: {left.pop(0): ("args",)})


def test_handles_of_the_engines_own_gpu_pass() -> None:
    payload = _ipc("GPU-1", "GPU-1")
    check_same_gpu(payload, "GPU-1")
    assert payload.update_info()["ipc_handles"] == [{"GPU-1": ("args",)}] * 2


def test_handles_of_another_gpu_are_refused_with_both_named() -> None:
    with pytest.raises(RolloutError, match=r"rollout\.vllm\.weight_transfer.*on GPU-2, the engine on GPU-1") as caught:
        check_same_gpu(_ipc("GPU-1", "GPU-2"), "GPU-1")
    assert "object_store" in str(caught.value)


@pytest.mark.parametrize(
    ("receiver", "expected"),
    [
        (ObjectStoreReceiver(RECEIVER), "ObjectStorePayload"),
        (IpcReceiver(RECEIVER), "IpcPayload"),
        (NcclReceiver(RECEIVER), "NcclPayload"),
    ],
)
def test_a_payload_of_another_transport_is_refused(receiver: Any, expected: str) -> None:
    with (
        pytest.raises(RolloutError, match=rf"expected {expected} from the learner, got FilePayload") as caught,
        receiver.receiving(1, FilePayload(path="")),
    ):
        pytest.fail("nothing is received")
    assert str(caught.value).startswith("rollout.vllm.weight_transfer: ")


def _listening() -> set[threading.Thread]:
    """Threads that wait for engines; others come and go with other tests."""
    return {thread for thread in threading.enumerate() if "_accept" in thread.name}


def test_nccl_gathers_on_every_train_worker_and_listens_on_the_first_alone(tmp_path: Path) -> None:
    threads = _listening()
    learner = make_learner(make_model(tmp_path), LearningConfig(num_threads=1))
    names: list[str] = []

    class _Source:
        policy_version = 3

        def weights(self) -> Any:
            raise AssertionError

        def device_weights(self) -> Any:
            for name, tensor in learner.device_weights():
                yield name, tensor
                names.append(name)

    publisher = load_transport("nccl").publisher(
        PublisherSettings(rank=1, dtype="float32", num_live_versions=2, deadline_s=1, host="127.0.0.1")
    )
    assert publisher.publish(_Source()) is None
    assert _listening() == threads
    assert names == list(tensor_list(dict(learner.device_weights())).names)
    publisher.close()
