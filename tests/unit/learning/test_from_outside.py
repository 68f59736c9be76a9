"""A loss and an advantage from a module outside the package, by import path and with options: the docs' own example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_ray.base.errors import ConfigError
from gps_ray.config import LearningConfig, TrainConfig, load_config
from gps_ray.learning.algorithms import ADVANTAGES, ALGORITHMS, check_algorithm
from gps_ray.loop.plan import resolve
from gps_ray.model import load_model
from tests.unit.learning.rollouts import (
    ALL_WRONG,
    MIXED,
    TEMPERATURE,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)

DOCS = Path(__file__).parents[3] / "docs" / "algorithms.md"
# Ways to get it wrong.
WRONG = """
from gps_ray.learning.algorithms import Algorithm
from gps_ray.learning.losses.interface import TokenLoss


def bare_loss(tokens, clip):
    return tokens.policy


def gives_a_tensor():
    return Algorithm(policy_loss=bare_loss)


def gives_means():
    def loss(tokens, clip):
        means = tokens.policy.mean(1, keepdim=True)
        return TokenLoss(per_token=means, is_clipped=means > 0)

    return Algorithm(policy_loss=loss)


def gives_a_function():
    return bare_loss


def gives_a_number():
    return 3


def gives_the_mean():
    return lambda rewards: rewards.mean()
"""


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules ``my_losses`` (of the docs) and ``wrong_losses``, importable."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "my_losses.py").write_text(example)
    (tmp_path / "wrong_losses.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)


def _config(*overrides: str) -> LearningConfig:
    fixed = ("learning.num_threads=1", "learning.num_minibatches=1", "learning.max_grad_norm=1e9")
    return resolve(load_config(TrainConfig, None, [*fixed, *overrides])).learning


def _update(directory: Path, config: LearningConfig, results: tuple[str, ...]) -> dict[str, float]:
    groups = make_groups(results)
    return dict(make_learner(directory, config).update(make_tables(groups), ids(groups)).metrics)


@torch.no_grad()
def _by_hand(policy: Any, results: tuple[str, ...], epsilon: float, baseline: float) -> float:
    """The docs' loss of the docs' advantages, one response at a time in float64."""
    means = []
    for rollout in (rollout for group in make_groups(results) for rollout in group.rollouts):
        tokens = torch.tensor([[*rollout.prompt_tokens.tolist(), *rollout.response_tokens.tolist()]])
        logits = policy(input_ids=tokens).logits[0, len(rollout.prompt_tokens) - 1 : -1] / TEMPERATURE
        policy_logprobs = torch.log_softmax(logits, -1)[torch.arange(len(logits)), tokens[0, -len(logits) :]]
        advantage = rollout.reward - baseline
        losses = []
        for now, before in zip(policy_logprobs.tolist(), rollout.sampled_logprobs.tolist(), strict=True):
            ratio = np.exp(now - before)
            losses.append(abs(advantage) * (ratio - 1) ** 2 / (2 * epsilon) - advantage * ratio)
        means.append(np.mean(losses))
    return float(np.mean(means))


def test_an_update_with_both_is_the_one_written_out_by_hand(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    results = (MIXED, "wr", ALL_WRONG, "r")
    policy = load_model(directory).double()
    for epsilon, baseline in ((0.2, 0.5), (0.05, 0.3)):
        config = _config(
            "learning.loss=my_losses:spo",
            f"learning.loss_options.epsilon={epsilon}",
            "learning.advantage=my_losses:fixed_baseline",
            f"learning.advantage_options.baseline={baseline}",
        )
        metrics = _update(directory, config, results)
        assert metrics["train/loss"] == pytest.approx(_by_hand(policy, results, epsilon, baseline), abs=1e-5)
        # Groups of equal rewards, and of one rollout, have advantages too.
        assert metrics["train/num_groups_trained"] == 4
        assert metrics["train/grad_norm"] > 0


def test_what_is_left_out_is_the_built_in_algorithms_own(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    metrics = _update(directory, _config("learning.loss=my_losses:spo"), (MIXED, ALL_WRONG))
    assert metrics["train/num_groups_trained"] == 1
    # A built-in loss with another advantage: Dr.GRPO's.
    config = _config("learning.advantage=group_centred", "learning.loss_agg_mode=seq-mean-token-sum-norm")
    assert _update(directory, config, (MIXED, "wr")) == _update(
        directory, _config("learning.loss=dr_grpo"), (MIXED, "wr")
    )


def test_groups_of_one_are_enough_where_the_advantage_says_so() -> None:
    one = "rollout.group_size=1"
    _config("learning.advantage=my_losses:fixed_baseline", one)
    with pytest.raises(ConfigError, match=r"^rollout\.group_size: my_losses:spo compares"):
        _config("learning.loss=my_losses:spo", one)
    with pytest.raises(ConfigError, match=r"^rollout\.group_size: leave_one_out compares"):
        _config("learning.loss=ppo", "learning.advantage=leave_one_out", one)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss=gropo"], [f"learning.loss: expected one of {', '.join(ALGORITHMS)} or", "'gropo'"]),
        (["advantage=mean"], [f"learning.advantage: expected one of {', '.join(ADVANTAGES)} or", "'mean'"]),
        (["loss=no_such_module:spo"], ["learning.loss: cannot import 'no_such_module'"]),
        (["loss=my_losses:sop"], ["learning.loss: ", "no 'sop'"]),
        (["loss=my_losses:spo", "loss_options.epsilom=1"], ["learning.loss_options: spo takes", "'epsilom'"]),
        (["advantage=my_losses:fixed_baseline", "advantage_options.baseline=2"],
         ["learning.advantage_options: ", "between 0 and 1, got 2"]),
        (["loss=dapo", "loss_options.clip=1"], ["learning.loss_options: dapo takes none, got clip"]),
        (["advantage=group_centred", "advantage_options.a=1"], ["learning.advantage_options: group_centred takes no"]),
        (["advantage=posterior_baseline", "advantage_options.precison=2"],
         ["learning.advantage_options: PosteriorBaseline takes", "'precison'"]),
        (["advantage=posterior_baseline", "advantage_options.precision=-1"],
         ["learning.advantage_options: ", "expected 0 and more"]),
        (["advantage=posterior_baseline", "advantage_options.precision=true"],
         ["learning.advantage_options: ", "precision: expected a finite number, got True"]),
        (["advantage=posterior_baseline", "advantage_options.right_reward=-1"],
         ["learning.advantage_options: ", "more than wrong_reward=0, got -1"]),
        (["advantage_options.a=1"], ["learning.advantage_options: got a", "learning.advantage is null"]),
        (["loss=wrong_losses:bare_loss"], ["learning.loss_options: bare_loss takes (tokens, clip)", "missing"]),
        (["loss=wrong_losses:gives_a_function"], ["learning.loss: ", "an Algorithm", "got function"]),
        (["loss=wrong_losses:gives_a_tensor"], ["learning.loss: ", "a TokenLoss", "got tensor("]),
        (["loss=wrong_losses:gives_means"], ["learning.loss: ", "a TokenLoss", "shapes torch.Size([2, 1])"]),
        (["advantage=wrong_losses:gives_a_number"], ["learning.advantage: ", "got int"]),
        (["advantage=wrong_losses:gives_the_mean"], ["learning.advantage: expected one advantage per reward", "()"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_before_anything_starts(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(*(f"learning.{override}" for override in overrides))
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_built_in_ones_pass_their_trial(name: str) -> None:
    check_algorithm(LearningConfig(loss=name), group_size=2)
