"""The learner on a GPU does what it does on the CPU, up to rounding."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from gps_ray.config import EmbeddedModelConfig, LearningConfig
from gps_ray.model import make_embedded_model
from tests.unit.learning.rollouts import (
    ALL_WRONG,
    MIXED,
    WORDS,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

RESULTS = [MIXED, ALL_WRONG, MIXED, "rw"]


def test_an_update_on_the_gpu_is_the_one_on_the_cpu(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    groups = make_groups(RESULTS)
    metrics, probes = [], []
    for num_gpus in (0, 1):
        config = LearningConfig(num_gpus_per_worker=num_gpus, num_threads=1, kl_coefficient=0.01)
        learner = make_learner(directory, config)
        metrics.append(learner.update(make_tables(groups), ids(groups)).metrics)
        learner.save(tmp_path / f"{num_gpus}")
        learner.load(tmp_path / f"{num_gpus}")
        probes.append(learner.probe()[1])
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    np.testing.assert_allclose(probes[0], probes[1], atol=1e-3)


def test_bfloat16_and_activation_checkpointing_train_on_the_gpu(tmp_path: Path) -> None:
    make_embedded_model(EmbeddedModelConfig(hidden_size=256, num_layers=8), WORDS, tmp_path / "model")
    groups = make_groups(["rwrwrwrw"] * 32)
    losses, peaks = [], []
    for dtype, recompute in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        torch.cuda.reset_peak_memory_stats()
        config = LearningConfig(num_gpus_per_worker=1, num_minibatches=1, activation_checkpointing=recompute)
        learner = make_learner(tmp_path / "model", config, dtype)
        losses.append(learner.update(make_tables(groups), ids(groups)).metrics["train/loss"])
        peaks.append(torch.cuda.max_memory_allocated())
        del learner
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[2] == pytest.approx(losses[1], abs=1e-3)
    assert peaks[2] < peaks[1]


def _two_ranks(rank: int, directory: Path, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", rank=rank, world_size=2)
    learner = make_learner(directory, LearningConfig(num_gpus_per_worker=1, num_workers=2))
    groups = make_groups(RESULTS)
    losses = [learner.update(make_tables(groups), ids(groups)).metrics["train/loss"] for _ in range(3)]
    learner.save(out / "checkpoint")
    learner.load(out / "checkpoint")
    learner.export(out / "policy")
    if rank == 0:
        np.save(out / "losses.npy", losses)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_losses_of_one(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    learner = make_learner(directory, LearningConfig(num_gpus_per_worker=1))
    groups = make_groups(RESULTS)
    losses = [learner.update(make_tables(groups), ids(groups)).metrics["train/loss"] for _ in range(3)]
    torch.multiprocessing.spawn(_two_ranks, (directory, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), losses, atol=1e-4)
    assert (tmp_path / "policy" / "model.safetensors").exists()
