"""Every algorithm: its whole update against one written out slowly, learning, and resuming."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_ray.base.errors import ConfigError
from gps_ray.config import LearningConfig, TrainConfig
from gps_ray.learning.algorithms import ALGORITHMS, check_algorithm, resolve_algorithm
from gps_ray.learning.learner import Learner
from gps_ray.learning.logprobs import TokenScorer
from gps_ray.learning.packing import PackedBatch
from gps_ray.loop.plan import resolve
from gps_ray.model import load_model, load_weights_into
from tests.unit.learning.rollouts import (
    ALL_WRONG,
    MIXED,
    TEMPERATURE,
    WITH_FAILURE,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_predictions,
    make_tables,
)
from tests.unit.learning.slow_update import SlowLearner

# Ragged on purpose: 1 to 4 rollouts, useful and not, with failures; both mini-batches have a useful one.
GROUPS = (MIXED, "wr", WITH_FAILURE, ALL_WRONG, "r")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl, token weights, discounts": {
        "kl_coefficient": 0.3,
        "rollout_is": "token",
        "rollout_is_threshold": 1.1,
        "gamma": 0.9,
        "lam": 0.7,
        "cliprange_value": 0.01,
    },
    "kl the other way, sequence weights, shaping": {
        "kl_coefficient": 0.2,
        "kl_penalty": "k2",
        "rollout_is": "sequence",
        "overlong_buffer_tokens": 3,
    },
}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), num_layers=1)


@pytest.fixture(scope="module")
def start(model_directory: Path) -> Any:
    """The policy to start from; every test copies it."""
    return load_model(model_directory)


def _config(name: str, **changes: Any) -> LearningConfig:
    return LearningConfig.model_validate({"loss": name, "num_threads": 1, "learning_rate": 1e-3, **changes})


def _update(learner: Learner, results: tuple[str, ...], seed: int) -> dict[str, float]:
    groups = make_groups(results, seed)
    return dict(learner.update(make_tables(groups), ids(groups), make_predictions(groups)).metrics)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_matches_one_written_out_slowly(model_directory: Path, start: Any, name: str, settings: str) -> None:
    changes = dict(SETTINGS[settings])
    if settings.startswith("kl the other way"):
        changes["use_kl_in_reward"] = not ALGORITHMS[name].kl_in_reward
    config = _config(name, microbatch_tokens=64, **changes)
    learner, slow = make_learner(model_directory, config), SlowLearner(start, config)
    metrics = _update(learner, GROUPS, 0)
    groups = make_groups(GROUPS, 0)
    policy_losses, value_losses = slow.update(groups, make_predictions(groups))
    assert metrics["train/loss"] == pytest.approx(np.mean(policy_losses), abs=1e-5)
    assert ("train/value_loss" in metrics) == bool(value_losses)
    if value_losses:
        assert metrics["train/value_loss"] == pytest.approx(np.mean(value_losses), abs=1e-5)
    expected, before = slow.model.state_dict(), start.state_dict()
    for parameter, array in learner.weights().items():
        # Compare the steps: they are a thousand times smaller than the weights. Entries with next to no gradient may
        # differ by what AdamW makes of rounding, hence the share.
        step, wanted = array - before[parameter].numpy(), (expected[parameter] - before[parameter]).numpy()
        assert np.isclose(step, wanted, atol=5e-5, rtol=2e-2).mean() > 0.98, parameter
        assert np.abs(wanted).max() > 5e-4, parameter


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_log_probs_of_rewarded_responses_rise(model_directory: Path, start: Any, name: str) -> None:
    results = (MIXED, "rw", "wwr")
    learner = make_learner(model_directory, _config(name, kl_coefficient=1e-3, rollout_is="token"))
    groups = make_groups(results)

    def means() -> tuple[float, float]:
        """Mean log-prob of the right and of the wrong responses."""
        model = copy.deepcopy(start)
        load_weights_into(model, learner.weights())
        found: dict[float, list[float]] = {0.0: [], 1.0: []}
        for rollout in (rollout for group in groups for rollout in group.rollouts):
            tokens = torch.tensor([[*rollout.prompt_tokens.tolist(), *rollout.response_tokens.tolist()]])
            with torch.no_grad():
                logits = model(input_ids=tokens).logits[0, len(rollout.prompt_tokens) - 1 : -1] / TEMPERATURE
            chosen = torch.log_softmax(logits, -1)[torch.arange(len(logits)), tokens[0, -len(logits) :]]
            found[rollout.reward].append(float(chosen.mean()))
        return float(np.mean(found[1.0])), float(np.mean(found[0.0]))

    right, wrong = means()
    for _ in range(5):
        metrics = learner.update(make_tables(groups), ids(groups), make_predictions(groups)).metrics
        assert np.isfinite(metrics["train/loss"])
        assert metrics["train/num_skipped_updates"] == 0
    right_after, wrong_after = means()
    assert right_after > right + 0.02
    assert right_after - wrong_after > right - wrong + 0.05


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp", "rloo", "posterior_baseline"])
def test_a_saved_and_loaded_learner_goes_on_bit_for_bit(model_directory: Path, tmp_path: Path, name: str) -> None:
    config = _config(name, kl_coefficient=0.1, lr_scheduler_type="cosine", lr_warmup_steps=2)
    straight, resumed = make_learner(model_directory, config), make_learner(model_directory, config)
    for seed in range(2):
        _update(straight, GROUPS, seed)
    straight.save(tmp_path / "learner")
    resumed.load(tmp_path / "learner")
    for seed in range(2, 4):
        assert _update(straight, GROUPS, seed) == _update(resumed, GROUPS, seed)
    one, other = straight.weights(), resumed.weights()
    assert all(np.array_equal(one[parameter], other[parameter]) for parameter in one)


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp", "posterior_baseline"])
def test_one_response_per_prompt_is_enough(model_directory: Path, name: str) -> None:
    learner = make_learner(model_directory, _config(name))
    metrics = _update(learner, ("r", "w", "w", "r", "w"), 0)
    assert metrics["train/num_groups_trained"] == 5
    assert metrics["train/num_groups_equal_rewards"] == 5
    assert metrics["train/num_optimizer_steps"] == 2
    assert metrics["train/grad_norm"] > 0
    check_algorithm(_config(name), group_size=1)


@pytest.mark.parametrize("name", [name for name, a in ALGORITHMS.items() if a.needs_groups])
def test_algorithms_that_compare_within_a_group_refuse_groups_of_one(name: str) -> None:
    check_algorithm(_config(name), group_size=2)
    message = rf"^rollout\.group_size: {name} compares the rollouts.* got 1; .*learning\.loss to ppo or reinforce_pp"
    with pytest.raises(ConfigError, match=message):
        resolve(TrainConfig.model_validate({"learning": {"loss": name}, "rollout": {"group_size": 1}}))


def test_the_value_model_learns_what_the_policy_can_expect(model_directory: Path) -> None:
    learner = make_learner(model_directory, _config("ppo", value_learning_rate=3e-3))
    errors = [_update(learner, (MIXED, "rw", "wwwr", "rrrw"), 0)["train/value_error"] for _ in range(12)]
    assert errors[-1] < 0.5 * errors[0]


def test_importance_metrics_say_how_far_the_engine_is_off(model_directory: Path) -> None:
    groups = make_groups([MIXED, "rw"])
    config = _config("grpo", rollout_is="token", rollout_is_threshold=1.1, num_minibatches=1)
    metrics = make_learner(model_directory, config).update(make_tables(groups), ids(groups)).metrics
    assert 0 < metrics["train/tis_truncated_ratio"] < 1
    assert metrics["train/tis_mean"] <= 1.1 < metrics["train/tis_max"]
    # The old policy is the learner's own: before its first step nothing is clipped.
    assert metrics["train/clip_ratio"] == metrics["train/approx_kl"] == 0
    assert not any("tis" in name for name in _update(make_learner(model_directory, _config("grpo")), (MIXED,), 0))


@pytest.mark.parametrize(
    ("settings", "num_passes"),
    [
        ({"num_minibatches": 1}, 1),
        ({"num_minibatches": 2}, 3),
        ({"num_minibatches": 1, "use_kl_in_reward": True, "kl_coefficient": 0.1}, 2),
    ],
)
def test_the_first_mini_batch_takes_its_old_log_probs_from_its_training_pass(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], num_passes: int
) -> None:
    learner = make_learner(model_directory, _config("grpo", rollout_is="token", **settings))
    passes = []
    score = TokenScorer.__call__

    def counted(scorer: TokenScorer, batch: PackedBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        passes.append(scorer)
        return score(scorer, batch, temperature)

    monkeypatch.setattr(TokenScorer, "__call__", counted)
    _update(learner, (MIXED, "wr"), 0)
    assert passes.count(passes[0]) == num_passes  # the reference policy's come after


def test_the_configs_settings_win_over_the_algorithms_own() -> None:
    algorithm, penalty = resolve_algorithm(_config("dapo"), 20)
    assert (algorithm.clip.low, algorithm.clip.high) == (0.2, 0.28)
    assert [penalty(length) for length in (10, 16, 18, 20, 25)] == [0, 0, -0.5, -1, -1]
    changes = {"clip_ratio_high": 0.5, "overlong_buffer_tokens": 0, "loss_agg_mode": "seq-mean-token-mean"}
    algorithm, penalty = resolve_algorithm(_config("dapo", use_kl_in_reward=True, kl_penalty="k1", **changes), 20)
    assert (algorithm.clip.low, algorithm.clip.high) == (0.2, 0.5)
    assert penalty(20) == 0
    assert (algorithm.aggregation, algorithm.kl_penalty, algorithm.kl_in_reward) == ("seq-mean-token-mean", "k1", True)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_token_that_the_engine_held_for_impossible_costs_no_step(
    model_directory: Path, start: Any, name: str
) -> None:
    groups = make_groups(GROUPS[:2], 0)
    for group in groups:  # one in each mini-batch
        for rollout in group.rollouts:
            rollout.sampled_logprobs[0] = -200.0
    config = _config(name, kl_coefficient=0.1)
    predictions = make_predictions(groups)
    metrics = make_learner(model_directory, config).update(make_tables(groups), ids(groups), predictions).metrics
    assert metrics["train/num_skipped_updates"] == 0
    assert np.isfinite(metrics["train/approx_kl"])
    losses, _ = SlowLearner(start, config).update(groups, predictions)
    assert metrics["train/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
