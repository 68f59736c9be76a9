"""A source of prompts: one entry of ``data.train`` or ``data.evaluation``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gps_ray.config.section import ConfigSection

__all__ = ["COLUMNS", "SourceConfig"]

# What ``columns`` may name, and the columns of verl that hold it where nothing is named.
COLUMNS: dict[str, str] = {
    "prompt": "prompt",
    "answer": "reward_model.ground_truth",
    "data_source": "data_source",
    "level": "extra_info.level",
    "extra_info": "extra_info",
}


class SourceConfig(ConfigSection):
    """Where some prompts lie, which columns hold what, and who judges the responses."""

    path: str = Field(
        min_length=1,
        description="A file (.parquet, .jsonl, .json, .csv), a folder that datasets' save_to_disk wrote, or the id of "
        "a data set on the Hugging Face hub.",
    )
    name: str | None = Field(None, description="Configuration of a hub data set that has several.")
    split: str = Field("train", description="Split of a folder or of a hub data set that has several.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="prompt, answer, data_source, level, extra_info -> the column that holds it, dots for a part of a "
        "struct; those that are left out are verl's.",
    )
    extra_columns: tuple[str, ...] = Field((), description="Further columns that the verifier gets in extra_info.")
    verifier: str | None = Field(
        None,
        description="Name of a built-in verifier, or 'package.module:Class', for every row; it becomes the rows' "
        "data_source. null: the rows' own data_source says.",
    )
    system: str | None = Field(None, description="System message in front of every prompt that has none.")
    suffix: str = Field("", description="Put behind the last user turn as it stands, for instance an instruction.")
    weight: float | None = Field(
        None,
        gt=0,
        description="Share of this source in the whole, relative to the others': the largest set of these proportions "
        "is taken. All sources of a list have one, or none.",
    )
    max_prompts: int | None = Field(
        None, ge=1, description="At most so many of its prompts, chosen by their content; null: all."
    )

    @property
    def is_file(self) -> bool:
        return Path(self.path).suffix in (".parquet", ".jsonl", ".json", ".csv")

    @property
    def kind(self) -> Literal["parquet", "json", "csv", "folder", "hub"]:
        """How it is read. A path that is no folder here and has the form of a hub id is taken for one."""
        suffix = Path(self.path).suffix
        if self.is_file:
            return {".parquet": "parquet", ".csv": "csv"}.get(suffix, "json")  # type: ignore[return-value]
        is_id = self.path.count("/") <= 1 and not self.path.startswith((".", "/", "~"))
        return "hub" if is_id and not Path(self.path).exists() else "folder"

    @model_validator(mode="after")
    def _possible(self) -> SourceConfig:
        unknown = [column for column in self.columns if column not in COLUMNS]
        if unknown:
            raise ValueError(
                f"columns: expected keys out of {', '.join(COLUMNS)}, got {unknown[0]!r}; change columns, or name "
                "further columns in extra_columns"
            )
        if self.verifier == "by_source":
            raise ValueError(
                "verifier: by_source goes by the rows' data_source, so it is no verifier of one source; leave it out"
            )
        return self
