"""What ``learning.loss`` stands for: an advantage, a policy loss and the paper's settings (docs/algorithms.md).

A loss or an advantage of the user's own is a factory named by import path: it is called with the options of the config
and gives an ``Algorithm``, or a ``GroupAdvantages``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from gps_ray.base.errors import ConfigError, LearnerError
from gps_ray.base.import_path import build_from_path, call_with_options, check_options
from gps_ray.base.types import FloatArray, SuccessPrediction
from gps_ray.config import LearningConfig
from gps_ray.learning.advantages.group_relative import group_centred, group_normalised
from gps_ray.learning.advantages.leave_one_out import leave_one_out
from gps_ray.learning.advantages.posterior_baseline import PosteriorBaseline
from gps_ray.learning.aggregation import AggregationMode
from gps_ray.learning.groups import TrainGroup
from gps_ray.learning.losses.cispo import cispo_loss
from gps_ray.learning.losses.clipped import clipped_loss
from gps_ray.learning.losses.interface import ClipRange, PolicyLoss, PolicyTokens, TokenLoss
from gps_ray.learning.losses.kl import KlPenalty
from gps_ray.learning.losses.sequence import gspo_loss, rloo_loss
from gps_ray.learning.rewards import OverlongPenalty

__all__ = ["ADVANTAGES", "ALGORITHMS", "Algorithm", "GroupAdvantages", "check_algorithm", "resolve_algorithm"]

PPO_CLIP = ClipRange(low=0.2, high=0.2)

# A group's rewards [G >= 1] to advantages [G].
GroupAdvantages = Callable[[FloatArray], FloatArray]

# For what is tried before anything is known.
_TRIAL = SuccessPrediction(mean=0.5, std=0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """``group_advantages`` maps a group's rewards [G] to advantages [G], a ``PosteriorBaseline`` with what the selector
    had predicted of the prompt; None leaves the rewards. ``over_tokens`` says how that number reaches the tokens: the
    same on each ("response"), as a return with the KL of the tokens to come ("returns"), or by a value model ("gae").
    ``normalises_batch`` divides by the spread of the whole update. ``overlong_share`` is the overlong buffer as a share
    of the longest response. ``skips_zero_advantages``: the policy loss has no gradient where a group's advantages are
    all 0, so that its forward pass is saved; False for a loss that has one there (an entropy term)."""

    policy_loss: PolicyLoss = clipped_loss
    group_advantages: GroupAdvantages | PosteriorBaseline | None = group_normalised
    over_tokens: Literal["response", "returns", "gae"] = "response"
    normalises_batch: bool = False
    aggregation: AggregationMode = "token-mean"
    clip: ClipRange = PPO_CLIP
    kl_penalty: KlPenalty = "k3"
    kl_in_reward: bool = False
    overlong_share: float = 0.0
    skips_zero_advantages: bool = True

    @property
    def needs_predictions(self) -> bool:
        """Must the selector have predicted the success rate of every prompt?"""
        return isinstance(self.group_advantages, PosteriorBaseline)

    @property
    def needs_groups(self) -> bool:
        """Is the advantage of a group of one always 0?"""
        return self.group_advantages is not None and not np.any(self.advantages(np.ones(1), _TRIAL))

    def advantages(self, rewards: FloatArray, prediction: SuccessPrediction | None) -> FloatArray:
        """[G] of one group's rewards [G]. ``prediction`` is read only where ``needs_predictions``."""
        if self.group_advantages is None:
            return rewards
        if isinstance(self.group_advantages, PosteriorBaseline):
            assert prediction is not None, "check_predicted comes first"
            return self.group_advantages(rewards, prediction)
        return self.group_advantages(rewards)

    def check_predicted(self, groups: Sequence[TrainGroup]) -> None:
        """Raises LearnerError where a group lacks the prediction that the advantage needs."""
        missing = sum(group.prediction is None for group in groups) if self.needs_predictions else 0
        if missing:
            raise LearnerError(
                f"update: {missing} of {len(groups)} groups came without a predicted success rate, which "
                "posterior_baseline needs of every prompt; set selection.selector=gps_fused, or another learning.loss "
                "or learning.advantage"
            )

    def learns_from(self, group: TrainGroup) -> bool:
        """Can it add something to the policy loss, its KL apart? Where the update's spread divides, every group can."""
        if (
            self.group_advantages is None
            or self.over_tokens != "response"
            or self.normalises_batch
            or not self.skips_zero_advantages
        ):
            return True
        return group.rewards.size > 0 and bool(np.any(self.advantages(group.rewards, group.prediction)))

    def metrics(self, groups: Sequence[TrainGroup]) -> dict[str, float]:
        """What the update's advantages were made of, where the predictor has a part in them."""
        baseline = self.group_advantages
        if not isinstance(baseline, PosteriorBaseline):
            return {}
        weights = [baseline.weight(g.prediction, g.rewards.size) for g in groups if g.prediction and g.rewards.size]
        return {"train/posterior_weight": float(np.mean(weights))} if weights else {}


ALGORITHMS = {
    "grpo": Algorithm(),
    "dr_grpo": Algorithm(group_advantages=group_centred, aggregation="seq-mean-token-sum-norm"),
    "dapo": Algorithm(clip=ClipRange(low=0.2, high=0.28), overlong_share=0.2),
    "rloo": Algorithm(
        policy_loss=rloo_loss,
        group_advantages=leave_one_out,
        aggregation="seq-mean-token-mean",
        kl_penalty="k1",
        kl_in_reward=True,
    ),
    "reinforce_pp": Algorithm(
        group_advantages=None, over_tokens="returns", normalises_batch=True, kl_penalty="k1", kl_in_reward=True
    ),
    "reinforce_pp_baseline": Algorithm(
        group_advantages=group_centred, over_tokens="returns", normalises_batch=True, kl_penalty="k2"
    ),
    "gspo": Algorithm(policy_loss=gspo_loss, aggregation="seq-mean-token-mean", clip=ClipRange(low=3e-4, high=4e-4)),
    "cispo": Algorithm(policy_loss=cispo_loss, clip=ClipRange(low=1.0, high=4.0)),
    # A comparison with what was expected of the prompt, not with its group alone: groups of one are enough.
    "posterior_baseline": Algorithm(group_advantages=PosteriorBaseline(), normalises_batch=True),
    "ppo": Algorithm(
        group_advantages=None, over_tokens="gae", normalises_batch=True, kl_penalty="k1", kl_in_reward=True
    ),
}

ADVANTAGES: dict[str, GroupAdvantages | PosteriorBaseline] = {
    "group_normalised": group_normalised,
    "group_centred": group_centred,
    "leave_one_out": leave_one_out,
    "posterior_baseline": PosteriorBaseline(),
}


def _named(key: str, name: str, options: Mapping[str, Any], built_in: Mapping[str, Any]) -> Any:
    """The built-in of this name, or what the factory at this import path makes of the options."""
    if name not in built_in and ":" not in name:
        raise ConfigError(
            f"{key}: expected one of {', '.join(built_in)} or an import path 'package.module:factory', got {name!r}; "
            f"change {key}"
        )
    if name not in built_in:
        return build_from_path(name, key, options, f"{key}_options")
    if options:
        raise ConfigError(f"{key}_options: {name} takes none, got {', '.join(options)}; remove {key}_options")
    return built_in[name]


def _loss(config: LearningConfig) -> Algorithm:
    algorithm = _named("learning.loss", config.loss, config.loss_options, ALGORITHMS)
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(
            f"learning.loss: expected {config.loss!r} to give an Algorithm (gps_ray.learning.algorithms), got "
            f"{type(algorithm).__name__}; let it return Algorithm(policy_loss=...)"
        )
    return algorithm


def _advantage(config: LearningConfig) -> GroupAdvantages | PosteriorBaseline | None:
    """None: the algorithm's own."""
    if config.advantage is None:
        if config.advantage_options:
            raise ConfigError(
                f"learning.advantage_options: got {', '.join(config.advantage_options)}, but learning.advantage is "
                "null; set it too"
            )
        return None
    if isinstance(ADVANTAGES.get(config.advantage), PosteriorBaseline):
        options, key = config.advantage_options, "learning.advantage_options"
        check_options(PosteriorBaseline, options, key, 0)
        made: PosteriorBaseline = call_with_options(PosteriorBaseline, options, key)
        return made
    advantage: GroupAdvantages = _named("learning.advantage", config.advantage, config.advantage_options, ADVANTAGES)
    if not callable(advantage):
        raise ConfigError(
            f"learning.advantage: expected {config.advantage!r} to give a function of a group's rewards, got "
            f"{type(advantage).__name__}; change learning.advantage"
        )
    return advantage


def check_algorithm(config: LearningConfig, group_size: int) -> None:
    """Raise ConfigError, before anything starts, where loss or advantage cannot be had, give something of another shape
    on a trial, or cannot learn from groups of this size."""
    algorithm, _ = resolve_algorithm(config, max_response_tokens=1)
    if algorithm.group_advantages is not None:
        shape = np.shape(algorithm.advantages(np.array([1.0, 0.0]), _TRIAL))
        if shape != (2,):
            key = "loss" if config.advantage is None else "advantage"
            raise ConfigError(
                f"learning.{key}: expected one advantage per reward, got shape {shape} for 2 rewards; change "
                f"learning.{key}"
            )
    zeros = torch.zeros(2, 3)
    tokens = PolicyTokens(policy=zeros.clone().requires_grad_(), old=zeros, advantages=zeros + 1, mask=zeros == 0)
    trial = algorithm.policy_loss(tokens, algorithm.clip)
    if not isinstance(trial, TokenLoss) or {trial.per_token.shape, trial.is_clipped.shape} != {zeros.shape}:
        got = f"shapes {trial.per_token.shape} and {trial.is_clipped.shape}" if isinstance(trial, TokenLoss) else trial
        raise ConfigError(
            f"learning.loss: expected {config.loss!r} to give a TokenLoss of the log-probs' shape [2, 3], got "
            f"{' '.join(str(got).split())}; change learning.loss"
        )
    if group_size < 2 and algorithm.needs_groups:
        raise ConfigError(
            f"rollout.group_size: {config.advantage or config.loss} compares the rollouts of a prompt and needs at "
            f"least 2, got {group_size}; set rollout.group_size, or learning.loss to ppo or reinforce_pp with its own "
            "learning.advantage, or to posterior_baseline"
        )


def resolve_algorithm(config: LearningConfig, max_response_tokens: int) -> tuple[Algorithm, OverlongPenalty]:
    """The algorithm with what the config sets of it, and its reward shaping.

    Raises ConfigError where ``learning.loss`` or ``learning.advantage`` is unknown or refuses its options.
    """
    algorithm = _loss(config)
    clip = ClipRange(
        low=algorithm.clip.low if config.clip_ratio_low is None else config.clip_ratio_low,
        high=algorithm.clip.high if config.clip_ratio_high is None else config.clip_ratio_high,
    )
    buffer_tokens = config.overlong_buffer_tokens
    if buffer_tokens is None:
        buffer_tokens = round(algorithm.overlong_share * max_response_tokens)
    advantages = _advantage(config) or algorithm.group_advantages
    if advantages is group_normalised:
        advantages = partial(group_normalised, min_std=config.min_reward_std)
    return replace(
        algorithm,
        group_advantages=advantages,
        clip=clip,
        aggregation=config.loss_agg_mode or algorithm.aggregation,
        kl_penalty=config.kl_penalty or algorithm.kl_penalty,
        kl_in_reward=algorithm.kl_in_reward if config.use_kl_in_reward is None else config.use_kl_in_reward,
    ), OverlongPenalty(
        max_response_tokens=max_response_tokens,
        buffer_tokens=buffer_tokens,
        factor=config.overlong_penalty_factor,
    )
