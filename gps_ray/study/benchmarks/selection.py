"""``jobs.bench selection``: the pruned greedy of the batch composer against the incremental and the naive one.

    naive         every pick takes the distances from all candidates to all members: B^2 / 2 passes
    incremental   every pick takes one matrix-vector product with the running vector: B passes
    ours          ``gps_ray.selection.batch_composer``: passes only where the bound no longer decides

All three run by turns in this process, on one thread count and one dtype, and break ties alike (|difference| <= 1e-9 in
float64, lowest index). Figures are the best of the turns. Beside them: what the predictor's part of a choice costs.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.batch_composer import TIE, compose
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import build_selector, resolve_selection

__all__ = ["add_arguments", "clustered_vectors", "run"]

GROUP_SIZE = 8
_BLOCK = 16_384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-candidates", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=256, help="prompts to pick")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are the best")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.04, 0.4], help="weight of both diversity terms")
    parser.add_argument(
        "--naive-every", type=int, default=8, help="time every k-th pick of the naive greedy, scaled up; 0: not at all"
    )
    parser.add_argument(
        "--spectrum",
        choices=["text", "flat"],
        default="text",
        help="text: clusters with the spectrum of sentence vectors; flat: isotropic clusters, where bounds prune least",
    )
    parser.add_argument("--embeddings", type=Path, default=None, help=".npy of unit rows, in place of made ones")
    parser.add_argument("--skip-predictors", action="store_true")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per case of the composer, then rows for the predictors.

    ``X_ratio`` is X's milliseconds over ours; ``cpu_ratios`` are the same in CPU-seconds (incremental, naive), which
    other processes on the machine disturb less. ``passes_read`` counts the bytes of the embeddings that were read in
    passes over all of them: full passes and gathered rows.
    """
    if not 0 < args.batch <= args.num_candidates:
        raise ConfigError(f"--batch: {args.batch} does not fit --num-candidates {args.num_candidates}; change one")
    with threadpool_limits(args.num_threads):
        embeddings = _load(args) if args.embeddings else clustered_vectors(args.num_candidates, args.dim, args.spectrum)
        one_pass_ms = 1e3 * min(_timed(lambda: embeddings @ embeddings[0])[0] for _ in range(args.repeats))
        peak_before = _peak_bytes()
        rows = [
            _case(args, embeddings, name, means, weight)
            for name, means in _predicted_means(len(embeddings)).items()
            for weight in args.lambdas
        ]
        peak_after = _peak_bytes()
        predictors = [] if args.skip_predictors else _predictor_rows(args, embeddings)
    return {
        "benchmark": "selection",
        "num_candidates": len(embeddings),
        "batch": args.batch,
        "dim": embeddings.shape[1],
        "spectrum": str(args.embeddings or args.spectrum),
        "num_threads": args.num_threads,
        "repeats": args.repeats,
        "num_cpus": os.cpu_count(),
        "one_pass_ms": one_pass_ms,
        "bytes_of_one_pass": embeddings.nbytes,
        "peak_bytes": peak_after,
        "peak_bytes_above_inputs": peak_after - peak_before,
        "rows": rows + predictors,
    }


def clustered_vectors(num_rows: int, dim: int, spectrum: str) -> FloatArray:
    """[N, E] float32 unit rows around 64 centres, drawn with a fixed key.

    ``text`` has the second moments of WordLlama vectors of maths problems: a common direction with 18 % of the mean
    square, the rest falling off as (j + 1)^-0.8 (mean cosine .16), half of it between and half within the clusters.
    """
    rng = generator(0, "bench/selection")
    if spectrum == "text":
        scale = np.arange(2, dim + 1) ** -0.8
        scale = np.concatenate([[0.0], np.sqrt(0.82 * scale / scale.sum())])
        common = np.eye(1, dim)[0] * np.sqrt(0.18)
    else:
        scale, common = np.full(dim, dim**-0.5), np.zeros(dim)
    centres = rng.normal(size=(64, dim)) * scale * np.sqrt(0.5)
    rows = np.empty((num_rows, dim), dtype=np.float32)
    for start in range(0, num_rows, _BLOCK):
        part = rows[start : start + _BLOCK]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * (scale * np.sqrt(0.5)).astype(np.float32)
        part[:] = noise + (common + centres)[rng.integers(64, size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def _load(args: argparse.Namespace) -> FloatArray:
    rows: FloatArray = np.load(args.embeddings, allow_pickle=False)
    return np.ascontiguousarray(rows[: args.num_candidates], dtype=np.float32)


def _predicted_means(num_rows: int) -> dict[str, FloatArray]:
    rng = generator(0, "bench/selection/means")
    return {
        "uniform": rng.uniform(size=num_rows),
        "near .5": 0.5 + 0.01 * rng.normal(size=num_rows),
        "grid of 1/8": rng.integers(0, 9, size=num_rows) / 8,
    }


def _timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """(wall seconds, CPU seconds, result)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _case(
    args: argparse.Namespace, embeddings: FloatArray, name: str, means: FloatArray, weight: float
) -> dict[str, Any]:
    scores = -((means - 0.5) ** 2)
    recent = embeddings[generator(0, "bench/selection/recent").integers(len(embeddings), size=4 * args.batch)]
    arms: dict[str, Callable[[], Any]] = {
        "ours": lambda: compose(
            scores, embeddings, args.batch, diversity_within=weight, diversity_recent=weight, recent=recent
        ),
        "incremental": lambda: _incremental(scores, embeddings, recent, args.batch, weight),
    }
    if args.naive_every:
        picks = arms["ours"]().picks
        arms["naive"] = lambda: _naive(scores, embeddings, recent, picks, weight, args.naive_every)
    turns: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    results: dict[str, Any] = {}
    for _ in range(args.repeats):
        for arm, function in arms.items():
            wall, cpu, results[arm] = _timed(function)
            share = 1.0
            if arm == "naive":
                share, results[arm] = results[arm]
            turns[arm].append((1e3 * wall / share, 1e3 * cpu / share))
    best = {arm: np.min(values, axis=0) for arm, values in turns.items()}
    row: dict[str, Any] = {"case": f"means {name}, lambda {weight:g}"}
    for arm, (wall, _) in best.items():
        row["ms" if arm == "ours" else f"{arm}_ms"] = round(float(wall), 1)
    for arm in list(best)[1:]:
        row[f"{arm}_ratio"] = round(float(best[arm][0] / best["ours"][0]), 1)
    row["cpu_ratios"] = [round(float(best[arm][1] / best["ours"][1]), 1) for arm in list(best)[1:]]
    ours = results["ours"]
    row["full_passes"] = ours.num_full_passes
    row["passes_read"] = round(ours.num_full_passes + ours.num_rows_read / len(embeddings), 2)
    row["same_picks"] = bool(np.array_equal(ours.picks, results["incremental"])) and results.get("naive", True)
    for arm, values in turns.items():
        row[f"{arm}_ms_by_turn"] = [round(wall, 2) for wall, _ in values]
        row[f"{arm}_cpu_ms_by_turn"] = [round(cpu, 2) for _, cpu in values]
    return row


def _incremental(
    scores: FloatArray, embeddings: FloatArray, recent: FloatArray, num_picks: int, weight: float
) -> IntArray:
    """One product with all embeddings per pick; near-ties are rescored in float64."""
    left = scores.astype(np.float64)
    anchor = weight * recent.mean(axis=0, dtype=np.float64)
    total = np.zeros(embeddings.shape[1])
    rounding = 2 * (embeddings.shape[1] + 1) * 2.0**-24
    picks = np.zeros(num_picks, dtype=np.int64)
    for i in range(num_picks):
        w = anchor + (weight / i) * total if i else anchor
        values = left - embeddings @ w.astype(np.float32)
        near = np.flatnonzero(values >= values.max() - rounding * float(np.linalg.norm(w)) - TIE)
        exact = left[near] - np.add.reduce(embeddings[near] * w, axis=1)
        picks[i] = near[exact >= exact.max() - TIE].min()
        left[picks[i]] = -np.inf
        total += embeddings[picks[i]]
    return picks


def _naive(
    scores: FloatArray, embeddings: FloatArray, recent: FloatArray, picks: IntArray, weight: float, every: int
) -> tuple[float, bool]:
    """All pairs of candidates and members, at every k-th pick: given the members that our greedy had there, is its pick
    the best? Returns (share of the naive greedy's work that was done, the answer).

    The means over the recent batches are taken once, as by the others.
    """
    base = scores + weight * (1.0 - embeddings @ recent.mean(axis=0))
    rounding = weight * 4 * (embeddings.shape[1] + 1) * 2.0**-24
    num_pairs, agree = 0, True
    # Backwards from the last pick, so that the sizes seen stand evenly for all.
    for i in range(len(picks) - 1, 0, -every):
        members = embeddings[picks[:i]]
        values = base + weight * (1.0 - embeddings @ members.T).mean(axis=1)
        values[picks[:i]] = -np.inf
        agree &= bool(values[picks[i]] >= values.max() - rounding - TIE)
        num_pairs += i
    return num_pairs / (len(picks) * (len(picks) - 1) / 2), agree


def _predictor_rows(args: argparse.Namespace, embeddings: FloatArray) -> list[dict[str, Any]]:
    num_rows = len(embeddings)
    table = PromptTable(
        prompt_ids=tuple(map(str, range(num_rows))), texts=("",) * num_rows, embeddings=embeddings, num_pool=num_rows
    )
    cases = [
        ("gps", args.batch, "8B candidates", min(num_rows, 8 * args.batch)),
        ("gps", 32, "8B candidates", 256),
    ]
    if num_rows <= 100_000:
        cases.append(("gps_paper", args.batch, "whole pool", num_rows))
    return [row for case in cases for row in _predictor_case(args, table, *case)]


def _predictor_case(
    args: argparse.Namespace, table: PromptTable, name: str, batch: int, what: str, num_predicted: int
) -> list[dict[str, Any]]:
    """predict = the posterior of the candidates; update = learning from one step with the replay full; select =
    predict, score and compose."""
    import torch

    torch.set_num_threads(args.num_threads)
    config = resolve_selection(SelectionConfig(selector=name, num_prompts=batch))
    selector = build_selector(config, table, GROUP_SIZE, 0)
    step = config.ppm.replay_steps + 1
    for past in range(step):
        selector.observe(_outcomes(table, past, batch))
    rows = np.arange(num_predicted)
    request = SelectionRequest(step=step, round=0, num_prompts=batch, group_size=GROUP_SIZE)
    phases: dict[str, Callable[[], Any]] = {
        "predict": lambda: _means(selector, rows, step),
        "select": lambda: selector.select(request),
        "update": lambda: selector.observe(_outcomes(table, step, batch)),
    }
    turns: dict[str, list[tuple[float, float, Any]]] = {phase: [] for phase in phases}
    for _ in range(args.repeats):
        for phase, function in phases.items():
            turns[phase].append(_timed(function))
    return [
        {
            "case": f"{name}, B={batch}, {what}: {phase}",
            "ms": round(1e3 * min(wall for wall, _, _ in values), 2),
            "ours_cpu_ms_by_turn": [round(1e3 * cpu, 2) for _, cpu, _ in values],
        }
        for phase, values in turns.items()
    ]


def _means(selector: PromptSelector, rows: IntArray, step: int) -> FloatArray:
    posterior = selector.predict(rows, step)
    assert posterior is not None
    return posterior.mean()


def _outcomes(table: PromptTable, step: int, batch: int) -> OutcomeBatch:
    rng = generator(0, "bench/selection/outcomes", step)
    rows = rng.choice(table.num_pool, size=batch, replace=False)
    rates = 1 / (1 + np.exp(-3 * table.embeddings[rows, 1] / table.embeddings[:4096, 1].std()))
    return OutcomeBatch(
        step=step,
        rows=rows,
        num_right=rng.binomial(GROUP_SIZE, rates).astype(np.int32),
        num_tried=np.full(batch, GROUP_SIZE, dtype=np.int32),
        mean_response_length=np.full(batch, np.nan, dtype=np.float32),
    )
