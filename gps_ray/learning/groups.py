"""Rollout tables into the groups of one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gps_ray.errors import LearnerError
from gps_ray.learning.advantages import group_advantages, rollouts_with_verdict
from gps_ray.learning.packing import Row
from gps_ray.tables import groups_from_table
from gps_ray.types import Rollout

__all__ = ["TrainGroup", "count_metrics", "train_groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """A group as the update sees it: one row per rollout with a verdict and at least one token."""

    rows: list[Row]
    has_gradient: bool

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return sum(len(row.response_tokens) for row in self.rows)


def train_groups(tables: Sequence[pa.Table], admitted: Sequence[str]) -> list[TrainGroup]:
    """The admitted groups in their order, with advantages. tables: ROLLOUTS, each prompt in one of them.

    Raises LearnerError where a group is missing, comes twice or lacks log-probs.
    """
    by_prompt: dict[str, list[Rollout]] = {}
    for table in tables:
        for prompt_id, rollouts in groups_from_table(table).items():
            if prompt_id in by_prompt:
                raise LearnerError(f"update: prompt {prompt_id} came in two tables, expected each group once")
            by_prompt[prompt_id] = rollouts
    missing = [prompt_id for prompt_id in admitted if prompt_id not in by_prompt]
    if missing:
        raise LearnerError(f"update: {len(missing)} admitted groups have no rollouts, the first is {missing[0]}")
    groups = [rollouts_with_verdict(by_prompt[prompt_id]) for prompt_id in admitted]
    scored = group_advantages([np.array([r.reward for r in group], dtype=np.float64) for group in groups])
    return [
        TrainGroup(
            rows=[_row(r, float(a)) for r, a in zip(group, advantages, strict=True) if len(r.response_tokens)],
            has_gradient=bool(has_gradient),
        )
        for group, advantages, has_gradient in zip(groups, scored.advantages, scored.has_gradient, strict=True)
    ]


def _row(rollout: Rollout, advantage: float) -> Row:
    if len(rollout.sampled_logprobs) != len(rollout.response_tokens):
        raise LearnerError(
            f"update: expected one sampled log-prob per response token, got {len(rollout.sampled_logprobs)} for "
            f"{len(rollout.response_tokens)} tokens"
        )
    return Row(
        prompt_tokens=rollout.prompt_tokens,
        response_tokens=rollout.response_tokens,
        sampled_logprobs=rollout.sampled_logprobs,
        advantage=advantage,
    )


def count_metrics(groups: Sequence[TrainGroup]) -> dict[str, float]:
    """``train/num_tokens_admitted`` is the loss's denominator, zero-variance groups included."""
    num_trained = sum(group.has_gradient for group in groups)
    return {
        "train/num_groups_trained": num_trained,
        "train/num_groups_zero_variance": len(groups) - num_trained,
        "train/num_tokens_admitted": sum(group.num_tokens for group in groups),
    }
