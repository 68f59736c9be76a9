"""After the rollout: which groups are worth training on.

The loop asks for further rounds of one step while ``wants_more(round)``; every group that was rolled out is observed
by the selector and charged, whether it was admitted or not.
"""

from __future__ import annotations

from collections.abc import Sequence

from gps_ray.base.types import BoolArray
from gps_ray.config import SelectionConfig
from gps_ray.selection.registry import selector_row

__all__ = ["MAX_ROUNDS", "Admission", "build_admission"]

# Rounds per step where selection.max_rounds is null. Ten is DAPO's limit, used for Countdown; set 4 for maths.
MAX_ROUNDS = {"keep_all": 1, "useful_only": 10}


class Admission:
    """Admits groups in the order in which they are offered, at most ``num_prompts`` per step, none twice.

    ``useful_only`` admits useful groups alone, those with right and wrong responses (0 < k < G); otherwise every group
    is admitted, and the learner skips those whose rewards are all equal. Where the last round is over before the step
    is full, the step trains on what ``admitted`` holds. A pure function of the offers: the loop sorts them by selection
    order.
    """

    def __init__(self, *, useful_only: bool, max_rounds: int) -> None:
        self.useful_only = useful_only
        self.max_rounds = max_rounds
        self.begin(0)

    def begin(self, num_prompts: int) -> None:
        """Start a step that trains on at most ``num_prompts`` (B) groups; forgets the step before."""
        self._num_prompts = num_prompts
        self._admitted: list[str] = []
        self._offered: set[str] = set()

    def offer(self, prompt_ids: Sequence[str], useful: BoolArray) -> None:
        """Offer finished groups: prompt_ids [K], useful [K] (``gps_ray.base.useful``). A prompt that was offered
        in this step before (a chunk made twice) is ignored."""
        for prompt_id, is_useful in zip(prompt_ids, useful.tolist(), strict=True):
            if prompt_id in self._offered:
                continue
            self._offered.add(prompt_id)
            if not self.is_full and (is_useful or not self.useful_only):
                self._admitted.append(prompt_id)

    @property
    def admitted(self) -> tuple[str, ...]:
        """The prompts to train on, in the order of the offers."""
        return tuple(self._admitted)

    @property
    def num_missing(self) -> int:
        """How many groups the step still lacks."""
        return self._num_prompts - len(self._admitted)

    @property
    def is_full(self) -> bool:
        return self.num_missing <= 0

    def wants_more(self, num_rounds: int) -> bool:
        """Is another round due after ``num_rounds`` rounds of this step?"""
        return not self.is_full and num_rounds < self.max_rounds


def build_admission(config: SelectionConfig) -> Admission:
    """The rule of ``selection.admission``, or, where that is null, the one of the selector's row."""
    rule = config.admission or selector_row(config).admission
    max_rounds = MAX_ROUNDS[rule] if config.max_rounds is None else config.max_rounds
    return Admission(useful_only=rule == "useful_only", max_rounds=max_rounds)
