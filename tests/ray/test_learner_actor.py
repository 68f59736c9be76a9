"""The learner actor on a real local cluster: same numbers as in process, and no way to hang."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.learner_actor import spawn_learner
from gps_ray.base.errors import DeadlineError, LearnerError, LostError
from gps_ray.base.types import UpdateRequest
from gps_ray.config import TrainConfig
from gps_ray.learning.learner import Learner
from gps_ray.loop.in_process import learner_of_run
from tests.learners import update_request
from tests.processes import wait_for
from tests.unit.learning.rollouts import ALL_WRONG, MIXED, ids, make_groups, make_model, make_tables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

BATCHES = [make_groups([MIXED, ALL_WRONG, MIXED, "rw"], seed) for seed in range(2)]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def _config(**learning: Any) -> TrainConfig:
    return TrainConfig.model_validate({"learning": {"num_threads": 1, **learning}})


def _assert_same(weights: dict[str, Any], learner: Learner) -> None:
    expected = learner.weights()
    assert weights.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(weights[name], expected[name]), name


def _run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 500))


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_updates_and_weights_equal_those_in_process(model_directory: Path, tmp_path: Path) -> None:
    """How a new one goes on from what was saved: test_fsdp.py, and the runs of tests/faults."""
    config = _config()
    expected = learner_of_run(config, model_directory)

    async def test() -> None:
        learner = spawn_learner("equal/learner", config, model_directory, tmp_path / "ray_train")
        status = await learner.start()
        assert status.policy_version == 0
        first = await learner.publish()
        assert first.policy_version == 0
        tokens, logprobs = expected.probe()
        assert np.array_equal(first.probe_tokens, tokens)
        assert np.array_equal(first.probe_logprobs, logprobs)
        for groups in BATCHES:
            result = await learner.update(update_request(groups))
            in_process = expected.update(make_tables(groups), ids(groups))
            assert result.metrics == in_process.metrics
            assert result.policy_version == in_process.policy_version
            assert result.cpu_s > 0
        published = await learner.publish()
        await learner.export(tmp_path / "policy")
        await learner.close()
        assert wait_for("the train worker to leave", lambda: _is_gone(status.worker_pid))
        # The weights belong to this process: they outlive the learner, its train worker and later versions.
        arrays = ray.get(published.payload).arrays
        _assert_same(arrays, expected)
        # Read where they lie in the store, not copied out of it.
        assert not any(array.flags.writeable or array.flags.owndata for array in arrays.values())
        assert (tmp_path / "policy" / "model.safetensors").exists()

    _run(test())


def test_a_lost_or_failing_train_worker_is_an_error_and_the_actor_can_begin_anew(
    model_directory: Path, tmp_path: Path
) -> None:
    async def test() -> None:
        learner = spawn_learner("lost/learner", _config(), model_directory, tmp_path / "ray_train")
        status = await learner.start()
        os.kill(status.worker_pid, signal.SIGKILL)
        with pytest.raises(LostError, match=r"attempt 1 ended: the train worker was lost"):
            await asyncio.wait_for(learner.update(update_request(BATCHES[0])), 60)
        with pytest.raises(LostError, match="the train worker was lost"):
            await learner.publish()

        again = await learner.start()
        assert again.worker_pid != status.worker_pid
        assert (await learner.update(update_request(BATCHES[0]))).policy_version == 1
        with pytest.raises(LearnerError, match=r"attempt 2 ended.*the first is nowhere") as caught:
            await learner.update(UpdateRequest(step=2, rollouts=(), admitted=("nowhere",)))
        assert "\n" not in str(caught.value)
        await learner.close()

    _run(test())


def test_the_actors_death_ends_its_train_workers(model_directory: Path, tmp_path: Path) -> None:
    async def test() -> None:
        learner = spawn_learner("dead/learner", _config(), model_directory, tmp_path / "ray_train")
        status = await learner.start()
        assert ray.available_resources()["CPU"] == 1
        asked = asyncio.ensure_future(learner.update(update_request(BATCHES[0])))
        await asyncio.sleep(0)
        ray.kill(ray.get_actor("dead/learner"))
        with pytest.raises(LostError, match="the learner actor died"):
            await asyncio.wait_for(asked, 60)
        wait_for("the train worker to end", lambda: _is_gone(status.worker_pid))
        await learner.close()
        wait_for("its CPU", lambda: ray.available_resources()["CPU"] == 2)

    _run(test())


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    async def test() -> None:
        learner = spawn_learner("absent/learner", _config(), tmp_path / "no_model", tmp_path / "ray_train")
        with pytest.raises(LearnerError, match=r"model\.path: no such folder"):
            await learner.start()
        await learner.close()

    _run(test())


@pytest.mark.slow  # every simulated run has one
def test_without_a_model_folder_the_policy_is_simulated(tmp_path: Path) -> None:
    async def test() -> None:
        learner = spawn_learner("simulated/learner", _config(), None, tmp_path / "ray_train")
        await learner.start()
        result = await learner.update(update_request(BATCHES[0]))
        assert result.policy_version == 1
        assert result.metrics["train/num_groups_trained"] == 3
        published = await learner.publish()
        assert ray.get(published.payload).arrays == {}
        await learner.close()

    _run(test())


@pytest.mark.slow
def test_a_worker_that_does_not_come_up_in_time_is_a_deadline(model_directory: Path, tmp_path: Path) -> None:
    async def test() -> None:
        config = _config(start_deadline_s=0.5)
        learner = spawn_learner("slow/learner", config, model_directory, tmp_path / "ray_train")
        with pytest.raises(DeadlineError, match=r"raise learning\.start_deadline_s"):
            await learner.start()
        await learner.close()

    _run(test())
