"""The prompts of a run, generated or from files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Prompt
from gps_ray.config import DataConfig
from gps_ray.tasks.identity import prompt_id
from gps_ray.tasks.interface import DataSets, Task
from gps_ray.tasks.prompt_files import read_rows, write_prompts
from gps_ray.tasks.registry import load_generated_task, load_task

__all__ = [
    "DataSets",
    "check_answers",
    "check_disjoint",
    "load_data",
    "prompt_id",
    "read_data_files",
    "read_prompts",
    "write_prompts",
]

_LOG = logging.getLogger(__name__)


def read_prompts(path: Path, *, config_key: str) -> tuple[Prompt, ...]:
    """The prompts of a Parquet file (columns: ``gps_ray.tasks.prompt_files``) in its order.

    Of rows with the same content the first is kept; how many were dropped is logged. Raises DataError, one line that
    names ``config_key``, for a file that is missing, truncated, empty or has other columns.
    """
    return _distinct(read_rows(Path(path), config_key), config_key)[0]


def _distinct(rows: Sequence[Prompt], config_key: str) -> tuple[tuple[Prompt, ...], int]:
    first = {prompt.prompt_id: prompt for prompt in reversed(rows)}
    prompts = tuple(prompt for prompt in rows if first.pop(prompt.prompt_id, None) is not None)
    num_duplicates = len(rows) - len(prompts)
    if num_duplicates:
        _LOG.warning(
            "%s: %d of %d rows are duplicates; the first of each is kept", config_key, num_duplicates, len(rows)
        )
    return prompts, num_duplicates


def load_data(data: DataConfig, num_probe_prompts: int) -> DataSets:
    """The data sets of a run, the same for every run with the same data section.

    From ``data.pool_file`` and its companions where it is set, else made by the task. The pool probe is a random part
    of the pool, drawn without any run's seed, so that all runs of a comparison are measured on the same prompts.
    ``num_probe_prompts`` = 0 leaves both probes empty.

    Raises DataError for files that cannot be used, or whose sets share prompts; ConfigError for a task that generates
    nothing, or a probe larger than the pool.
    """
    if data.pool_file is None and data.evaluation_file is not None:
        raise ConfigError(
            "data.evaluation_file: goes with data.pool_file to train on, which is null; set data.pool_file too "
            "(jobs.evaluate needs none)"
        )
    if data.pool_file is None:
        otherwise = "set data.pool_file and data.evaluation_file"
        sets = load_generated_task(data.task, data.task_options, otherwise).generate(data)
    else:
        sets = read_data_files(data, load_task(data.task, data.task_options))
    if num_probe_prompts > len(sets.pool):
        raise ConfigError(
            f"evaluation.num_probe_prompts: a pool probe of {num_probe_prompts} does not fit a pool of "
            f"{len(sets.pool)}; lower evaluation.num_probe_prompts"
        )
    if num_probe_prompts == 0:
        return replace(sets, pool_probe=(), heldout_probe=())
    rows = generator(0, "data/pool_probe").choice(len(sets.pool), size=num_probe_prompts, replace=False)
    return replace(sets, pool_probe=tuple(sets.pool[row] for row in sorted(rows)))


def read_data_files(data: DataConfig, task: Task) -> DataSets:
    """Pool, evaluation set and held-out probe from the files of the data section, without the pool probe.

    ``task`` must be able to read every answer. Raises DataError as ``load_data`` does.
    """
    if data.pool_file is None or data.evaluation_file is None:
        raise ConfigError("data.evaluation_file: data.pool_file and data.evaluation_file are needed; set both")
    pool, pool_duplicates = _read_set(data.pool_file, "data.pool_file", task)
    evaluation, evaluation_duplicates = _read_set(data.evaluation_file, "data.evaluation_file", task)
    heldout: tuple[Prompt, ...] = ()
    heldout_duplicates = 0
    if data.heldout_probe_file is not None:
        heldout, heldout_duplicates = _read_set(data.heldout_probe_file, "data.heldout_probe_file", task)
    check_disjoint(pool, evaluation, "data.evaluation_file")
    check_disjoint(pool, heldout, "data.heldout_probe_file")
    return DataSets(
        pool=pool,
        evaluation=evaluation,
        heldout_probe=heldout,
        num_duplicates=pool_duplicates + evaluation_duplicates + heldout_duplicates,
    )


def _read_set(path: Path, config_key: str, task: Task) -> tuple[tuple[Prompt, ...], int]:
    prompts, num_duplicates = _distinct(read_rows(path, config_key), config_key)
    check_answers(prompts, task, path, config_key)
    return prompts, num_duplicates


def check_answers(prompts: Sequence[Prompt], task: Task, path: Path, config_key: str) -> None:
    """Raise DataError where the task cannot read a prompt's answer, as far as that can be tried in this process."""
    # Somebody else's verifier never runs in this process: it could hang or end it (rollout.verifier_pool runs it).
    for prompt in prompts if getattr(task, "bounds_its_own_work", False) else ():
        try:
            # Judging an empty response finds answers that the task cannot read before any GPU is touched.
            task.verify(prompt, "")
        except DataError as error:
            raise DataError(f"{config_key}: {error}; mend {path}, or change {config_key} or data.task") from error


def check_disjoint(pool: Sequence[Prompt], other: Sequence[Prompt], config_key: str) -> None:
    """Raise DataError where ``other`` shares prompts with the pool.

    By text: another spelling of the answer would not make a prompt that was trained on a fresh one.
    """
    texts = {prompt.text for prompt in pool}
    shared = [prompt.text for prompt in other if prompt.text in texts]
    if shared:
        raise DataError(
            f"{config_key}: {len(shared)} of {len(other)} prompts are also in data.pool_file (the first: "
            f"{shared[0][:80]!r}); remove them from one of the two files"
        )
