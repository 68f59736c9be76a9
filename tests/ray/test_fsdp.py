"""Two train workers that share the model (FSDP2 on gloo) against one, on the same recorded batches."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.learner_actor import RayLearner, spawn_learner
from gps_ray.base.errors import LearnerError
from gps_ray.base.types import RolloutGroup, UpdateRequest
from gps_ray.config import TrainConfig
from gps_ray.loop.in_process import learner_of_run
from gps_ray.model import load_model, load_tokenizer
from tests.learners import update_request
from tests.unit.learning.rollouts import ALL_RIGHT, ALL_WRONG, MIXED, ids, make_groups, make_model, make_tables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

# Ragged, with groups that need no forward pass; in the last batch one mini-batch has nothing to train on.
BATCHES = [make_groups([MIXED, ALL_WRONG, "rwwrw", "rw", ALL_RIGHT, MIXED], seed) for seed in range(9)]
BATCHES.append(make_groups(["rww", ALL_WRONG], 9))
TOLERANCE = 1e-5


def _config(**learning: Any) -> TrainConfig:
    # Small micro-batches: each worker accumulates over several, and not equally many.
    settings = {"num_threads": 1, "num_workers": 2, "microbatch_tokens": 24, **learning}
    return TrainConfig.model_validate({"learning": settings})


async def _update(learner: RayLearner, groups: list[RolloutGroup]) -> dict[str, float]:
    return dict((await learner.update(update_request(groups))).metrics)


def _assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        tolerance = TOLERANCE if name == "train/loss" else 1e-4
        assert one[name] == pytest.approx(other[name], rel=1e-4, abs=tolerance), name


@pytest.mark.timeout(900)
def test_two_workers_give_the_losses_of_one_and_resume_bit_for_bit(tmp_path: Path) -> None:
    directory, config = make_model(tmp_path / "model"), _config()
    alone = learner_of_run(config, directory)

    async def test() -> None:
        learner = spawn_learner("fsdp/whole", config, directory, tmp_path / "ray_train")
        await learner.start()
        losses = []
        for number, groups in enumerate(BATCHES):
            if number == 5:
                await learner.save(tmp_path / "checkpoint")
            losses.append(await _update(learner, groups))
            _assert_close(losses[-1], dict(alone.update(make_tables(groups), ids(groups)).metrics))
        assert len(list((tmp_path / "checkpoint").glob("*.distcp"))) == 2
        published = await learner.publish()
        weights = ray.get(published.payload).arrays
        expected = alone.weights()
        assert weights.keys() == expected.keys()
        for name in weights:
            np.testing.assert_allclose(weights[name], expected[name], atol=2e-4, err_msg=name)
        np.testing.assert_allclose(published.probe_logprobs, alone.probe()[1], atol=1e-3)
        await learner.export(tmp_path / "policy")
        await learner.close()
        exported = load_model(tmp_path / "policy").state_dict()
        assert all(torch.equal(exported[name], torch.tensor(weights[name])) for name in weights)
        load_tokenizer(tmp_path / "policy")

        resumed = spawn_learner("fsdp/resumed", config, directory, tmp_path / "ray_train")
        assert (await resumed.start(tmp_path / "checkpoint")).policy_version == 5
        for groups, metrics in zip(BATCHES[5:], losses[5:], strict=True):
            assert await _update(resumed, groups) == metrics
        with pytest.raises(LearnerError, match="the first is nowhere"):
            await resumed.update(UpdateRequest(step=1, rollouts=(), admitted=("nowhere",)))
        await resumed.close()

    asyncio.run(asyncio.wait_for(test(), 800))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_two_workers_share_value_model_and_reference_policy(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    config = _config(
        loss="ppo",
        kl_coefficient=0.1,
        rollout_is="sequence",
        activation_checkpointing=True,
        lr_scheduler_type="linear",
        lr_warmup_steps=2,
    )
    alone = learner_of_run(config, directory)

    async def test() -> None:
        learner = spawn_learner("fsdp/ppo", config, directory, tmp_path / "ray_train")
        await learner.start()
        for groups in BATCHES[6:]:
            expected = dict(alone.update(make_tables(groups), ids(groups)).metrics)
            assert "train/value_loss" in expected
            _assert_close(await _update(learner, groups), expected)
        await learner.close()

    asyncio.run(asyncio.wait_for(test(), 500))
