"""Rewards for form around any verifier: a format, a length. They change the reward, never the status."""

from __future__ import annotations

import inspect
from typing import Any

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import StatesAnswers, Task, Verdict
from gps_ray.tasks.prompt_check import check_prompt
from gps_ray.tasks.verifiers.extract import answer_in_tags, last_boxed

__all__ = ["SHAPING_OPTIONS", "Shaped"]

SHAPING_OPTIONS = ("format", "format_reward", "length_penalty", "length_from", "length_to")
_FORMATS = {"boxed": last_boxed, "answer": answer_in_tags}


class Shaped:
    """``task`` with ``format_reward`` added where the response holds ``\\boxed{}`` (format "boxed") or ``<answer>``
    ("answer"), and a penalty that rises from 0 at ``length_from`` characters to ``length_penalty`` at ``length_to``.

    A response without a verdict (FAILED) is not shaped. Raises ValueError for options that do not go together.
    """

    def __init__(
        self,
        task: Task,
        *,
        format: str | None = None,
        format_reward: float = 0.0,
        length_penalty: float = 0.0,
        length_from: int = 0,
        length_to: int = 0,
    ) -> None:
        if format is not None and format not in _FORMATS:
            raise ValueError(f"format must be one of {', '.join(_FORMATS)}, got {format!r}")
        if (format is None) != (format_reward == 0):
            raise ValueError(f"format and format_reward go together, got {format!r} and {format_reward!r}")
        if length_penalty < 0:
            raise ValueError(f"length_penalty must not be negative, got {length_penalty!r}")
        if length_penalty and not 0 <= length_from < length_to:
            raise ValueError(f"length_to must be above length_from, got {length_from!r} to {length_to!r} characters")
        self.name = task.name
        self.task = task
        self._format, self._format_reward = format, format_reward
        self._penalty, self._from, self._to = length_penalty, length_from, length_to

    @property
    def parts(self) -> tuple[Task, ...]:
        return (self.task,)

    def stated_answer(self, prompt: Prompt, response: str) -> str | None:
        return self.task.stated_answer(prompt, response) if isinstance(self.task, StatesAnswers) else None

    def verify(self, prompt: Prompt, response: str) -> Any:
        """The verdict, or an awaitable of it where the task gives one."""
        made: Any = self.task.verify(prompt, response)
        return self._shaped_later(made, response) if inspect.isawaitable(made) else self._shaped(made, response)

    def check_prompt(self, prompt: Prompt) -> None:
        check_prompt(self.task, prompt)

    def take_notes(self) -> list[Any]:
        take_notes = getattr(self.task, "take_notes", None)
        return [] if take_notes is None else list(take_notes())

    async def _shaped_later(self, made: Any, response: str) -> Verdict:
        return self._shaped(await made, response)

    def _shaped(self, made: Verdict, response: str) -> Verdict:
        reward, status = made
        if status is RolloutStatus.FAILED:
            return reward, status
        if self._format is not None and _FORMATS[self._format](response):
            reward += self._format_reward
        if self._penalty:
            share = (len(response) - self._from) / (self._to - self._from)
            reward -= self._penalty * min(max(share, 0.0), 1.0)
        return reward, status
