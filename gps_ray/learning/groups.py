"""Rollout tables into the groups of one update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from gps_ray.base.errors import LearnerError
from gps_ray.base.tables import groups_from_table
from gps_ray.base.types import FinishReason, FloatArray, Rollout, RolloutStatus, SuccessPrediction
from gps_ray.learning.advantages.group_relative import all_equal
from gps_ray.learning.packing import TrainRow
from gps_ray.learning.rewards import OverlongPenalty

__all__ = ["NO_PREDICTIONS", "TrainGroup", "count_metrics", "number_rows", "rollouts_with_verdict", "train_groups"]

NO_PENALTY = OverlongPenalty(max_response_tokens=0)
NO_PREDICTIONS: Mapping[str, SuccessPrediction] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """A group as the update sees it: one row and one reward [G] (float64, shaped) per rollout with a verdict. A row
    without tokens counts in the group's rewards and is not trained on. ``useful``: by success (0 < k < G).
    ``prediction``: the selector's, from before the rollouts; None where it made none."""

    rows: list[TrainRow]
    rewards: FloatArray
    useful: bool
    prediction: SuccessPrediction | None = None

    @property
    def rewards_differ(self) -> bool:
        """Are the rewards not all equal?"""
        return not all_equal(self.rewards)

    @property
    def lengths(self) -> list[int]:
        """Response tokens of each row that has any."""
        return [len(row.response_tokens) for row in self.rows if len(row.response_tokens)]


def train_groups(
    tables: Sequence[pa.Table],
    admitted: Sequence[str],
    penalty: OverlongPenalty = NO_PENALTY,
    *,
    mask_truncated: bool = False,
    predictions: Mapping[str, SuccessPrediction] = NO_PREDICTIONS,
) -> list[TrainGroup]:
    """The admitted groups in their order. tables: ROLLOUTS, each prompt in one of them. With ``mask_truncated`` a
    response that was cut off is a row without tokens: its reward counts in the group, and nothing else of it.

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
    groups = [(prompt_id, rollouts_with_verdict(by_prompt[prompt_id])) for prompt_id in admitted]
    return [
        TrainGroup(
            rows=[_row(rollout, mask_truncated) for rollout in group],
            rewards=np.array([r.reward + penalty(len(r.response_tokens)) for r in group], dtype=np.float64),
            useful=len({rollout.status for rollout in group}) > 1,
            prediction=predictions.get(prompt_id),
        )
        for prompt_id, group in groups
    ]


def rollouts_with_verdict(group: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts that can be learnt from: a failed one has no reward, and is never taken for a zero."""
    return [rollout for rollout in group if rollout.status != RolloutStatus.FAILED]


def _row(rollout: Rollout, mask_truncated: bool) -> TrainRow:
    if len(rollout.sampled_logprobs) != len(rollout.response_tokens):
        raise LearnerError(
            f"update: expected one sampled log-prob per response token, got {len(rollout.sampled_logprobs)} for "
            f"{len(rollout.response_tokens)} tokens"
        )
    trained = slice(0) if mask_truncated and rollout.finish_reason is FinishReason.LENGTH else slice(None)
    return TrainRow(
        prompt_tokens=rollout.prompt_tokens,
        response_tokens=rollout.response_tokens[trained],
        sampled_logprobs=rollout.sampled_logprobs[trained],
    )


def number_rows(groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """The same groups, their rows numbered from 0 throughout."""
    numbered, first = [], 0
    for group in groups:
        rows = [replace(row, number=first + i) for i, row in enumerate(group.rows)]
        numbered.append(replace(group, rows=rows))
        first += len(rows)
    return numbered


def count_metrics(groups: Sequence[TrainGroup], num_trained: int | None = None) -> dict[str, float]:
    """``train/num_tokens_admitted`` counts groups with equal rewards too. ``num_trained``: groups that the loss learns
    from, where it is not those whose rewards differ."""
    num_differing = sum(group.rewards_differ for group in groups)
    return {
        "train/num_groups_trained": num_differing if num_trained is None else num_trained,
        "train/num_groups_equal_rewards": len(groups) - num_differing,
        "train/num_groups_shaped_only": sum(group.rewards_differ and not group.useful for group in groups),
        "train/num_tokens_admitted": sum(sum(group.lengths) for group in groups),
    }
