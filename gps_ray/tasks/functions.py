"""A plain function as a verifier: ``def reward(prompt, response, ground_truth, extra_info) -> float | bool | dict``.

It takes any of the parameters below, by name, and may be ``async``. One whose parameters are the plural names is
called once for many responses and gives a list. verl's ``compute_score(data_source, solution_str, ground_truth,
extra_info)`` is taken as it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import load_object
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import Verdict

__all__ = ["DEFAULT_SUCCESS_THRESHOLD", "FunctionTask", "is_reward_function"]

DEFAULT_SUCCESS_THRESHOLD = 1.0
# Responses that a batched function is given at a time, where data.task_options.batch_size does not say.
DEFAULT_BATCH_SIZE = 32
# Awaited side by side: they wait for a judge elsewhere, and cost this machine little.
ASYNC_BATCH_SIZE = 64

_VALUES: Mapping[str, Callable[[Prompt, str], Any]] = MappingProxyType(
    {
        "prompt": lambda prompt, response: prompt.text,
        "response": lambda prompt, response: response,
        "solution_str": lambda prompt, response: response,
        "ground_truth": lambda prompt, response: prompt.answer,
        "extra_info": lambda prompt, response: dict(prompt.extra_info),
        "data_source": lambda prompt, response: prompt.task,
    }
)
_BATCHES = {name: f"{name}s" for name in _VALUES}
_RESPONSES = ("response", "solution_str")
_REWARD_KEYS = ("reward", "score")
_SUCCESS_KEYS = ("success", "acc", "correct")


def is_reward_function(thing: Any) -> bool:
    """Is it a function (or an object that is called like one) with a parameter for the response or the responses?"""
    if inspect.isclass(thing) or not callable(thing):
        return False
    try:
        names = inspect.signature(thing).parameters
    except (ValueError, TypeError):  # some written in C have none
        return False
    return any(name in names or _BATCHES[name] in names for name in _RESPONSES)


class FunctionTask:
    """The verifier that ``path`` ('package.module:function') is. Each process imports it for itself.

    A bool is success; a float is a reward, and success from ``success_threshold`` on; a dict has a reward (``reward``
    or ``score``), success (``success``, ``acc`` or ``correct``), or both. ``batch_size`` is of batched functions
    alone; ``options`` are further arguments of the function. Raises ConfigError where they do not fit its signature.
    """

    def __init__(self, path: str, key: str, options: Mapping[str, Any], options_key: str) -> None:
        self.name = path
        self._arguments = (path, key, dict(options), options_key)
        function = load_object(path, key)
        given = dict(options)
        self._threshold = _number(given.pop("success_threshold", DEFAULT_SUCCESS_THRESHOLD), options_key)
        parameters = inspect.signature(function).parameters
        self._is_batched = any(_BATCHES[name] in parameters for name in _RESPONSES)
        self.is_async = _is_async(function)
        self.batch_size = ASYNC_BATCH_SIZE if self.is_async else 1
        if self._is_batched:
            self.batch_size = _whole(given.pop("batch_size", DEFAULT_BATCH_SIZE), options_key)
        known = [name for name in _VALUES if (_BATCHES[name] if self._is_batched else name) in parameters]
        self._taken = {(_BATCHES[name] if self._is_batched else name): _VALUES[name] for name in known}
        self._function, self._options = function, given
        self._check(parameters, options_key)

    @property
    def source_file(self) -> str:
        """Where the function stands: with it the verdicts change."""
        return inspect.getfile(inspect.unwrap(self._function))

    def __reduce__(self) -> tuple[Any, ...]:
        # By name: what a decorator or a partial made cannot be pickled.
        return type(self), self._arguments

    def verify(self, prompt: Prompt, response: str) -> Any:
        """The verdict, or an awaitable of it where the function is async. Raises what the function raises, TypeError
        and ValueError for a value that is none of the above."""
        if self._is_batched:
            made = self.verify_batch([prompt], [response])
            return _first_of(made) if inspect.isawaitable(made) else made[0]
        value = self._function(**{name: get(prompt, response) for name, get in self._taken.items()}, **self._options)
        return self._later(value) if inspect.isawaitable(value) else self._verdict(value)

    def verify_batch(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        """One verdict, awaitable or exception per response, or an awaitable of all."""
        if not self._is_batched:
            return [_tried(self.verify, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        rows = list(zip(prompts, responses, strict=True))
        columns = {name: [get(*row) for row in rows] for name, get in self._taken.items()}
        values = self._function(**columns, **self._options)
        return self._all_later(values, len(rows)) if inspect.isawaitable(values) else self._all(values, len(rows))

    async def _later(self, value: Any) -> Verdict:
        return self._verdict(await value)

    async def _all_later(self, values: Any, count: int) -> list[Any]:
        return self._all(await values, count)

    def _all(self, values: Any, count: int) -> list[Any]:
        if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str | bytes) or len(values) != count:
            raise TypeError(f"expected a list of {count} rewards, got {values!r:.80}")
        return [value if isinstance(value, BaseException) else _tried(self._verdict, value) for value in values]

    def _verdict(self, value: Any) -> Verdict:
        if isinstance(value, Mapping):
            return self._of_mapping(value)
        if isinstance(value, bool | np.bool_):
            return float(value), RolloutStatus.RIGHT if value else RolloutStatus.WRONG
        reward = _reward(value)
        return reward, RolloutStatus.RIGHT if reward >= self._threshold else RolloutStatus.WRONG

    def _of_mapping(self, value: Mapping[str, Any]) -> Verdict:
        reward_key = next((key for key in _REWARD_KEYS if key in value), None)
        successes = {key: _success(value[key], key) for key in _SUCCESS_KEYS if key in value}
        if len(set(successes.values())) > 1:
            raise ValueError(f"expected one success in the dict, got {successes}; leave the others out")
        if reward_key is None and not successes:
            raise TypeError(
                f"expected a dict with one of {', '.join((*_REWARD_KEYS, *_SUCCESS_KEYS))}, got the keys {list(value)}"
            )
        success = next(iter(successes.values()), None)
        reward = float(success or 0) if reward_key is None else _reward_of_dict(value[reward_key], reward_key)
        if success is None:
            success = reward >= self._threshold
        return reward, RolloutStatus.RIGHT if success else RolloutStatus.WRONG

    def _check(self, parameters: Mapping[str, inspect.Parameter], options_key: str) -> None:
        names = [_BATCHES[name] for name in _VALUES] if self._is_batched else list(_VALUES)
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [name for name in self._options if name not in parameters and not takes_any]
        taken = [name for name in self._options if name in self._taken]
        missing = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and (parameter.kind is parameter.POSITIONAL_ONLY or name not in {*self._taken, *self._options})
        ]
        for wrong, what in (
            (unknown, "has no such parameter"),
            (taken, "is given that by gps-ray"),
            (missing, f"needs a value for each of these, as it is given only {', '.join(names)}"),
        ):
            if wrong:
                raise ConfigError(f"{options_key}: {self.name} {what}: {', '.join(wrong)}; change {options_key}")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


async def _first_of(made: Any) -> Any:
    first = (await made)[0]
    if isinstance(first, BaseException):
        raise first
    return first


def _tried(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return error


def _reward(value: Any) -> float:
    # A text that reads like a number would be taken by float(): it is a mistake, and said so.
    if value is None or isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"expected a bool, a number or a dict from the reward function, got {value!r:.80}")
    return float(value)


def _reward_of_dict(value: Any, key: str) -> float:
    if isinstance(value, bool):
        return float(value)
    if value is None or isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"expected {key!r} of the dict to be a number, got {value!r:.80}")
    return float(value)


def _success(value: Any, key: str) -> bool:
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | float | np.number) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"expected {key!r} of the dict to be true or false, got {value!r:.80}")


def _number(value: Any, options_key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{options_key}.success_threshold: expected a number, got {value!r}; change it")
    return float(value)


def _whole(value: Any, options_key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{options_key}.batch_size: expected a whole number from 1 on, got {value!r}; change it")
    return value
