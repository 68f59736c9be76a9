"""vLLM on GPUs: log-probs against transformers after an update, on one GPU, on two, by CUDA IPC and by NCCL."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_ray.model import weights_of
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.run.metrics import read_metrics
from gps_ray.weights.interface import PublisherSettings
from gps_ray.weights.ipc import IpcPublisher
from gps_ray.weights.object_store import ObjectStorePayload
from tests.processes import SMALL_RUN, run_job
from tests.vllm_process import ArraySource, engine_process, learner_process, make_folder, make_request, moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_an_update_is_served_in_bfloat16(tmp_path: Path, num_ranks: int, tied: bool) -> None:
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} GPUs")
    folder = make_folder(tmp_path / "model", hidden_size=256, num_heads=4, tie_embeddings=tied)
    reference = TorchEngine(folder)
    with engine_process(folder, "bfloat16", num_gpus=1, tensor_parallel_size=num_ranks) as call:
        for version in (1, 2):
            weights = moved(weights_of(reference.model), version)
            payload = ObjectStorePayload(arrays=weights)
            call("load_weights", version, payload)
            reference.load_weights(version, payload)
            _assert_close(call, reference)


@pytest.mark.parametrize("tied", [True, False])
def test_updates_by_cuda_ipc_are_served(tmp_path: Path, tied: bool) -> None:
    """The test is the learner: more versions than copies, and an older one again, as a restarted worker loads it."""
    folder = make_folder(tmp_path / "model", hidden_size=256, num_heads=4, tie_embeddings=tied)
    reference = TorchEngine(folder)
    publisher = IpcPublisher(
        PublisherSettings(rank=0, dtype="bfloat16", num_live_versions=2, deadline_s=1, host="127.0.0.1")
    )
    with engine_process(folder, "bfloat16", num_gpus=1, weight_transfer="ipc") as call:
        published: list[tuple[int, Any, Any]] = []
        for version in range(1, 6):
            weights = moved(weights_of(reference.model), version)
            payload = publisher.publish(ArraySource(version, weights, torch.device("cuda")))
            published.append((version, payload, weights))
            for known, payload, arrays in published[-2:]:
                call("load_weights", known, payload)
                reference.load_weights(known, ObjectStorePayload(arrays=arrays))
                _assert_close(call, reference)


def _use_all_but_the_first_gpu() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(1, torch.cuda.device_count())))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_updates_by_nccl_are_served(tmp_path: Path, num_ranks: int) -> None:
    """The second engine is the first one's successor, in a group of its own."""
    if torch.cuda.device_count() < 1 + num_ranks:
        pytest.skip(f"needs {1 + num_ranks} GPUs")
    folder = make_folder(tmp_path / "model", hidden_size=256, num_heads=4)
    reference = TorchEngine(folder)
    with learner_process("bfloat16", on_gpu=True) as learner:
        for num_versions in (4, 1):
            with engine_process(
                folder,
                "bfloat16",
                num_gpus=1,
                setup=_use_all_but_the_first_gpu,
                weight_transfer="nccl",
                tensor_parallel_size=num_ranks,
            ) as call:
                for version in range(1, num_versions + 1):
                    weights = moved(weights_of(reference.model), version)
                    call("load_weights", version, learner("publish", version, weights))
                    reference.load_weights(version, ObjectStorePayload(arrays=weights))
                    _assert_close(call, reference)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_training_run_by_nccl(tmp_path: Path) -> None:
    _assert_trains(tmp_path, "nccl", num_gpus=1)


def test_a_training_run_by_cuda_ipc(tmp_path: Path) -> None:
    _assert_trains(tmp_path, "ipc", num_gpus=0.5)


def _assert_trains(tmp_path: Path, weight_transfer: str, num_gpus: float) -> None:
    done = run_job(
        "train",
        *SMALL_RUN,
        "run.num_steps=4",
        "run.max_policy_lag=1",
        "evaluation.every_steps=4",
        "rollout.engine=vllm",
        f"rollout.vllm.weight_transfer={weight_transfer}",
        "rollout.num_workers=1",
        f"rollout.num_gpus_per_worker={num_gpus}",
        "rollout.probe_tolerance=0.05",
        f"learning.num_gpus_per_worker={num_gpus}",
        f"run.directory={tmp_path / 'run'}",
        f"warm_start.cache_directory={tmp_path / 'warm'}",
        f"selection.features.cache_directory={tmp_path / 'features'}",
        timeout_s=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Every load passed its probe, or a worker would have been lost.
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["rollout/num_restarts"] == 0


def _assert_close(call: Callable[..., Any], reference: TorchEngine) -> None:
    text = np.arange(3, 30, dtype=np.int32)
    np.testing.assert_allclose(call("logprobs", text), reference.logprobs(text), atol=0.2)
    for group in call("generate", make_request(temperature=1.0)):
        for response in group.responses:
            whole = reference.logprobs(np.concatenate([group.prompt_tokens, response.tokens]))
            sampled = whole[len(group.prompt_tokens) - 1 :]
            np.testing.assert_allclose(response.sampled_logprobs, sampled, atol=0.2)
