import numpy as np
import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import ChunkHeader
from gps_ray.loop.guards import IdleGuard, check_verdicts
from gps_ray.loop.warnings import warn_of_no_success


def _header(right: int, wrong: int, failed: int = 0, reward_sum: float = 0.0) -> ChunkHeader:
    return ChunkHeader(
        chunk_id=0,
        step=1,
        stream="rollout",
        policy_version=0,
        prompt_ids=("p",),
        num_right=np.array([right], np.int32),
        num_wrong=np.array([wrong], np.int32),
        num_failed=np.array([failed], np.int32),
        num_truncated=np.array([0], np.int32),
        num_response_tokens=np.array([8], np.int32),
        reward_sum=np.array([reward_sum]),
        cpu_s=0.0,
        wall_s=0.0,
        failure_reason="NameError: x" if failed else "",
    )


def test_too_many_missing_verdicts_stop_the_run_with_the_reason() -> None:
    check_verdicts([_header(1, 3, 4)], 0.5, "step 3")
    with pytest.raises(RolloutError, match=r"^step 3: 5 of 8 .*max_failed_share=0\.5; .*NameError: x"):
        check_verdicts([_header(1, 2, 5)], 0.5, "step 3")


def test_steps_without_a_useful_group_stop_the_run() -> None:
    guard = IdleGuard(2)
    for header in (_header(0, 8), _header(1, 7), _header(8, 0)):
        guard.check([header])
    with pytest.raises(RolloutError, match=r"last 2 steps .*run\.max_idle_steps=2"):
        guard.check([_header(0, 8)])


def test_single_responses_are_taken_as_one_group() -> None:
    guard = IdleGuard(1)
    guard.check([_header(1, 0), _header(0, 1)])
    with pytest.raises(RolloutError, match="nothing was learnt"):
        guard.check([_header(0, 1), _header(0, 1)])


def test_rewards_that_differ_without_a_success_are_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_no_success(1, [_header(0, 8), _header(0, 8)])
    warn_of_no_success(1, [_header(0, 8, reward_sum=2.0), _header(1, 7, reward_sum=1.0)])
    assert not caplog.records
    warn_of_no_success(1, [_header(0, 8, reward_sum=2.0), _header(0, 8), _header(0, 0, 8)])
    (record,) = caplog.records
    assert "group means from 0 to 0.25" in record.getMessage()
    assert "data.task_options.success_threshold" in record.getMessage()
