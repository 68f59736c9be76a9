"""What a run is told of its sampling while it goes on: one line each, for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from gps_ray.base.types import ChunkHeader
from gps_ray.config import TrainConfig
from gps_ray.run.metrics import GUARD_FALL, GUARD_FALL_LOW, GUARD_IS_FALLEN, GUARD_SHARE, TRUNCATED_RATIO

__all__ = ["GuardWatch", "TruncationWatch", "warn_of_no_success", "warn_of_sampling"]

log = logging.getLogger(__name__)

# Above this share most of what is judged has no end.
LARGEST_TRUNCATED_RATIO = 0.5


def warn_of_sampling(config: TrainConfig) -> None:
    """Say so where the engine draws from another distribution than the one that the learner scores."""
    if config.rollout_sampling.takes_tokens_away and config.learning.rollout_is is None:
        log.warning(
            "rollout.top_p, top_k or min_p takes tokens away that the learner's policy has: sampled log-probs are not "
            "the policy's; set learning.rollout_is=token, which corrects for it, or sample from all tokens"
        )


def warn_of_no_success(step: int, headers: Sequence[ChunkHeader]) -> None:
    """Say so where the rewards of a step differ and none of its responses is right: a success threshold that no reward
    reaches looks like that, and predictors count successes."""
    if any(header.num_right.any() for header in headers):
        return
    means = {
        round(float(total) / int(tried), 9)
        for header in headers
        for total, tried in zip(header.reward_sum, header.num_tried, strict=True)
        if tried
    }
    if len(means) > 1:
        log.warning(
            "step %d: rewards differ (group means from %g to %g) and no response is a success; a reward function's "
            "success is a reward of at least data.task_options.success_threshold (1 by default): lower it, or return "
            "a dict with reward and success",
            step,
            min(means),
            max(means),
        )


class TruncationWatch:
    """Warns of a step whose responses are mostly cut off; not again until a step had fewer."""

    def __init__(self) -> None:
        self._is_said = False

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        is_high = metrics.get(TRUNCATED_RATIO, 0.0) > LARGEST_TRUNCATED_RATIO
        if is_high and not self._is_said:
            log.warning(
                "step %d: %.0f %% of the responses were cut off at rollout.max_response_tokens; raise it, see whether "
                "the model ends its turns (rollout.stop), or set learning.truncated",
                step,
                100 * metrics[TRUNCATED_RATIO],
            )
        self._is_said = is_high


class GuardWatch:
    """Says when the selector's guard (``selection.guard``) found a fall, and when it was over: once each."""

    def __init__(self) -> None:
        self._is_fallen = False

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        is_fallen = metrics.get(GUARD_IS_FALLEN, 0.0) > 0
        if is_fallen and not self._is_fallen:
            log.warning(
                "step %d: on prompts that the selector does not pick the policy fell by %.0f points (%.0f at least); "
                "selection.guard draws %.0f %% of the slots evenly until it is back. Where it does not come back under "
                "even slots, it is not the selection: look at learning.learning_rate",
                step,
                100 * metrics[GUARD_FALL],
                100 * metrics[GUARD_FALL_LOW],
                100 * metrics[GUARD_SHARE],
            )
        if self._is_fallen and not is_fallen:
            log.warning(
                "step %d: selection.guard: what had fallen is back, or is picked again; even slots go back to "
                "selection.guard.min_share step by step",
                step,
            )
        self._is_fallen = is_fallen
