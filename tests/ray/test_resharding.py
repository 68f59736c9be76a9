"""A checkpoint of one train worker goes on with two, and one of two with one."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from gps_ray.config import LearningConfig
from gps_ray.learning.learner import Learner
from tests.unit.learning.rollouts import ALL_WRONG, MIXED, ids, make_groups, make_learner, make_model, make_tables

pytestmark = pytest.mark.ray

BATCHES = [make_groups([MIXED, ALL_WRONG, "rwwrw", "rw", MIXED], seed) for seed in range(4)]
KINDS: dict[str, dict[str, Any]] = {
    "whole model": {},
    "value model": {"loss": "ppo"},
    "adapters": {"lora_rank": 2},
}


def _learner(directory: Path, kind: str, num_workers: int) -> Learner:
    settings = {"num_threads": 1, "microbatch_tokens": 24, "num_workers": num_workers, **KINDS[kind]}
    return make_learner(directory, LearningConfig.model_validate(settings))


def _update(learner: Learner, batch: int) -> dict[str, float]:
    groups = BATCHES[batch]
    return dict(learner.update(make_tables(groups), ids(groups)).metrics)


def _one_of_two(rank: int, directory: Path, out: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=2)
    found = {}
    for kind in KINDS:
        learner = _learner(directory, kind, 2)
        learner.load(out / kind / "of_one")
        loaded = learner.weights()
        metrics = [_update(learner, 1), _update(learner, 2)]
        learner.save(out / kind / "of_two")
        found[kind] = {"loaded": loaded, "metrics": metrics, "weights": learner.weights()}
    if rank == 0:
        torch.save(found, out / "found.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a process that ends by itself, after all is done


def _assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def _assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_a_checkpoint_goes_on_with_another_number_of_train_workers(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    begun, whole = {}, {}
    for kind in KINDS:
        learner = _learner(directory, kind, 1)
        (tmp_path / kind).mkdir()
        _update(learner, 0)
        learner.save(tmp_path / kind / "of_one")
        begun[kind] = learner.weights()
        # What one worker that was never stopped comes to.
        whole[kind] = [_update(learner, batch) for batch in (1, 2, 3)]
    torch.multiprocessing.spawn(_one_of_two, (directory, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for kind in KINDS:
        assert len(list((tmp_path / kind / "of_two").glob("*.distcp"))) == 2
        _assert_equal(found[kind]["loaded"], begun[kind])
        resumed = _learner(directory, kind, 1)
        resumed.load(tmp_path / kind / "of_two")
        assert resumed.policy_version == 3
        _assert_equal(resumed.weights(), found[kind]["weights"])
        # AdamW's state came along too, both ways: a step from an empty one would be another.
        for metrics, expected in zip([*found[kind]["metrics"], _update(resumed, 3)], whole[kind], strict=True):
            _assert_close(metrics, expected)
