"""Tasks by name: the built-in ones, or a user's own class by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import build_from_path, call_with_options, load_object
from gps_ray.tasks.functions import FunctionTask, is_reward_function
from gps_ray.tasks.interface import GeneratedTask, PromptGenerator, Task
from gps_ray.tasks.verifiers.shaped import SHAPING_OPTIONS, Shaped

__all__ = ["BUILT_IN_TASKS", "GeneratedTask", "load_generated_task", "load_prompt_generator", "load_task"]

BUILT_IN_TASKS = {
    "arithmetic": "gps_ray.tasks.arithmetic:Arithmetic",
    "by_source": "gps_ray.tasks.verifiers.by_source:BySource",
    "countdown": "gps_ray.tasks.countdown:Countdown",
    "exact": "gps_ray.tasks.verifiers.text:Exact",
    "gsm8k": "gps_ray.tasks.verifiers.text:Gsm8k",
    "math": "gps_ray.tasks.verifiers.math:Math",
    "multiple_choice": "gps_ray.tasks.verifiers.text:MultipleChoice",
    "reasoning_gym": "gps_ray.tasks.reasoning_gym:ReasoningGym",
}
# They have a section of the config to themselves.
_WITHOUT_OPTIONS = ("arithmetic", "countdown")


def load_task(name: str, options: Mapping[str, Any]) -> Task:
    """The task that ``data.task`` names: a built-in name, 'package.module:function' of a reward function
    (``tasks.functions``), or 'package.module:Class' of a class that takes ``data.task_options`` as keyword arguments.
    The built-in verifiers take those of ``verifiers.shaped`` too.

    Raises ConfigError where there is none, where it refuses its options, or where it is not a task.
    """
    if name not in BUILT_IN_TASKS and ":" not in name:
        raise ConfigError(
            f"data.task: expected one of {', '.join(BUILT_IN_TASKS)} or 'package.module:function', got {name!r}; "
            "change data.task"
        )
    if name in _WITHOUT_OPTIONS and options:
        raise ConfigError(
            f"data.task_options: {name} takes none, got {', '.join(options)}; its settings are keys of data.{name}"
        )
    is_built_in = name in BUILT_IN_TASKS
    if not is_built_in and is_reward_function(load_object(name, "data.task")):
        return FunctionTask(name, "data.task", options, "data.task_options")
    shaping = {key: value for key, value in options.items() if is_built_in and key in SHAPING_OPTIONS}
    own = {key: value for key, value in options.items() if key not in shaping}
    task = build_from_path(BUILT_IN_TASKS.get(name, name), "data.task", own, "data.task_options")
    if not callable(getattr(task, "verify", None)) or not isinstance(getattr(task, "name", None), str):
        raise ConfigError(
            f"data.task: {name!r} is not a task, it needs a string 'name' and a method 'verify(prompt, response)', "
            "or to be a function with a parameter 'response'; change data.task"
        )
    if shaping:
        return call_with_options(Shaped, shaping, "data.task_options", task)  # type: ignore[no-any-return]
    return task  # type: ignore[no-any-return]


def load_prompt_generator(name: str, options: Mapping[str, Any], otherwise: str) -> PromptGenerator:
    """Like ``load_task``, for a task that makes its own prompts.

    ``otherwise`` is the remedy in the ConfigError for a task that does not, e.g. "set data.pool_file".
    """
    task = load_task(name, options)
    generator = task.task if isinstance(task, Shaped) else task
    if not isinstance(generator, PromptGenerator):
        raise ConfigError(f"data.task: {name!r} generates no prompts (it has no 'generate'); {otherwise}")
    return generator


def load_generated_task(name: str, options: Mapping[str, Any], otherwise: str) -> GeneratedTask:
    """Like ``load_prompt_generator``, for a task that makes warm-start examples too."""
    task = load_prompt_generator(name, options, otherwise)
    if not isinstance(task, GeneratedTask):
        raise ConfigError(
            f"data.task: {name!r} makes no warm-start examples (no vocabulary, warm_start_examples); {otherwise}"
        )
    return task
