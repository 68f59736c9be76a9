"""Where the prompts come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from gps_ray.config.facts import Fact
from gps_ray.config.section import ConfigSection
from gps_ray.config.sources import SourceConfig

__all__ = ["ArithmeticConfig", "CountdownConfig", "DataConfig"]


class CountdownConfig(ConfigSection):
    """The generated Countdown data: reach a target from 2-4 numbers."""

    pool: Literal["heterogeneous", "homogeneous"] = Field(
        "heterogeneous",
        description="heterogeneous: CD-2, CD-3, CD-4 and CD-4 with numbers out of the warm start's range; "
        "homogeneous: CD-3 only.",
    )
    num_pool_prompts: int = Field(4000, ge=1, description="Size of the pool, the prompts that are trained on.")
    num_evaluation_prompts: int = Field(256, ge=1, description="Held-out evaluation set, drawn like the pool.")
    num_heldout_probe_prompts: int = Field(256, ge=1, description="Probe set disjoint from the pool.")
    seed: int = Field(0, ge=0, description="Seed of the data, apart from run.seed: all runs of a comparison share it.")
    # 100 is the largest number with a token of its own in the task's vocabulary.
    max_number: int = Field(12, ge=2, le=99, description="Largest number of the ordinary levels.")
    max_hard_number: int = Field(
        60, ge=3, le=100, description="Largest number of the hard level, whose numbers begin above max_number."
    )
    max_target: int = Field(100, ge=1, le=100, description="Largest number to be reached.")

    @model_validator(mode="after")
    def _possible(self) -> CountdownConfig:
        _check_hard_numbers(self.max_number, self.max_hard_number)
        return self


ArithmeticLevel = Literal["chain-1", "chain-2", "chain-3", "chain-4", "linear-1", "linear-2", "linear-3"]


class ArithmeticConfig(ConfigSection):
    """The generated arithmetic data: chains of operations and equations with one unknown, levels mixed."""

    num_pool_prompts: int = Field(4000, ge=1, description="Size of the pool, the prompts that are trained on.")
    num_evaluation_prompts: int = Field(256, ge=1, description="Held-out evaluation set, drawn like the pool.")
    num_heldout_probe_prompts: int = Field(256, ge=1, description="Probe set disjoint from the pool.")
    seed: int = Field(0, ge=0, description="Seed of the data, apart from run.seed: all runs of a comparison share it.")
    max_number: int = Field(12, ge=5, le=99, description="Largest operand of the ordinary levels.")
    max_hard_number: int = Field(
        40, ge=6, le=100, description="Largest operand of the hard levels, which the warm start does not show."
    )
    warm_start_levels: tuple[ArithmeticLevel, ...] = Field(
        get_args(ArithmeticLevel),
        min_length=1,
        description="Levels that the warm start shows; the others are left to RL.",
    )

    @model_validator(mode="after")
    def _possible(self) -> ArithmeticConfig:
        _check_hard_numbers(self.max_number, self.max_hard_number)
        return self


def _check_hard_numbers(max_number: int, max_hard_number: int) -> None:
    if max_hard_number <= max_number:
        raise ValueError(
            f"max_hard_number: must be above max_number = {max_number}, got {max_hard_number}; raise max_hard_number "
            "or lower max_number"
        )


class DataConfig(ConfigSection):
    """Which task, and where its prompts come from: sources, or the task's own generator where none is named."""

    task: str = Field(
        "countdown",
        description="countdown, arithmetic, math, gsm8k, multiple_choice, exact, by_source, reasoning_gym, "
        "or an import path 'package.module:Class' (tasks.interface).",
    )
    task_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of data.task; countdown and arithmetic take none."
    )
    train: Annotated[tuple[SourceConfig, ...], Fact.BY_CONTENT] = Field(
        (), description="Sources of the pool, joined in this order (docs/data.md)."
    )
    evaluation: Annotated[tuple[SourceConfig, ...], Fact.BY_CONTENT] = Field(
        (), description="Sources of the evaluation set; alone they serve jobs.evaluate."
    )
    pool_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="Short for data.train of one file with verl's columns."
    )
    evaluation_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="Short for data.evaluation of one file with verl's columns."
    )
    heldout_probe_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="File with verl's columns for the held-out probe; optional, with a pool from sources."
    )
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest prompt in tokens, as the chat template writes it; null: what the model takes less the "
        "response's tokens. Checked where model.path is set.",
    )
    overlong_prompts: Literal["drop", "refuse"] = Field(
        "drop", description="What becomes of longer prompts: dropped and counted, or an error."
    )
    chat_template: Path | None = Field(
        None,
        description="Jinja file that writes a prompt's messages down; null: the model's own template, if it has one.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="What the template is given beside the messages, e.g. enable_thinking: false."
    )
    countdown: CountdownConfig = Field(
        default_factory=CountdownConfig, description="What task countdown generates; for its warm start with files too."
    )
    arithmetic: ArithmeticConfig = Field(
        default_factory=ArithmeticConfig,
        description="What task arithmetic generates; for its warm start with files too.",
    )

    @property
    def train_sources(self) -> tuple[tuple[str, SourceConfig], ...]:
        """(config key, source) of the pool; empty where the task generates it."""
        return _sources("train", self.train, "pool_file", self.pool_file)

    @property
    def evaluation_sources(self) -> tuple[tuple[str, SourceConfig], ...]:
        """(config key, source) of the evaluation set."""
        return _sources("evaluation", self.evaluation, "evaluation_file", self.evaluation_file)

    @property
    def heldout_sources(self) -> tuple[tuple[str, SourceConfig], ...]:
        """(config key, source) of the held-out probe."""
        return _sources("", (), "heldout_probe_file", self.heldout_probe_file)

    @property
    def has_sources(self) -> bool:
        """Do the prompts come from somewhere, or does the task generate them?"""
        return bool(self.train_sources or self.evaluation_sources)

    @property
    def num_generated_prompts(self) -> int | None:
        """Size of the pool that the task will generate; None where it comes from sources or from a user's task."""
        if self.has_sources:
            return None
        return {
            "countdown": self.countdown.num_pool_prompts,
            "arithmetic": self.arithmetic.num_pool_prompts,
        }.get(self.task)

    @model_validator(mode="before")
    @classmethod
    def _named_verifiers(cls, tree: Any) -> Any:
        """Sources with verifiers of their own are judged by source: the config says so from here on."""
        if not isinstance(tree, dict):
            return tree
        names = _verifiers(tree.get("train")) | _verifiers(tree.get("evaluation"))
        if not names or tree.get("task", "by_source") != "by_source":
            return tree
        options = tree.get("task_options") or {}
        sources = options.get("sources") or {} if isinstance(options, dict) else {}
        merged = {name: name for name in sorted(names)} | dict(sources)
        return {**tree, "task": "by_source", "task_options": {**options, "sources": merged}}

    @model_validator(mode="after")
    def _possible(self) -> DataConfig:
        for key, short in (("train", "pool_file"), ("evaluation", "evaluation_file")):
            sources = getattr(self, key)
            if sources and getattr(self, short) is not None:
                raise ValueError(f"{short}: is short for data.{key}, and both are set; remove one of the two")
            if len({source.weight is None for source in sources}) > 1:
                raise ValueError(f"{key}: some sources have a weight and some have none; give all of them one, or none")
        if self.train_sources and not self.evaluation_sources:
            raise ValueError(
                "evaluation_file: needed with data.pool_file or data.train, got null; set data.evaluation_file or "
                "data.evaluation"
            )
        if self.heldout_probe_file is not None and not self.train_sources:
            raise ValueError(
                "heldout_probe_file: goes with data.pool_file or data.train, which are not set; set one of them too"
            )
        if self.task != "by_source":
            for key, source in (*self.train_sources, *self.evaluation_sources):
                if source.verifier is not None and source.verifier != self.task:
                    raise ValueError(
                        f"task: expected by_source, as {key} names a verifier of its own ({source.verifier}), got "
                        f"{self.task}; leave data.task out, or the verifier"
                    )
        return self


def _sources(
    key: str, listed: tuple[SourceConfig, ...], short: str, file: Path | None
) -> tuple[tuple[str, SourceConfig], ...]:
    if file is not None:
        return ((f"data.{short}", SourceConfig(path=str(file))),)
    return tuple((f"data.{key}.{index}", source) for index, source in enumerate(listed))


def _verifiers(sources: Any) -> set[str]:
    """The verifiers that a list of sources names, before anything in it is checked."""
    found = set()
    for source in sources if isinstance(sources, (list, tuple)) else ():
        name = source.get("verifier") if isinstance(source, dict) else getattr(source, "verifier", None)
        if isinstance(name, str):
            found.add(name)
    return found
