"""When a run stops itself: a verifier that does not work, and prompts from which nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import ChunkHeader, Prompt, RolloutStatus
from gps_ray.base.useful import is_useful
from gps_ray.config import RolloutConfig
from gps_ray.loop.warnings import warn_of_no_success
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool
from gps_ray.tasks.interface import Task, bounds_its_own_work

__all__ = ["IdleGuard", "StepGuards", "check_verdicts", "check_verifier"]

# Responses that no verifier may call right: nothing, nonsense, and what breaks careless parsing.
_HOSTILE = ("", "I do not know.", "\\boxed{" * 50 + "\0")


def check_verifier(task: Task, prompts: Sequence[Prompt], config: RolloutConfig) -> list[str]:
    """Try the verifier before anything is started for it; returns what is odd and no error, a line each.

    Each of the first ``rollout.num_verifier_trials`` prompts is asked about with hostile responses and with one that
    states the ground truth in every usual way. All of it runs in killable processes, never in this one. Tasks that
    bound their own work have been called for each prompt when the data were read, and are not tried again.

    Raises RolloutError where the verifier gives no verdict at all, or calls everything right.
    """
    trials = prompts[: config.num_verifier_trials]
    if not trials or bounds_its_own_work(task):
        return []
    pool = VerifierPool(task, config, num_processes=1)
    try:
        hostile = pool.judge([(prompt, response) for prompt in trials for response in _HOSTILE])
        stated = pool.judge([(prompt, _stating(prompt.answer)) for prompt in trials])
    finally:
        pool.close()
    what = f"data.task: the verifier {task.name!r}, tried on the pool's first {len(trials)} prompts before the start,"
    failed = [judged for judged in (*hostile, *stated) if judged.status == RolloutStatus.FAILED]
    if len(failed) == len(hostile) + len(stated):
        raise RolloutError(
            f"{what} gave no verdict on any of {len(failed)} responses: {failed[0].reason}; mend it, or change "
            "data.task"
        )
    if all(judged.status == RolloutStatus.RIGHT for judged in hostile):
        raise RolloutError(
            f"{what} called every response right, an empty one among them, so nothing could be learnt; mend it, change "
            "data.task, or set rollout.num_verifier_trials=0 to start without a trial"
        )
    return _oddities(what, hostile, stated, failed)


def _oddities(
    what: str, hostile: Sequence[Judgement], stated: Sequence[Judgement], failed: Sequence[Judgement]
) -> list[str]:
    lines = []
    if failed:
        lines.append(
            f"{what} gave no verdict on {len(failed)} of {len(hostile) + len(stated)} responses: {failed[0].reason}"
        )
    num_right = sum(judged.status == RolloutStatus.RIGHT for judged in hostile)
    if num_right:
        lines.append(f"{what} called {num_right} of {len(hostile)} empty or senseless responses right")
    if not any(judged.status == RolloutStatus.RIGHT for judged in stated):
        lines.append(
            f"{what} called no response right that states the ground truth (as text, in \\boxed{{}}, in <answer>, "
            "after ####); that is well where it expects another form"
        )
    return lines


def _stating(answer: str) -> str:
    return f"The answer is {answer}.\n<answer>{answer}</answer>\n\\boxed{{{answer}}}\n#### {answer}\n{answer}"


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


class StepGuards:
    """Looks at the rollouts of each step before anything is learnt from them."""

    def __init__(self, rollout: RolloutConfig, max_idle_steps: int | None) -> None:
        self._max_failed_share = rollout.max_failed_share
        self._idle = IdleGuard(max_idle_steps)
        self._is_first = True  # of this process

    def check(self, step: int, headers: Sequence[ChunkHeader]) -> None:
        """Warns of a first step whose rewards differ and that holds no success. Raises RolloutError where too many
        rollouts have no verdict, or too many steps in a row taught nothing."""
        check_verdicts(headers, self._max_failed_share, f"step {step}")
        if self._is_first:
            warn_of_no_success(step, headers)
        self._is_first = False
        self._idle.check(headers)


class IdleGuard:
    """Counts the steps in a row without any useful group, from the start or the resume on."""

    def __init__(self, max_idle_steps: int | None) -> None:
        self._max_idle_steps = max_idle_steps
        self._num_idle = 0

    def check(self, headers: Sequence[ChunkHeader]) -> None:
        """Raise RolloutError where this step makes ``run.max_idle_steps`` of them."""
        right = np.concatenate([header.num_right for header in headers])
        tried = np.concatenate([header.num_tried for header in headers])
        # Single responses are no groups: there the step as a whole has to hold right and wrong ones.
        has_useful = np.any(
            is_useful(right, tried) if np.max(tried, initial=0) > 1 else is_useful(right.sum(), tried.sum())
        )
        self._num_idle = 0 if has_useful else self._num_idle + 1
        if self._max_idle_steps is not None and self._num_idle >= self._max_idle_steps:
            raise RolloutError(
                f"no group of the last {self._num_idle} steps had right and wrong responses, so nothing was learnt, "
                f"expected one within run.max_idle_steps={self._max_idle_steps}; look at samples.jsonl whether the "
                "verifier is right, choose easier or harder prompts, or raise run.max_idle_steps (null: never stop)"
            )
