"""The predictor as baseline: exact Bayes on Beta posteriors, no bias by the response's own reward, small groups."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gps_ray.base.errors import ConfigError, LearnerError
from gps_ray.base.types import FloatArray, SuccessPrediction
from gps_ray.config import LearningConfig, TrainConfig
from gps_ray.learning.advantages.leave_one_out import leave_one_out
from gps_ray.learning.advantages.posterior_baseline import PosteriorBaseline, precision_of
from gps_ray.learning.algorithms import resolve_algorithm
from gps_ray.learning.groups import TrainGroup, number_rows, train_groups
from gps_ray.learning.minibatch import RewardKl, fill_advantages, make_minibatch
from gps_ray.learning.train_workers import TrainWorkers
from gps_ray.loop.plan import resolve
from tests.unit.learning.rollouts import (
    ALL_RIGHT,
    MIXED,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_predictions,
    make_tables,
)

GROUPS: list[FloatArray] = [
    np.array(rewards, dtype=np.float64) for rewards in ([1], [0, 1], [1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1, 1, 1, 0, 1])
]


def _beta(right: float, wrong: float) -> SuccessPrediction:
    total = right + wrong
    return SuccessPrediction(mean=right / total, std=(right * wrong / (total**2 * (total + 1))) ** 0.5)


@pytest.mark.parametrize("rewards", GROUPS)
@pytest.mark.parametrize(("right", "wrong"), [(1, 1), (0.5, 3), (20, 5)])
def test_the_baseline_is_the_mean_of_a_beta_posterior_after_the_others(
    rewards: FloatArray, right: float, wrong: float
) -> None:
    assert precision_of(_beta(right, wrong)) == pytest.approx(right + wrong)
    others = rewards.sum() - rewards
    expected = rewards - (right + others) / (right + wrong + len(rewards) - 1)
    np.testing.assert_allclose(PosteriorBaseline()(rewards, _beta(right, wrong)), expected, atol=1e-12)


@pytest.mark.parametrize("rewards", GROUPS)
@pytest.mark.parametrize("baseline", [PosteriorBaseline(), PosteriorBaseline(precision=3, right_reward=2)])
def test_the_baseline_does_not_depend_on_the_responses_own_reward(
    rewards: FloatArray, baseline: PosteriorBaseline
) -> None:
    prediction = _beta(2, 5)
    own = rewards - baseline(rewards, prediction)
    for i in range(len(rewards)):
        other = rewards.copy()
        other[i] = 17.5
        assert (other - baseline(other, prediction))[i] == pytest.approx(own[i])


def _gradient(size: int, prediction: SuccessPrediction) -> tuple[float, float]:
    """Mean and variance of the policy gradient, summed over all that may come, of a policy of two equally likely
    responses that are right with .3 and .1: the gradient of its success by its logit is .05."""
    first = second = 0.0
    for taken in itertools.product((0, 1), repeat=size):
        for right in itertools.product((0, 1), repeat=size):
            rates = np.where(taken, 0.3, 0.1)
            chance = float(np.prod(np.where(right, rates, 1 - rates))) / 2**size
            advantages = PosteriorBaseline()(np.array(right, dtype=np.float64), prediction)
            gradient = float(np.mean(advantages * (np.array(taken) - 0.5)))
            first, second = first + chance * gradient, second + chance * gradient**2
    return first, second - first**2


def test_the_gradient_has_no_bias_whatever_is_predicted_and_less_variance_where_it_is_right() -> None:
    for size in (1, 2, 4):
        right, off = (_gradient(size, SuccessPrediction(mean=mean, std=0.1)) for mean in (0.2, 0.9))
        assert right[0] == pytest.approx(0.05)
        assert off[0] == pytest.approx(0.05)
        assert right[1] < off[1]
        if size > 1:
            alone = _gradient(size, SuccessPrediction(mean=0.2, std=0.4))  # leave one out
            assert alone[0] == pytest.approx(0.05)
            assert right[1] < alone[1]


@pytest.mark.parametrize("rewards", GROUPS[1:])
def test_without_precision_it_is_leave_one_out_and_with_certainty_the_prediction(rewards: FloatArray) -> None:
    # A posterior of two points, 0 and 1, has no precision; nor has one told to have none.
    for prediction in (SuccessPrediction(mean=0.3, std=0.21**0.5), SuccessPrediction(mean=0.3, std=0.6)):
        np.testing.assert_allclose(PosteriorBaseline()(rewards, prediction), leave_one_out(rewards), atol=1e-12)
    np.testing.assert_array_equal(PosteriorBaseline(precision=0)(rewards, _beta(9, 1)), leave_one_out(rewards))
    sure = SuccessPrediction(mean=0.3, std=0.0)
    np.testing.assert_allclose(PosteriorBaseline()(rewards, sure), rewards - 0.3)
    bounded = PosteriorBaseline(max_precision=2)
    np.testing.assert_allclose(bounded(rewards, sure), PosteriorBaseline(precision=2)(rewards, sure))


def test_one_response_is_compared_with_the_prediction_alone() -> None:
    for precision in (None, 0, 5):
        found = PosteriorBaseline(precision=precision)(np.array([1.0]), _beta(3, 7))
        np.testing.assert_allclose(found, [0.7])
    signed = PosteriorBaseline(right_reward=1, wrong_reward=-1)
    np.testing.assert_allclose(signed(np.array([-1.0]), _beta(3, 7)), [-1 + 0.4])


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), num_layers=1)


def test_groups_of_equal_rewards_teach_where_they_were_not_expected(model_directory: Path) -> None:
    """With another algorithm's loss, which is not normalised: the sign of what a whole group teaches is seen."""
    config = LearningConfig(advantage="posterior_baseline", num_threads=1)
    learner = make_learner(model_directory, config)
    groups = make_groups([ALL_RIGHT, "r", MIXED])
    metrics = learner.update(make_tables(groups), ids(groups), make_predictions(groups)).metrics
    assert metrics["train/num_groups_trained"] == 3
    assert metrics["train/num_groups_equal_rewards"] == 2
    precisions = [0.21 / 0.01 - 1, 0.16 / 0.0625 - 1, 2.0]
    expected = [precisions[0] / (precisions[0] + 3), 1.0, 2 / 5]
    assert metrics["train/posterior_weight"] == pytest.approx(np.mean(expected))


def test_micro_batches_and_padding_change_nothing(model_directory: Path) -> None:
    groups = make_groups([MIXED, "r", "rw", ALL_RIGHT, "w"])
    predictions = make_predictions(groups)
    weights = []
    for tokens, per_table in ((20, 1), (10_000, 5)):
        config = LearningConfig(loss="posterior_baseline", num_threads=1, microbatch_tokens=tokens, learning_rate=1e-3)
        learner = make_learner(model_directory, config)
        learner.update(make_tables(groups, per_table), ids(groups), predictions)
        weights.append(learner.weights())
    for name, array in weights[0].items():
        np.testing.assert_allclose(array, weights[1][name], atol=2e-5, err_msg=name)


class _Meeting(TrainWorkers):
    """Two workers of one process, each in a thread: their tensors meet in a list."""

    barrier = threading.Barrier(2, timeout=60)
    shared: ClassVar[dict[int, torch.Tensor]] = {}

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.shared[self.rank] = values
        self.barrier.wait()
        total = self.shared[0] + self.shared[1]
        self.barrier.wait()
        return total


def _advantages_by_row(groups: list[TrainGroup], workers: TrainWorkers) -> dict[int, float]:
    """Of the rows that this worker trains on."""
    algorithm, _ = resolve_algorithm(LearningConfig(loss="posterior_baseline"), 8)
    made = make_minibatch(
        groups,
        [group for group in groups if algorithm.learns_from(group)],
        mode=algorithm.aggregation,
        max_response_tokens=8,
        max_tokens=24,
        max_shared_tokens=0,
        by_prompt=True,
        workers=workers,
    )
    assert made is not None
    kl = RewardKl(coefficient=0.0, algorithm=algorithm)
    fill_advantages(groups, made.micro_batches, algorithm=algorithm, reward_kl=kl, gamma=1.0, lam=1.0, workers=workers)
    return {
        int(number): float(advantages[mask][0])
        for micro in made.micro_batches
        for number, advantages, mask in zip(micro.batch.numbers, micro.advantages, micro.batch.mask, strict=True)
        if mask.any()
    }


def test_two_workers_have_the_advantages_of_one() -> None:
    groups = make_groups([MIXED, "r", "rw", ALL_RIGHT, "w", "rwwrr"])
    trained = number_rows(train_groups(make_tables(groups), ids(groups), predictions=make_predictions(groups)))
    device = torch.device("cpu")
    alone = _advantages_by_row(trained, TrainWorkers(device=device))
    with ThreadPoolExecutor(2) as pool:
        workers = [_Meeting(device=device, rank=rank, size=2) for rank in range(2)]
        first, second = pool.map(partial(_advantages_by_row, trained), workers)
    assert not first.keys() & second.keys()
    assert {**first, **second} == pytest.approx(alone, abs=1e-6)
    assert len(alone) == sum(len(group.rows) for group in trained)


def test_a_prompt_without_a_prediction_is_refused_and_others_read_none(model_directory: Path) -> None:
    groups = make_groups([MIXED, "rw"])
    predictions = make_predictions(groups[:1])
    learner = make_learner(model_directory, LearningConfig(loss="posterior_baseline", num_threads=1))
    with pytest.raises(LearnerError, match=r"1 of 2 groups came without .* selection\.selector=gps_fused"):
        learner.update(make_tables(groups), ids(groups), predictions)
    learner = make_learner(model_directory, LearningConfig(num_threads=1))
    assert learner.update(make_tables(groups), ids(groups), predictions).metrics["train/num_groups_trained"] == 2


def test_a_run_that_predicts_nothing_cannot_have_it() -> None:
    def config(loss: dict[str, object], selector: str, group_size: int = 1) -> TrainConfig:
        tree = {"learning": loss, "selection": {"selector": selector}, "rollout": {"group_size": group_size}}
        return TrainConfig.model_validate(tree)

    loss: dict[str, object] = {"loss": "posterior_baseline"}
    resolve(config(loss, "gps_fused"))
    with pytest.raises(ConfigError, match=r"learning\.loss: selector 'uniform' predicts nothing .* set another"):
        resolve(config(loss, "uniform"))
    with pytest.raises(ConfigError, match=r"learning\.advantage: predictor 'markov_state'"):
        resolve(config({"advantage": "posterior_baseline"}, "dps", 4))
    # No single response is right and wrong.
    with pytest.raises(ConfigError, match=r"rollout\.group_size: useful_only .* selection\.admission=keep_all"):
        resolve(config({"loss": "reinforce_pp"}, "ds"))


def test_options_reach_it() -> None:
    options = {"precision": 4, "wrong_reward": -1}
    config = LearningConfig(loss="rloo", advantage="posterior_baseline", advantage_options=options)
    algorithm, _ = resolve_algorithm(config, 8)
    assert algorithm.group_advantages == PosteriorBaseline(precision=4, wrong_reward=-1)
    assert algorithm.needs_predictions
    assert not algorithm.needs_groups
