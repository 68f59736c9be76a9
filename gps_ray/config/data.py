"""Where the prompts come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from gps_ray.config.facts import Fact
from gps_ray.config.section import ConfigSection

__all__ = ["ArithmeticConfig", "CountdownConfig", "DataConfig"]


class CountdownConfig(ConfigSection):
    """The generated Countdown data: reach a target from 2-4 numbers."""

    pool: Literal["heterogeneous", "homogeneous"] = Field(
        "heterogeneous",
        description="heterogeneous: CD-2, CD-3, CD-4 and CD-4 with numbers out of the warm start's range; "
        "homogeneous: CD-3 only.",
    )
    num_pool_prompts: int = Field(4000, ge=1)
    num_evaluation_prompts: int = Field(256, ge=1, description="Held-out evaluation set, drawn like the pool.")
    num_heldout_probe_prompts: int = Field(256, ge=1, description="Probe set disjoint from the pool.")
    seed: int = Field(0, ge=0, description="Seed of the data, apart from run.seed: all runs of a comparison share it.")
    # 100 is the largest number with a token of its own in the task's vocabulary.
    max_number: int = Field(12, ge=2, le=99, description="Largest number of the ordinary levels.")
    max_hard_number: int = Field(
        60, ge=3, le=100, description="Largest number of the hard level, whose numbers begin above max_number."
    )
    max_target: int = Field(100, ge=1, le=100)

    @model_validator(mode="after")
    def _possible(self) -> CountdownConfig:
        _check_hard_numbers(self.max_number, self.max_hard_number)
        return self


ArithmeticLevel = Literal["chain-1", "chain-2", "chain-3", "chain-4", "linear-1", "linear-2", "linear-3"]


class ArithmeticConfig(ConfigSection):
    """The generated arithmetic data: chains of operations and equations with one unknown, levels mixed."""

    num_pool_prompts: int = Field(4000, ge=1)
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
    """Which task, and where its prompts come from: files, or the task's own generator where pool_file is null."""

    task: str = Field(
        "countdown",
        description="countdown, arithmetic, math, gsm8k, multiple_choice, exact, by_source, "
        "or an import path 'package.module:Class' (tasks.interface).",
    )
    task_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of data.task; countdown and arithmetic take none."
    )
    pool_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="Parquet pool (data_source, prompt, ability, reward_model, extra_info)."
    )
    evaluation_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="Parquet evaluation set; needed with pool_file."
    )
    heldout_probe_file: Annotated[Path | None, Fact.BY_CONTENT] = Field(
        None, description="Parquet held-out probe set; optional with pool_file."
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
    def num_generated_prompts(self) -> int | None:
        """Size of the pool that the task will generate; None where it comes from a file or from a user's task."""
        if self.pool_file is not None:
            return None
        return {
            "countdown": self.countdown.num_pool_prompts,
            "arithmetic": self.arithmetic.num_pool_prompts,
        }.get(self.task)

    @model_validator(mode="after")
    def _possible(self) -> DataConfig:
        if self.pool_file is not None and self.evaluation_file is None:
            raise ValueError("evaluation_file: needed with data.pool_file, got null; set data.evaluation_file")
        # An evaluation file alone is what jobs.evaluate may have.
        if self.pool_file is None and self.heldout_probe_file is not None:
            raise ValueError("heldout_probe_file: goes with data.pool_file, which is null; set data.pool_file too")
        return self
