"""What ``learning.loss`` stands for: an advantage, a policy loss and the paper's settings (docs/algorithms.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from gps_ray.base.types import FloatArray
from gps_ray.config import LearningConfig
from gps_ray.learning.advantages.group_relative import group_centred, group_normalised
from gps_ray.learning.advantages.leave_one_out import leave_one_out
from gps_ray.learning.aggregation import AggregationMode
from gps_ray.learning.losses.cispo import cispo_loss
from gps_ray.learning.losses.clipped import clipped_loss
from gps_ray.learning.losses.interface import ClipRange, PolicyLoss
from gps_ray.learning.losses.kl import KlPenalty
from gps_ray.learning.losses.sequence import gspo_loss, rloo_loss
from gps_ray.learning.rewards import OverlongPenalty

__all__ = ["ALGORITHMS", "Algorithm", "resolve_algorithm"]

PPO_CLIP = ClipRange(low=0.2, high=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """``group_advantages`` maps a group's rewards [G] to advantages [G]; None leaves the rewards. ``over_tokens`` says
    how that number reaches the tokens: the same on each ("response"), as a return with the KL of the tokens to come
    ("returns"), or by a value model ("gae"). ``normalises_batch`` divides by the spread of the whole update.
    ``overlong_share`` is the overlong buffer as a share of the longest response."""

    policy_loss: PolicyLoss = clipped_loss
    group_advantages: Callable[[FloatArray], FloatArray] | None = group_normalised
    over_tokens: Literal["response", "returns", "gae"] = "response"
    normalises_batch: bool = False
    aggregation: AggregationMode = "token-mean"
    clip: ClipRange = PPO_CLIP
    kl_penalty: KlPenalty = "k3"
    kl_in_reward: bool = False
    overlong_share: float = 0.0

    @property
    def skips_equal_rewards(self) -> bool:
        """Does a group without variance add exactly nothing to the policy loss?"""
        return self.group_advantages is not None and self.over_tokens == "response"


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
    "ppo": Algorithm(
        group_advantages=None, over_tokens="gae", normalises_batch=True, kl_penalty="k1", kl_in_reward=True
    ),
}


def resolve_algorithm(config: LearningConfig, max_response_tokens: int) -> tuple[Algorithm, OverlongPenalty]:
    """The algorithm with what the config sets of it, and its reward shaping."""
    algorithm = ALGORITHMS[config.loss]
    clip = ClipRange(
        low=algorithm.clip.low if config.clip_ratio_low is None else config.clip_ratio_low,
        high=algorithm.clip.high if config.clip_ratio_high is None else config.clip_ratio_high,
    )
    buffer_tokens = config.overlong_buffer_tokens
    if buffer_tokens is None:
        buffer_tokens = round(algorithm.overlong_share * max_response_tokens)
    return replace(
        algorithm,
        clip=clip,
        aggregation=config.loss_agg_mode or algorithm.aggregation,
        kl_penalty=config.kl_penalty or algorithm.kl_penalty,
        kl_in_reward=algorithm.kl_in_reward if config.use_kl_in_reward is None else config.use_kl_in_reward,
    ), OverlongPenalty(
        max_response_tokens=max_response_tokens,
        buffer_tokens=buffer_tokens,
        factor=config.overlong_penalty_factor,
    )
