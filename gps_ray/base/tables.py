"""The two Arrow tables in which outcomes and rollouts travel and rest.

One row per group (OUTCOMES) or per rollout (ROLLOUTS). Arrow reads from the object store without a copy, and the
same outcome table is what is appended to the run folder's outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from gps_ray.base.types import FinishReason, GroupOutcome, Rollout, RolloutGroup, RolloutStatus

__all__ = ["OUTCOMES", "ROLLOUTS", "groups_from_table", "outcomes_from_table", "outcomes_to_table", "rollouts_to_table"]

OUTCOMES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("policy_version", pa.int32()),
        ("rewards", pa.list_(pa.float32())),
        ("status", pa.list_(pa.int8())),
        ("response_lengths", pa.list_(pa.int32())),
    ]
)

ROLLOUTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("response_tokens", pa.list_(pa.int32())),
        ("sampled_logprobs", pa.list_(pa.float32())),
        ("reward", pa.float32()),
        ("status", pa.int8()),
        ("finish_reason", pa.int8()),
        ("policy_version", pa.int32()),
    ]
)


def _ragged(rows: Sequence[Any], dtype: str) -> pa.ListArray:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.concatenate([np.asarray(row, dtype=dtype) for row in rows]) if rows else np.zeros(0, dtype=dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _rows(column: pa.ChunkedArray) -> list[Any]:
    """Each row of a list column as a read-only numpy view."""
    out: list[Any] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=True)
        offsets = chunk.offsets.to_numpy()
        out.extend(values[a:b] for a, b in pairwise(offsets))
    return out


def outcomes_to_table(outcomes: Sequence[GroupOutcome]) -> pa.Table:
    """OUTCOMES rows in the given order."""
    return pa.table(
        [
            pa.array([o.prompt_id for o in outcomes], pa.string()),
            pa.array([o.policy_version for o in outcomes], pa.int32()),
            _ragged([o.rewards for o in outcomes], "float32"),
            _ragged([o.status for o in outcomes], "int8"),
            _ragged([o.response_lengths for o in outcomes], "int32"),
        ],
        schema=OUTCOMES,
    )


def outcomes_from_table(table: pa.Table) -> list[GroupOutcome]:
    """The inverse of ``outcomes_to_table``; arrays are views into the table."""
    columns = zip(
        table["prompt_id"].to_pylist(),
        table["policy_version"].to_pylist(),
        _rows(table["rewards"]),
        _rows(table["status"]),
        _rows(table["response_lengths"]),
        strict=True,
    )
    return [
        GroupOutcome(prompt_id=i, policy_version=v, rewards=r, status=s, response_lengths=n)
        for i, v, r, s, n in columns
    ]


def rollouts_to_table(groups: Iterable[RolloutGroup]) -> pa.Table:
    """ROLLOUTS rows: groups in the given order, rollouts of a group together."""
    rows = [(group.outcome.prompt_id, rollout) for group in groups for rollout in group.rollouts]
    return pa.table(
        [
            pa.array([prompt_id for prompt_id, _ in rows], pa.string()),
            _ragged([r.prompt_tokens for _, r in rows], "int32"),
            _ragged([r.response_tokens for _, r in rows], "int32"),
            _ragged([r.sampled_logprobs for _, r in rows], "float32"),
            pa.array([r.reward for _, r in rows], pa.float32()),
            pa.array([int(r.status) for _, r in rows], pa.int8()),
            pa.array([int(r.finish_reason) for _, r in rows], pa.int8()),
            pa.array([r.policy_version for _, r in rows], pa.int32()),
        ],
        schema=ROLLOUTS,
    )


def groups_from_table(table: pa.Table) -> dict[str, list[Rollout]]:
    """Rollouts by prompt, in the order of the table; arrays are views into it."""
    columns = zip(
        table["prompt_id"].to_pylist(),
        _rows(table["prompt_tokens"]),
        _rows(table["response_tokens"]),
        _rows(table["sampled_logprobs"]),
        table["reward"].to_pylist(),
        table["status"].to_pylist(),
        table["finish_reason"].to_pylist(),
        table["policy_version"].to_pylist(),
        strict=True,
    )
    groups: dict[str, list[Rollout]] = {}
    for prompt_id, prompt, response, logprobs, reward, status, finish, version in columns:
        groups.setdefault(prompt_id, []).append(
            Rollout(
                prompt_tokens=prompt,
                response_tokens=response,
                sampled_logprobs=logprobs,
                reward=reward,
                status=RolloutStatus(status),
                finish_reason=FinishReason(finish),
                policy_version=version,
            )
        )
    return groups
