import numpy as np
import pyarrow as pa

from gps_ray.base.tables import (
    OUTCOMES,
    ROLLOUTS,
    groups_from_table,
    outcomes_from_table,
    outcomes_to_table,
    rollouts_to_table,
)
from gps_ray.base.types import FinishReason, GroupOutcome, Rollout, RolloutGroup, RolloutStatus


def _outcome(prompt_id: str, status: list[int]) -> GroupOutcome:
    return GroupOutcome(
        prompt_id=prompt_id,
        policy_version=4,
        rewards=np.array([float(s == 1) for s in status], np.float32),
        status=np.array(status, np.int8),
        response_lengths=np.arange(1, len(status) + 1, dtype=np.int32),
    )


def _rollout(tokens: list[int], reward: float) -> Rollout:
    return Rollout(
        prompt_tokens=np.array([5, 6], np.int32),
        response_tokens=np.array(tokens, np.int32),
        sampled_logprobs=np.linspace(-1, 0, len(tokens), dtype=np.float32),
        reward=reward,
        status=RolloutStatus.RIGHT if reward else RolloutStatus.WRONG,
        finish_reason=FinishReason.STOP,
        policy_version=4,
    )


def test_ragged_outcomes_survive_the_round_trip() -> None:
    outcomes = [_outcome("a", [0, 1, 2]), _outcome("b", []), _outcome("c", [1])]
    table = outcomes_to_table(outcomes)
    assert table.schema == OUTCOMES
    back = outcomes_from_table(pa.concat_tables([table, table.slice(0, 0)]))
    assert [o.prompt_id for o in back] == ["a", "b", "c"]
    for before, after in zip(outcomes, back, strict=True):
        assert np.array_equal(before.rewards, after.rewards)
        assert np.array_equal(before.status, after.status)
        assert np.array_equal(before.response_lengths, after.response_lengths)
    assert back[0].num_right == 1
    assert back[0].num_tried == 2


def test_slices_of_a_table_keep_their_rows() -> None:
    table = outcomes_to_table([_outcome("a", [0, 1, 2]), _outcome("b", [1, 1])])
    (only,) = outcomes_from_table(table.slice(1, 1))
    assert only.prompt_id == "b"
    assert only.status.tolist() == [1, 1]


def test_reads_are_views_that_own_no_data() -> None:
    table = outcomes_to_table([_outcome("a", [0, 1])])
    (only,) = outcomes_from_table(table)
    assert not only.rewards.flags.owndata
    assert not only.rewards.flags.writeable


def test_rollouts_survive_the_round_trip_by_prompt() -> None:
    groups = [
        RolloutGroup(outcome=_outcome("a", [1, 0]), rollouts=(_rollout([1, 2, 3], 1.0), _rollout([4], 0.0))),
        RolloutGroup(outcome=_outcome("b", [0]), rollouts=(_rollout([9, 9], 0.0),)),
    ]
    table = rollouts_to_table(groups)
    assert table.schema == ROLLOUTS
    back = groups_from_table(table)
    assert list(back) == ["a", "b"]
    assert [r.response_tokens.tolist() for r in back["a"]] == [[1, 2, 3], [4]]
    assert back["a"][0].status is RolloutStatus.RIGHT
    assert np.array_equal(back["b"][0].sampled_logprobs, groups[1].rollouts[0].sampled_logprobs)


def test_empty_tables_are_valid() -> None:
    assert outcomes_from_table(outcomes_to_table([])) == []
    assert groups_from_table(rollouts_to_table([])) == {}
