"""The task seam: how a problem is put to the policy and how a response is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import DataConfig

__all__ = ["DataSets", "GeneratedTask", "PromptGenerator", "StatesAnswers", "Task", "Verdict", "bounds_its_own_work"]

# (reward, status): the reward trains the policy (shaping may change it), the status feeds the predictor.
Verdict = tuple[float, RolloutStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSets:
    """The prompts of a run.

    ``pool`` is what a selector chooses from; ``evaluation`` and ``heldout_probe`` share no prompt with it;
    ``pool_probe`` is a random subset of the pool. ``num_duplicates`` rows were dropped from the sources, and
    ``num_overlong`` prompts. ``notes``: what was dropped or looks wrong, a line each. ``suites`` are the evaluation
    sets by name beside ``evaluation``.
    """

    pool: tuple[Prompt, ...]
    evaluation: tuple[Prompt, ...]
    heldout_probe: tuple[Prompt, ...] = ()
    pool_probe: tuple[Prompt, ...] = ()
    num_duplicates: int = 0
    num_overlong: int = 0
    notes: tuple[str, ...] = ()
    suites: Mapping[str, tuple[Prompt, ...]] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, tuple[Prompt, ...]]:
        """All but the suites, by name."""
        return {
            "pool": self.pool,
            "evaluation": self.evaluation,
            "pool_probe": self.pool_probe,
            "heldout_probe": self.heldout_probe,
        }


class Task(Protocol):
    """A verifiable task. Responses are hostile text: ``verify`` never evaluates them as code.

    A class of your own is called with ``data.task_options`` as keyword arguments, and is pickled into the process that
    verifies. There ``verify`` may be a coroutine function. What else a task may have:

    - ``verify_batch(prompts, responses)``: verdicts (or exceptions) of up to ``batch_size`` responses at once;
    - ``check_prompt(prompt)``: raise DataError where the prompt's answer cannot be read; quick and safe in the driver;
    - ``take_notes()``: JSON values about the verdicts since the last call, counted and listed in the run's report;
    - ``bounds_its_own_work``: no response makes it slow, large or crash, so it runs in the rollout worker itself,
      in whichever of its threads;
    - ``is_async``: awaitables have the deadline of a verdict each.
    """

    name: str

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judge one response. Anything that is not a correct answer is WRONG; FAILED is for a verifier that could not
        come to a verdict (time-out).

        Raises DataError where the prompt's own ``answer`` is not in the task's notation.
        """
        ...


def bounds_its_own_work(task: Task) -> bool:
    """Does the task promise that no response makes it slow, large or crash?"""
    return bool(getattr(task, "bounds_its_own_work", False))


@runtime_checkable
class StatesAnswers(Task, Protocol):
    """A task that can say which answer a response states, so that responses can vote (maj@k)."""

    def stated_answer(self, prompt: Prompt, response: str) -> str | None:
        """One spelling for equal answers; "" where the response states none, None where the task cannot say for this
        prompt. It never looks at ``prompt.answer``."""
        ...


@runtime_checkable
class PromptGenerator(Task, Protocol):
    """A task that makes its own prompts: a function of the config, the same on every machine."""

    def generate(self, config: DataConfig) -> DataSets:
        """Pool, evaluation set and held-out probe, disjoint as problems and not only as texts where the task knows
        problems; no pool probe."""
        ...


@runtime_checkable
class GeneratedTask(PromptGenerator, Protocol):
    """A task that makes solutions too, to warm-start a model that knows nothing."""

    def vocabulary(self) -> tuple[str, ...]:
        """Distinct words without white space. Prompts and solutions consist of these, joined by single spaces."""
        ...

    def warm_start_examples(self, config: DataConfig, num_examples: int, seed: int) -> list[tuple[str, str]]:
        """(prompt text, solution text) pairs; no problem of pool, evaluation set or held-out probe is among them."""
        ...
