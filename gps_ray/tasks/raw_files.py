"""Data sets as they are published (GSM8K, MATH, DeepScaleR, Countdown), read as prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt
from gps_ray.config import SourceConfig
from gps_ray.tasks.identity import prompt_id
from gps_ray.tasks.prompt_files import answer_text
from gps_ray.tasks.sources import json_rows
from gps_ray.tasks.verifiers.extract import last_boxed

__all__ = ["FORMATS", "read_raw", "split_off"]

log = logging.getLogger(__name__)

Row = dict[str, Any]
_BOX = " Let's think step by step and output the final answer within \\boxed{}."


def _question(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected a question with text, got {text!r:.80}")
    return text


def _whole(number: Any) -> int:
    if int(number) != float(number):
        raise ValueError(f"expected whole numbers, got {number!r:.80}")
    return int(number)


def _gsm8k(row: Row) -> tuple[str, str]:
    hashes = ' Let\'s think step by step and output the final answer after "####".'
    _, found, answer = row["answer"].rpartition("####")
    return _question(row["question"]) + hashes, answer.strip() if found else ""


def _maths(row: Row) -> tuple[str, str]:
    answer = row.get("answer")
    if answer is None:
        answer = last_boxed(row["solution"])
    return _question(row["problem"]) + _BOX, answer_text(answer) or ""


def _countdown(row: Row) -> tuple[str, str]:
    numbers, target = [_whole(number) for number in row.get("nums") or row["numbers"]], _whole(row["target"])
    text = (
        f"Using the numbers {numbers}, create an expression that equals {target}. Use each number exactly once and "
        "only +, -, * and /. Give the expression within <answer> </answer>, for example <answer>(1 + 2) / 3</answer>."
    )
    return text, json.dumps({"numbers": numbers, "target": target})


# Format -> data source written, (text, answer) of a row.
FORMATS: dict[str, tuple[str, Callable[[Row], tuple[str, str]]]] = {
    "gsm8k": ("openai/gsm8k", _gsm8k),
    "math": ("DigitalLearningGmbH/MATH-lighteval", _maths),
    "deepscaler": ("agentica-org/DeepScaleR-Preview-Dataset", _maths),
    "countdown": ("countdown", _countdown),
}


def read_raw(files: Sequence[Path], format_name: str) -> tuple[list[Prompt], int]:
    """The prompts of some raw files, of equal texts the first, and how many rows had no answer. Texts that come again
    with another answer are logged.

    Raises DataError, naming file and row.
    """
    source, parts = FORMATS[format_name]
    prompts: dict[str, Prompt] = {}
    num_unanswered = 0
    torn: list[str] = []
    for path in files:
        for index, row in enumerate(_rows(path)):
            try:
                text, answer = parts(row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(
                    f"--in: row {index} of {path} is not in the format {format_name} ({type(error).__name__}: {error}; "
                    f"columns {', '.join(row)}); change --format or mend the row"
                ) from error
            if not answer:
                num_unanswered += 1
                continue
            level = row.get("level", row.get("difficulty"))
            identity = prompt_id(source, text, answer)
            prompt = Prompt(
                prompt_id=identity, text=text, answer=answer, task=source, level="" if level is None else str(level)
            )
            if prompts.setdefault(text, prompt).answer != answer:
                torn.append(text)
    if torn:
        log.warning("--in: %d rows repeat a text with another answer, the first is kept: %.80r", len(torn), torn[0])
    return list(prompts.values()), num_unanswered


def split_off(prompts: Iterable[Prompt], share: float) -> tuple[list[Prompt], list[Prompt]]:
    """(train, evaluation): ``share`` of the prompts, chosen by their ids, so by content and not by their order."""
    ordered = sorted(prompts, key=lambda prompt: prompt.prompt_id)
    num_evaluation = round(share * len(ordered)) if 0 < share < 1 else 0
    if not 0 < num_evaluation < len(ordered):
        raise DataError(
            f"--evaluation-share: {share:g} of {len(ordered)} prompts leaves one of the two sets empty; change it"
        )
    return ordered[num_evaluation:], ordered[:num_evaluation]


def _rows(path: Path) -> list[Row]:
    if path.suffix != ".parquet":
        return list(json_rows(SourceConfig(path=str(path)), "--in"))
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"--in: cannot read {path} ({str(error).splitlines()[0][:200]}); give Parquet or JSON lines"
        ) from error
    return table.to_pylist()  # type: ignore[no-any-return]
