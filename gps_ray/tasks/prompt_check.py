"""Is there a verifier for every prompt, and can it read the prompt's answer? Known before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt
from gps_ray.tasks.interface import Task, bounds_its_own_work

__all__ = ["check_prompt", "check_prompts"]

_MAX_NAMED = 5


def check_prompt(task: Task, prompt: Prompt) -> None:
    """Raise DataError where ``task`` has no verifier for the prompt or cannot read its answer, as far as that can be
    told in this process.

    A task says so in ``check_prompt(prompt)``; one that bounds its own work is asked to judge an empty response.
    Somebody else's verifier never runs here: it could hang or end the process (``rollout.verifier_pool`` runs it).
    """
    check = getattr(task, "check_prompt", None)
    if check is not None:
        check(prompt)
    elif bounds_its_own_work(task):
        task.verify(prompt, "")


def check_prompts(task: Task, prompts: Sequence[Prompt], config_key: str, path: str) -> None:
    """``check_prompt`` of all: one DataError that names each kind of trouble with its count, most frequent first."""
    troubles: Counter[str] = Counter()
    for prompt in prompts:
        try:
            check_prompt(task, prompt)
        except DataError as error:
            troubles[str(error)] += 1
    if not troubles:
        return
    remedy = f"mend {path}, or change {config_key} or data.task"
    if len(prompts) == 1:
        raise DataError(f"{config_key}: {next(iter(troubles))}; {remedy}")
    named = "; ".join(f"{count} x {text}" for text, count in troubles.most_common(_MAX_NAMED))
    more = f"; and {len(troubles) - _MAX_NAMED} kinds more" if len(troubles) > _MAX_NAMED else ""
    raise DataError(
        f"{config_key}: {troubles.total()} of {len(prompts)} prompts cannot be judged: {named}{more}; {remedy}"
    )
