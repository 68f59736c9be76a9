import numpy as np
import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import ChunkHeader
from gps_ray.loop.guards import IdleGuard, check_verdicts


def _header(right: int, wrong: int, failed: int = 0) -> ChunkHeader:
    return ChunkHeader(
        chunk_id=0,
        step=1,
        stream="rollout",
        policy_version=0,
        prompt_ids=("p",),
        num_right=np.array([right], np.int32),
        num_wrong=np.array([wrong], np.int32),
        num_failed=np.array([failed], np.int32),
        num_response_tokens=np.array([8], np.int32),
        reward_sum=np.array([0.0]),
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
