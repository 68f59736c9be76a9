"""``jobs.bench lengths --run FOLDER``: how well response lengths were known beforehand, on the groups of a run.

The run's groups are shown step by step, as a selector sees them; a fifth of the prompts is held out and never shown.
Each step's lengths are predicted before it is shown, by three: ``posterior``, that of gps_fused; ``record``, what a
prompt took before, else the mean of all; ``text length``, which takes a longer prompt for one with a longer answer.
The groups of the second half of the run count. Beside it, what the posterior costs on a pool of a given size.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import ConfigError, DataError, one_line
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import OUTCOMES, outcomes_from_table
from gps_ray.base.types import BoolArray
from gps_ray.config import FeaturesConfig, FusedConfig
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.fused import FusedPredictor, build_filter
from gps_ray.predictor.fused_features import TextFeatures
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.length_model import LengthModel
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.recorded import held_out
from gps_ray.run.folder import RunFolder
from gps_ray.run.outcomes import read_outcomes
from gps_ray.selection.lengths import ResponseLengths

__all__ = ["add_arguments", "run"]

# 80 % of a Gaussian lie within so many standard deviations.
_STDS = 1.2816


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, or of one seed of a comparison")
    parser.add_argument("--seed", type=int, default=0, help="which fifth of the prompts is held out")
    parser.add_argument("--cost-pool", type=int, default=40_000, help="prompts of the pool whose cost is measured")
    parser.add_argument("--cost-batch", type=int, default=256, help="its groups a step")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row per kind of prompt and predictor: ``spearman`` of predicted and seen mean lengths of groups; ``rms_log``,
    root mean square of log(seen / predicted); ``within_80``, the share of groups in the posterior's 80 % interval, in
    which the chance of the group's own draws is not counted. Then a row per part of the cost (``cpu_ms``)."""
    table, batches = _read(args.run)
    found = _replayed(table, batches, held_out(table.texts, "bench/lengths", args.seed))
    late = found["step"] > batches[len(batches) // 2].step
    rows: list[dict[str, Any]] = [
        {"prompts": kind, "predictor": predictor, **_figures(predictor, {n: v[late & among] for n, v in found.items()})}
        for kind, among in (("held out", found["held_out"]), ("seen before", found["seen"]))
        for predictor in ("posterior", "record", "text length")
        if np.any(late & among)
    ]
    return {
        "benchmark": "lengths",
        "num_prompts": len(table.texts),
        "num_steps": len(batches),
        "num_cpus": os.cpu_count(),
        "rows": rows + _cost_rows(args.cost_pool, args.cost_batch),
    }


def _figures(predictor: str, groups: Mapping[str, Any]) -> dict[str, float]:
    seen, predicted = groups["length"], groups[predictor]
    figures = {
        "groups": len(seen),
        "tokens_10%": float(np.percentile(seen, 10)),
        "tokens_90%": float(np.percentile(seen, 90)),
        "spearman": rank_correlation(predicted, seen),
    }
    if predictor != "text length":  # that is in characters
        figures["rms_log"] = float(np.sqrt(np.mean((np.log1p(seen) - np.log1p(predicted)) ** 2)))
    return figures | ({"within_80": float(np.mean(groups["inside"]))} if predictor == "posterior" else {})


def _replayed(table: PromptTable, batches: Sequence[OutcomeBatch], hidden: BoolArray) -> dict[str, Any]:
    """Columns [R] over all groups of prompts but those of the first step: where they stand, what came, what was
    predicted. ``hidden`` [N] prompts are never shown. Raises DataError where there is nothing to predict from."""
    posterior, record = FusedPredictor(table, FusedConfig()), ResponseLengths(len(table.texts))
    num_characters = np.array([len(text) for text in table.texts], dtype=np.float64)
    shown = np.zeros(len(table.texts), dtype=np.bool_)
    parts: list[dict[str, Any]] = []
    for batch in batches:
        rows, lengths = batch.rows, batch.mean_response_length.astype(np.float64)
        expected = posterior.expected_lengths(rows)
        if len(expected):
            moments = posterior.predict_lengths(rows)
            parts.append(
                {
                    "step": np.full(len(rows), batch.step),
                    "held_out": hidden[rows],
                    "seen": shown[rows],
                    "length": lengths,
                    "inside": np.abs(np.log1p(lengths) - moments.mean) < _STDS * np.sqrt(moments.variance),
                    "posterior": expected,
                    "record": record.expected_lengths(rows),
                    "text length": num_characters[rows],
                }
            )
        batch = _of_groups(batch, ~hidden[rows])
        posterior.observe(batch)
        record.observe(batch)
        shown[batch.rows] = True
    if not parts:
        raise DataError("--run: expected a run of at least two steps whose responses have lengths, got fewer")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cost_rows(num_prompts: int, batch: int) -> list[dict[str, Any]]:
    """CPU milliseconds, best of five, of the posterior's parts of a step, over made features of 256 columns."""
    if not 0 < batch <= num_prompts:
        raise ConfigError(f"--cost-batch: {batch} does not fit --cost-pool {num_prompts}; change one")
    config, rng = FusedConfig(), generator(0, "bench/lengths")
    columns = rng.standard_normal((num_prompts, config.num_features), dtype=np.float32) / np.float32(16)
    features = TextFeatures(
        columns=columns, residual_variance=np.full(num_prompts, 0.1), log_length=np.zeros(num_prompts)
    )
    model = LengthModel(
        build_filter(features, None, num_prompts, config),
        features.residual_variance,
        num_named=2,
        num_drifting=config.num_drifting,
    )
    groups = OutcomeBatch(
        step=0,
        rows=rng.choice(num_prompts, size=batch, replace=False),
        num_right=np.full(batch, 4, dtype=np.int32),
        num_tried=np.full(batch, 8, dtype=np.int32),
        mean_response_length=rng.lognormal(5.0, 0.5, batch).astype(np.float32),
    )
    pool = np.arange(num_prompts)
    parts: dict[str, Callable[[], object]] = {
        "learn a step": lambda: model.observe(groups),
        "predict the batch": lambda: model.expected(pool[:batch]),
        "predict 8B candidates": lambda: model.expected(pool[: 8 * batch]),
        "predict the pool": lambda: model.expected(pool),
    }
    where = f"{num_prompts:,} prompts, B={batch}"
    return [{"prompts": where, "predictor": name, "cpu_ms": _cpu_ms(part)} for name, part in parts.items()]


def _cpu_ms(function: Callable[[], object]) -> float:
    turns = []
    for _ in range(5):
        start = time.process_time()
        function()
        turns.append(1e3 * (time.process_time() - start))
    return round(min(turns), 2)


def _read(folder: Path) -> tuple[PromptTable, list[OutcomeBatch]]:
    """Prompts and the outcomes of each step, of the groups whose lengths are known. Raises DataError."""
    try:
        prompts = pq.read_table(folder / "prompts.parquet", columns=["prompt_id", "text"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"--run: expected the folder of a run with prompts.parquet, got {folder} ({one_line(error)})"
        ) from error
    texts = tuple(prompts["text"].to_pylist())
    table = PromptTable(
        prompt_ids=tuple(prompts["prompt_id"].to_pylist()),
        texts=texts,
        embeddings=embed_texts(texts, FeaturesConfig(cache_directory=None)),
        num_pool=len(texts),
    )
    outcomes = read_outcomes(RunFolder(folder).outcomes)
    if not len(outcomes):
        raise DataError(f"--run: {folder} has no outcomes; expected a run that has made at least two steps")
    index, steps = PromptIndex(table), outcomes["step"].to_numpy()
    groups = outcomes_from_table(outcomes.select(OUTCOMES.names).combine_chunks())
    batches = [
        index.outcome_batch(int(step), [groups[place] for place in np.flatnonzero(steps == step)])
        for step in np.unique(steps)
    ]
    return table, [_of_groups(batch, np.isfinite(batch.mean_response_length)) for batch in batches]


def _of_groups(batch: OutcomeBatch, kept: BoolArray) -> OutcomeBatch:
    return OutcomeBatch(
        step=batch.step,
        rows=batch.rows[kept],
        num_right=batch.num_right[kept],
        num_tried=batch.num_tried[kept],
        mean_response_length=batch.mean_response_length[kept],
    )
