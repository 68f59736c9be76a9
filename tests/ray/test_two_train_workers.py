"""What two train workers share, as two processes of one gloo group."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from gps_ray.config import LearningConfig
from gps_ray.model import load_model, weights_of
from gps_ray.weights.device_snapshots import DeviceSnapshots, tensor_list
from tests.unit.learning.rollouts import make_groups, make_learner, make_model
from tests.unit.learning.test_lora import GROUPS
from tests.unit.learning.test_lora import _learner as lora_learner
from tests.unit.learning.test_lora import _logprobs as logprobs_of
from tests.unit.learning.test_lora import _same as same
from tests.unit.learning.test_lora import _update as update

pytestmark = pytest.mark.ray

TWO_RANKS = {"num_workers": 2, "microbatch_tokens": 24, "kl_coefficient": 0.1, "learning_rate": 1e-3}
BATCHES = [make_groups((*GROUPS, "rwwrw"), seed) for seed in range(4)]


def _one_of_two(rank: int, directory: Path, out: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=2)
    learner, resumed = (lora_learner(directory, **TWO_RANKS, activation_checkpointing=True) for _ in range(2))
    metrics = [update(learner, groups) for groups in BATCHES[:2]]
    learner.save(out / "checkpoint")
    metrics += [update(learner, groups) for groups in BATCHES[2:]]
    weights, probe = learner.weights(), learner.probe()[1]
    resumed.load(out / "checkpoint")
    assert [update(resumed, groups) for groups in BATCHES[2:]] == metrics[2:]
    assert same(resumed.weights(), weights)
    learner.export(out / "policy")
    if rank == 0:
        torch.save({"metrics": metrics, "weights": weights, "probe": probe}, out / "result.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a process that ends by itself, after all is done


def test_adapters_of_two_workers_give_the_losses_of_one_and_resume_bit_for_bit(tmp_path: Path) -> None:
    model_directory = make_model(tmp_path / "model")
    torch.multiprocessing.spawn(_one_of_two, (model_directory, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    two = torch.load(tmp_path / "result.pt", weights_only=False)
    alone = lora_learner(model_directory, **{**TWO_RANKS, "num_workers": 1})
    for groups, metrics in zip(BATCHES, two["metrics"], strict=True):
        expected = update(alone, groups)
        assert metrics.keys() == expected.keys()
        assert metrics["train/loss"] == pytest.approx(expected["train/loss"], abs=1e-5)
        assert metrics["train/grad_norm"] == pytest.approx(expected["train/grad_norm"], rel=1e-4)
    merged = load_model(tmp_path / "policy")
    assert same(weights_of(merged), two["weights"])
    tokens, logprobs = alone.probe()
    np.testing.assert_allclose(two["probe"], logprobs, atol=1e-4)
    np.testing.assert_allclose(logprobs_of(merged, tokens), two["probe"], atol=1e-5)


def _gather(rank: int, folder: Path, out: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=2)
    try:
        learner = make_learner(folder, LearningConfig(num_threads=1, num_workers=2))
        expected = learner.weights()
        snapshots = DeviceSnapshots(2, torch.float32, tensor_list)
        snapshots.publish(3, learner.device_weights())
        if rank == 0:
            copies = snapshots.copies(3)
            assert copies is not None
            assert same({name: copy.numpy() for name, copy in copies.items()}, expected)
    finally:
        torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a process that ends by itself, after all is done


def test_what_two_workers_share_is_gathered_whole(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_gather, (make_model(tmp_path / "model"), tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
