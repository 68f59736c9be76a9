"""When a run stops itself: a verifier that does not work, and prompts from which nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import ChunkHeader
from gps_ray.base.useful import is_useful

__all__ = ["IdleGuard", "check_verdicts"]


def check_verdicts(headers: Sequence[ChunkHeader], max_failed_share: float, what: str) -> None:
    """Raise RolloutError, naming the verifier's own reason, where more than that share of rollouts has no verdict."""
    num_failed = sum(int(header.num_failed.sum()) for header in headers)
    num_rollouts = num_failed + sum(int(header.num_tried.sum()) for header in headers)
    if num_failed > max_failed_share * num_rollouts:
        reason = next((header.failure_reason for header in headers if header.failure_reason), "no reason is known")
        raise RolloutError(
            f"{what}: {num_failed} of {num_rollouts} rollouts have no verdict, expected at most "
            f"rollout.max_failed_share={max_failed_share:g}; the verifier's failure: {reason}; mend the verifier that "
            "data.task names"
        )


class IdleGuard:
    """Counts the steps in a row without any useful group, from the start or the resume on."""

    def __init__(self, max_idle_steps: int | None) -> None:
        self._max_idle_steps = max_idle_steps
        self._num_idle = 0

    def check(self, headers: Sequence[ChunkHeader]) -> None:
        """Raise RolloutError where this step makes ``run.max_idle_steps`` of them."""
        has_useful = any(np.any(is_useful(header.num_right, header.num_tried)) for header in headers)
        self._num_idle = 0 if has_useful else self._num_idle + 1
        if self._max_idle_steps is not None and self._num_idle >= self._max_idle_steps:
            raise RolloutError(
                f"no group of the last {self._num_idle} steps had right and wrong responses, so nothing was learnt, "
                f"expected one within run.max_idle_steps={self._max_idle_steps}; look at samples.jsonl whether the "
                "verifier is right, choose easier or harder prompts, or raise run.max_idle_steps (null: never stop)"
            )
