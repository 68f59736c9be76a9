"""The task seam: how a problem is put to the policy and how a response is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import DataConfig

__all__ = ["DataSets", "GeneratedTask", "StatesAnswers", "Task", "Verdict"]

# (reward, status): the reward trains the policy (shaping may change it), the status feeds the predictor.
Verdict = tuple[float, RolloutStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSets:
    """The prompts of a run.

    ``pool`` is what a selector chooses from; ``evaluation`` and ``heldout_probe`` share no prompt with it;
    ``pool_probe`` is a random subset of the pool. ``num_duplicates`` rows were dropped from the files. ``suites`` are
    the evaluation sets by name beside ``evaluation``.
    """

    pool: tuple[Prompt, ...]
    evaluation: tuple[Prompt, ...]
    heldout_probe: tuple[Prompt, ...] = ()
    pool_probe: tuple[Prompt, ...] = ()
    num_duplicates: int = 0
    suites: Mapping[str, tuple[Prompt, ...]] = field(default_factory=dict)


class Task(Protocol):
    """A verifiable task. Responses are hostile text: ``verify`` never evaluates them as code.

    A class of your own is called with ``data.task_options`` as keyword arguments, and is pickled into the process that
    verifies.
    """

    name: str

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judge one response. Anything that is not a correct answer is WRONG; FAILED is for a verifier that could not
        come to a verdict (time-out).

        Raises DataError where the prompt's own ``answer`` is not in the task's notation.
        """
        ...


@runtime_checkable
class StatesAnswers(Task, Protocol):
    """A task that can say which answer a response states, so that responses can vote (maj@k)."""

    def stated_answer(self, prompt: Prompt, response: str) -> str | None:
        """One spelling for equal answers; "" where the response states none, None where the task cannot say for this
        prompt. It never looks at ``prompt.answer``."""
        ...


@runtime_checkable
class GeneratedTask(Task, Protocol):
    """A task that makes its own prompts, and solutions to warm-start a model that knows nothing.

    Everything it makes is a function of its arguments: the same config gives the same prompts on every machine.
    """

    def vocabulary(self) -> tuple[str, ...]:
        """Distinct words without white space. Prompts and solutions consist of these, joined by single spaces."""
        ...

    def generate(self, config: DataConfig) -> DataSets:
        """Pool, evaluation set and held-out probe, disjoint as problems and not only as texts; no pool probe."""
        ...

    def warm_start_examples(self, config: DataConfig, num_examples: int, seed: int) -> list[tuple[str, str]]:
        """(prompt text, solution text) pairs; no problem of pool, evaluation set or held-out probe is among them."""
        ...
