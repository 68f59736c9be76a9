"""Evaluation suites: several sets by name, each with its verifier and its sampling."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Prompt, Sampling
from gps_ray.config import TrainConfig
from gps_ray.tasks.dataset import PromptLimit, read_prompts, short_enough
from gps_ray.tasks.pool_checks import check_disjoint
from gps_ray.tasks.prompt_check import check_prompts
from gps_ray.tasks.prompt_files import SourceRow
from gps_ray.tasks.registry import load_task

__all__ = ["MAIN", "Suite", "extra_suites", "main_suite", "read_suites"]

log = logging.getLogger(__name__)

# The set of the data section: its metrics have no name between.
MAIN = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One set: ``rollouts_per_prompt`` responses to each of its prompts [N], drawn by ``sampling``, judged by
    ``task``."""

    name: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    rollouts_per_prompt: int
    task: str
    task_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What requests call it: "" stands for the run's own prompts and verifier."""
        return "" if self.name == MAIN else self.name

    @property
    def prefix(self) -> str:
        """What its metrics begin with."""
        return f"val/{self.key}/" if self.key else "val/"

    @property
    def stream(self) -> str:
        """What its draws are keyed by."""
        return f"{MAIN}/{self.key}" if self.key else MAIN


def main_suite(config: TrainConfig, prompts: Sequence[Prompt]) -> Suite:
    """The evaluation set of the data section."""
    return Suite(
        name=MAIN,
        prompts=tuple(prompts),
        sampling=config.evaluation_sampling,
        rollouts_per_prompt=config.evaluation.rollouts_per_prompt,
        task=config.data.task,
        task_options=config.data.task_options,
    )


def read_suites(
    config: TrainConfig, pool: Sequence[Prompt], limit: PromptLimit | None = None
) -> dict[str, tuple[Prompt, ...]]:
    """The prompts of ``evaluation.suites`` by name, in the order of the config, without those that ``limit`` drops.

    Raises DataError for a file that cannot be used, or that shares prompts with the pool; ConfigError for a task that
    there is not.
    """
    added = [source.suffix for _, source in config.data.train_sources if source.suffix]
    prompts: dict[str, tuple[Prompt, ...]] = {}
    for name, section in config.evaluation.suites.items():
        key = f"evaluation.suites.{name}.file"
        rows = _rows(read_prompts(section.file, config_key=key))
        if limit is not None and name in limit.suites:
            rows, notes = short_enough(rows, limit.suites[name], limit, config.data, key)
            for note in notes:
                log.warning("%s", note)
        rows = rows[: section.max_prompts]
        prompts[name] = tuple(row.prompt for row in rows)
        try:
            task = load_task(*_verifier(config, name))
        except ConfigError as error:
            raise ConfigError(f"evaluation.suites.{name}.task: {error}") from error
        check_prompts(task, prompts[name], key, str(section.file))
        check_disjoint(_rows(pool, added), rows, "the pool", key)
    return prompts


def _rows(prompts: Sequence[Prompt], added: Sequence[str] = ()) -> list[SourceRow]:
    """The prompts with their questions: without the system's turn, and without a suffix that the config has added."""
    rows = []
    for prompt in prompts:
        question = "\n\n".join(message.content for message in prompt.chat if message.role != "system")
        suffix = next((suffix for suffix in added if question.endswith(suffix)), "")
        rows.append(SourceRow(prompt=prompt, question=question.removesuffix(suffix)))
    return rows


def extra_suites(config: TrainConfig, prompts: Mapping[str, Sequence[Prompt]]) -> tuple[Suite, ...]:
    """Those of ``evaluation.suites`` with the prompts that ``read_suites`` gave."""
    suites = []
    for name, section in config.evaluation.suites.items():
        task, options = _verifier(config, name)
        suites.append(
            Suite(
                name=name,
                prompts=tuple(prompts[name]),
                sampling=config.suite_sampling(name),
                rollouts_per_prompt=section.rollouts_per_prompt or config.evaluation.rollouts_per_prompt,
                task=task,
                task_options=options,
            )
        )
    return tuple(suites)


def _verifier(config: TrainConfig, name: str) -> tuple[str, Mapping[str, Any]]:
    section = config.evaluation.suites[name]
    if section.task is None:
        return config.data.task, config.data.task_options
    return section.task, section.task_options
