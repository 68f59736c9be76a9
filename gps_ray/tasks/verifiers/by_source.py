"""The verifier that goes with a row's ``data_source``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt
from gps_ray.tasks.interface import StatesAnswers, Task
from gps_ray.tasks.prompt_check import check_prompt
from gps_ray.tasks.registry import load_task

__all__ = ["KNOWN_SOURCES", "BySource"]

# What verl's data-set scripts and their usual descendants write, and the names of the verifiers themselves.
KNOWN_SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "openai/gsm8k": "gsm8k",
        "lighteval/MATH": "math",
        "DigitalLearningGmbH/MATH-lighteval": "math",
        "HuggingFaceH4/MATH-500": "math",
        "agentica-org/DeepScaleR-Preview-Dataset": "math",
        "deepscaler": "math",
        "math_dapo": "math",
        "aime": "math",
        "amc": "math",
        "minerva": "math",
        "olympiad_bench": "math",
        **{
            name: name
            for name in ("math", "gsm8k", "multiple_choice", "exact", "countdown", "arithmetic", "reasoning_gym")
        },
    }
)


class BySource:
    """Judge each prompt by the verifier of its ``data_source``. ``sources`` adds to the known ones or replaces them:
    data source -> built-in name or import path."""

    name = "by_source"

    def __init__(self, sources: Mapping[str, str] = MappingProxyType({})) -> None:
        if not all(isinstance(verifier, str) and verifier != self.name for verifier in sources.values()):
            raise ValueError(f"sources must map a data_source to the name of a verifier, got {dict(sources)}")
        self._names = {**KNOWN_SOURCES, **sources}
        # Those of the user's are made at once, so that a misspelt one is known before anything starts.
        self._tasks: dict[str, Task] = {name: load_task(name, {}) for name in sources.values()}

    @property
    def parts(self) -> tuple[Task, ...]:
        """The verifiers of the user's ``sources``."""
        return tuple(self._tasks[name] for name in sorted(self._tasks))

    def verify(self, prompt: Prompt, response: str) -> Any:
        """As the source's own verifier: an awaitable where that is an async function."""
        return self._task(prompt).verify(prompt, response)

    def stated_answer(self, prompt: Prompt, response: str) -> str | None:
        task = self._task(prompt)
        return task.stated_answer(prompt, response) if isinstance(task, StatesAnswers) else None

    def check_prompt(self, prompt: Prompt) -> None:
        check_prompt(self._task(prompt), prompt)

    def take_notes(self) -> list[Any]:
        return [note for task in self._tasks.values() for note in getattr(task, "take_notes", list)()]

    def _task(self, prompt: Prompt) -> Task:
        name = self._names.get(prompt.task)
        if name is None:
            raise DataError(
                f"no verifier is known for data_source {prompt.task!r}; name one in data.task_options.sources, e.g. "
                f"{{{prompt.task}: math}}"
            )
        if name not in self._tasks:
            self._tasks[name] = load_task(name, {})
        return self._tasks[name]
