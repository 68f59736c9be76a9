"""Metric names, and the pure reductions behind them.

A run writes one JSON object per line to ``metrics.jsonl``: the key ``step`` and metrics by name. Steps count from 1;
line 0 holds the evaluation before training. Names follow verl's where the quantity is the same. A metric that does not
exist at a step (no random slots, no evaluation) is left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.json_files import parse_json
from gps_ray.base.types import ChunkHeader, FloatArray, IntArray, Selection, SlotKind
from gps_ray.base.useful import is_useful

__all__ = [
    "METRICS",
    "Metric",
    "group_counts",
    "markdown_table",
    "read_metrics",
    "rollouts_saved",
    "step_metrics",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One line of the reference: a name (a trailing * stands for a family), its unit, its meaning."""

    name: str
    unit: str
    meaning: str


METRICS: dict[str, Metric] = {}


def _metric(name: str, unit: str, meaning: str) -> str:
    METRICS[name] = Metric(name=name, unit=unit, meaning=meaning)
    return name


STEP = "step"

# What the step's rollouts were like. Every group counts, kept by admission or not.
REWARD_MEAN = _metric("reward/mean", "reward", "mean reward of the step's rollouts with a verdict")
TRAIN_PASS_RATE = _metric("reward/pass_rate", "share", "right / (right + wrong) over the step's rollouts")
RESPONSE_LENGTH_MEAN = _metric("response_length/mean", "tokens", "mean response length of the step's rollouts")
NUM_GROUPS = _metric("selection/num_groups", "groups", "groups rolled out in the step")
NUM_ADMITTED = _metric("selection/num_admitted", "groups", "groups that admission kept for the update")
NUM_ROUNDS = _metric("selection/num_rounds", "rounds", "rounds of selection in the step")
NUM_CANDIDATES = _metric("selection/num_candidates", "prompts", "candidates scored, summed over rounds")
USEFUL_RATIO = _metric(
    "selection/useful_group_ratio", "share", "groups with right and wrong responses, of the groups rolled out"
)
USEFUL_RATIO_CHOSEN = _metric(
    "selection/useful_group_ratio_chosen", "share", "the same over slots filled by the selector's score"
)
USEFUL_RATIO_RANDOM = _metric("selection/useful_group_ratio_random", "share", "the same over random slots")
ROLLOUTS_SAVED = _metric(
    "selection/rollouts_saved_estimate",
    "rollouts",
    "an estimate: what uniform selection would have rolled out on top so far for as many useful groups, if all of its "
    "groups were like those of the random slots (only with random slots, from 32 of them on)",
)
LARGEST_GROUP = _metric("selection/largest_group", "rollouts", "most rollouts asked for one prompt")
ALL_RIGHT = _metric("selection/num_all_right", "groups", "groups with every verdict right")
ALL_WRONG = _metric("selection/num_all_wrong", "groups", "groups with every verdict wrong")
PREDICTION_BIAS = _metric(
    "selection/prediction_bias", "share", "predicted minus observed success rate, mean over the step's groups"
)
NUM_ROLLOUTS = _metric("rollout/num_rollouts", "rollouts", "rollouts made in the step")
NUM_TOKENS = _metric("rollout/num_tokens", "tokens", "response tokens generated in the step")
NUM_FAILED_ROLLOUTS = _metric("rollout/num_failed", "rollouts", "rollouts without a verdict")
NUM_VERIFIER_NOTES = _metric(
    "rollout/num_verifier_notes",
    "notes",
    "what verifiers noted in the step: for math, responses on which its two graders disagree",
)
TRUNCATED_RATIO = _metric(
    "rollout/truncated_ratio", "share", "rollouts of the step cut off at rollout.max_response_tokens"
)
NUM_FAILED_GROUPS = _metric("rollout/num_failed_groups", "groups", "groups that could not be made at all")
TOKENS_PER_S = _metric("rollout/tokens_per_s", "tokens/s", "response tokens per wall second of the rollout phase")

_metric("rollout/policy_lag", "versions", "policy versions between the step's rollouts and its update, 0 in step")
_metric("rollout/num_steps_ahead", "steps", "steps rolled out and waiting when the learner took this one up")
_metric("rollout/queue_depth", "chunks", "largest number of chunks that waited for a worker in the step")
_metric("rollout/num_healthy_workers", "workers", "rollout workers that were up when the step's rollouts were done")
_metric("rollout/num_restarts", "restarts", "rollout workers restarted so far in this process")

# Wall seconds of each phase of the step. Phases overlap (selection runs beside the update), so they need not add up.
TIMING_ROLLOUT = _metric("timing_s/rollout", "s", "making the rollouts")
TIMING_UPDATE = _metric("timing_s/update", "s", "the policy update")
TIMING_WEIGHTS = _metric("timing_s/weights", "s", "publishing the weights and loading them into the engines")
_metric("timing_s/wait_rollouts", "s", "the learner idle, waiting for the step's rollouts")
_metric("timing_s/wait_learner", "s", "the rollout workers idle, waiting for prompts or weights (loading included)")
TIMING_SELECT = _metric("timing_s/select", "s", "the selector learning from the step and choosing the next prompts")
TIMING_EVALUATION = _metric("timing_s/evaluation", "s", "evaluation and probes")
TIMING_STEP = _metric("timing_s/step", "s", "the whole step")

NUM_SKIPPED = _metric(
    "checkpoint/num_skipped", "checkpoints", "checkpoints of this process that could not be written; left out while 0"
)
MIRROR_FAILED = _metric("mirror/num_failed", "uploads", "uploads to run.mirror that failed so far in this process")
MIRROR_STEPS_BEHIND = _metric(
    "mirror/num_steps_behind", "steps", "steps done since the newest checkpoint that this process brought to run.mirror"
)
MIRROR_UPLOAD_S = _metric("mirror/upload_s", "s", "the last upload to run.mirror, beside the training")

# Cumulative cost: every rollout made is charged. Totals are training only; evaluation and probes stand apart.
COST_ROLLOUTS = _metric("cost/num_rollouts", "rollouts", "rollouts made for training so far, kept or dropped")
COST_TOKENS = _metric("cost/num_tokens", "tokens", "response tokens generated for training so far")
COST_GROUPS = _metric("cost/num_groups", "groups", "groups rolled out for training so far, kept or dropped")
COST_USEFUL_GROUPS = _metric("cost/num_useful_groups", "groups", "useful ones of them")
COST_RANDOM_GROUPS = _metric("cost/num_random_groups", "groups", "those of random slots")
COST_USEFUL_RANDOM_GROUPS = _metric("cost/num_useful_random_groups", "groups", "useful ones of random slots")
COST_CPU_S = _metric("cost/cpu_s", "CPU-s", "rollout + update + selector so far, summed over processes")
COST_WALL_S = _metric(
    "cost/wall_s", "s", "wall seconds of the steps so far, without evaluation, probes and checkpoints"
)
TRAINING_PHASES = ("rollout", "update", "selector")
OTHER_PHASES = ("evaluation", "probe", "oracle")
for _phase in (*TRAINING_PHASES, *OTHER_PHASES):
    _metric(f"cost/cpu_s_{_phase}", "CPU-s", f"CPU-seconds of the {_phase} phase so far, summed over processes")
for _phase in OTHER_PHASES:
    _metric(f"cost/num_rollouts_{_phase}", "rollouts", f"rollouts made for the {_phase} so far (not in the total)")
    _metric(f"cost/num_tokens_{_phase}", "tokens", f"response tokens generated for the {_phase} so far")

# Evaluation of the policy.
VAL_PASS_1 = _metric("val/pass@1", "share", "pass@1 on the held-out evaluation set, mean over prompts")
VAL_PASS_1_LOW = _metric("val/pass@1/low", "share", "lower end of its 95 % interval over prompts")
VAL_PASS_1_HIGH = _metric("val/pass@1/high", "share", "upper end of its 95 % interval over prompts")
VAL_LEVEL = "val/pass@1/level/"
_metric("val/pass@*", "share", "pass@k (unbiased) for k = 1, 2, 4, ... with /low and /high")
_metric(VAL_LEVEL + "*", "share", "pass@1 by level of the data set")
_metric("val/pass@1/source/*", "share", "pass@1 by data source, where a set has several")
_metric(
    "val/maj@*",
    "share",
    "k responses vote by the answer they state: expected share of right votes, over all subsets of k, with /low, /high",
)
VAL_TRUNCATED_RATIO = _metric(
    "val/truncated_ratio", "share", "evaluation responses that were cut off at the limit of tokens"
)
VAL_RESPONSE_LENGTH = _metric("val/response_length", "tokens", "mean length of the evaluation's responses")
_metric("val/num_failed", "rollouts", "evaluation rollouts without a verdict; they count as not solved")
_metric("val/num_prompts", "prompts", "evaluation prompts with at least one verdict")
_metric("val/<suite>/*", "", "the same figures of a set of evaluation.suites, behind its name")

# So many random slots before they are asked what uniform selection would find.
MIN_RANDOM_GROUPS = 32

# With selection.guard.enabled.
GUARD_SHARE = _metric("selection/guard_share", "share", "share of the next step's slots that the guard draws evenly")
GUARD_IS_FALLEN = _metric(
    "selection/guard_is_fallen", "0 or 1", "1 while the policy is below what it was on prompts that are not selected"
)
GUARD_FALL = _metric(
    "selection/guard_fall",
    "share",
    "earlier minus newest pass rate of the prompts not selected since, against the earlier window that shows it best",
)
GUARD_FALL_LOW = _metric("selection/guard_fall_low", "share", "lower end of its one-sided interval; above 0: a fall")
_metric("selection/guard_fall_high", "share", "upper end at the same confidence")
GUARD_PASS_RATE = _metric("selection/guard_pass_rate", "share", "pass rate of the newest window of even slots")
_metric("selection/guard_num_windows", "windows", "windows of even slots to compare with, the last 64 at most")

# Families whose members their owners define.
PROBES = ("pool_probe", "heldout_probe")
_metric("selection/*", "", "what the selector reports of its choices (unique prompts, reuse)")
_metric("train/num_groups_trained", "groups", "admitted groups that the loss learnt from")
_metric("train/num_groups_equal_rewards", "groups", "admitted groups whose rewards are all equal")
_metric(
    "train/num_groups_shaped_only",
    "groups",
    "admitted groups whose rewards differ by shaping alone: all responses right or all wrong",
)
_metric("train/*", "", "what the learner reports of the update (loss, gradient norm, clipped share, ...)")
_metric("predictor/*", "", "what the selector reports after learning (losses, swap test, unique prompts, ...)")
for _probe, _what in zip(
    PROBES, ("a fixed random part of the pool", "a fixed set disjoint from the pool"), strict=True
):
    _metric(f"predictor/{_probe}_spearman", "rank correlation", f"predicted against realised success rates of {_what}")
    _metric(f"predictor/{_probe}_*", "", f"further quality on {_what}; _seen and _unseen split by own outcomes")


def markdown_table() -> str:
    """The reference of all metrics as a Markdown table, in the order of definition."""
    rows = ["| metric | unit | meaning |", "|---|---|---|"]
    rows += [f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in METRICS.values()]
    return "\n".join(rows) + "\n"


# Names of earlier versions, in the metrics files of their runs.
RENAMED = {
    "selection/effective_group_ratio": USEFUL_RATIO,
    "selection/effective_group_ratio_chosen": USEFUL_RATIO_CHOSEN,
    "selection/effective_group_ratio_random": USEFUL_RATIO_RANDOM,
    "selection/num_zero_variance_right": ALL_RIGHT,
    "selection/num_zero_variance_wrong": ALL_WRONG,
    "train/num_groups_zero_variance": "train/num_groups_equal_rewards",
    **{f"predictor/{probe}_zero_variance_auc": f"predictor/{probe}_useful_auc" for probe in PROBES},
}


def _joined(headers: Iterable[ChunkHeader], column: str, dtype: type) -> Any:
    arrays = [np.asarray(getattr(header, column)) for header in headers]
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def _share(part: float, whole: float, name: str) -> dict[str, float]:
    return {name: float(part) / float(whole)} if whole else {}


def step_metrics(
    headers: Sequence[ChunkHeader], selections: Sequence[Selection], admitted: Collection[str]
) -> dict[str, float]:
    """Everything about one step that headers and selections can tell.

    ``headers`` are the chunks of the training stream in any order, ``selections`` the rounds, ``admitted`` the prompt
    ids that the update trained on. A failure is never counted as wrong: rates are over rollouts with a verdict.
    """
    headers = sorted(headers, key=lambda header: header.chunk_id)  # the order of summation must not follow timing
    right, wrong, failed, tokens = (
        _joined(headers, column, np.int64) for column in ("num_right", "num_wrong", "num_failed", "num_response_tokens")
    )
    useful = is_useful(right, right + wrong)
    tried = right + wrong
    num_rollouts = int((tried + failed).sum())
    metrics: dict[str, float] = {
        NUM_GROUPS: len(right),
        NUM_ADMITTED: len(admitted),
        NUM_ROUNDS: len(selections),
        NUM_CANDIDATES: sum(selection.num_candidates for selection in selections),
        LARGEST_GROUP: max((int(s.num_rollouts.max(initial=0)) for s in selections), default=0),
        NUM_ROLLOUTS: num_rollouts,
        NUM_TOKENS: int(tokens.sum()),
        NUM_FAILED_ROLLOUTS: int(failed.sum()),
        NUM_VERIFIER_NOTES: sum(header.num_verifier_notes for header in headers),
        NUM_FAILED_GROUPS: sum(len(header.failures) for header in headers),
        ALL_RIGHT: int(np.count_nonzero((tried > 0) & (wrong == 0))),
        ALL_WRONG: int(np.count_nonzero((tried > 0) & (right == 0))),
    }
    metrics |= _share(_joined(headers, "reward_sum", np.float64).sum(), tried.sum(), REWARD_MEAN)
    metrics |= _share(right.sum(), tried.sum(), TRAIN_PASS_RATE)
    metrics |= _share(tokens.sum(), num_rollouts, RESPONSE_LENGTH_MEAN)
    metrics |= _share(_joined(headers, "num_truncated", np.int64).sum(), num_rollouts, TRUNCATED_RATIO)
    metrics |= _share(useful.sum(), len(useful), USEFUL_RATIO)
    prompt_ids = [prompt_id for header in headers for prompt_id in header.prompt_ids]
    return metrics | _by_slot(selections, prompt_ids, useful, right, tried)


def _slots(selections: Sequence[Selection], prompt_ids: Sequence[str]) -> tuple[IntArray, FloatArray]:
    """The kind of slot and the predicted success rate [K] of each of these groups. Raises ValueError for a group that
    no selection asked for."""
    slots = {
        prompt_id: (int(kind), float(mean))
        for s in selections
        for prompt_id, kind, mean in zip(s.prompt_ids, s.slot_kind, s.predicted_mean, strict=True)
    }
    missing = [prompt_id for prompt_id in prompt_ids if prompt_id not in slots]
    if missing:
        raise ValueError(f"{len(missing)} groups were rolled out that no selection asked for, the first {missing[0]}")
    kinds = np.array([slots[prompt_id][0] for prompt_id in prompt_ids], dtype=np.int64)
    return kinds, np.array([slots[prompt_id][1] for prompt_id in prompt_ids], dtype=np.float64)


def group_counts(headers: Sequence[ChunkHeader], selections: Sequence[Selection]) -> dict[str, float]:
    """One step's share of the counters that ``rollouts_saved`` reads: groups, useful ones, and both of random slots."""
    right, tried = (_joined(headers, column, np.int64) for column in ("num_right", "num_tried"))
    useful = is_useful(right, tried)
    kinds, _ = _slots(selections, [prompt_id for header in headers for prompt_id in header.prompt_ids])
    random = kinds == SlotKind.RANDOM
    return {
        COST_GROUPS: float(len(useful)),
        COST_USEFUL_GROUPS: float(useful.sum()),
        COST_RANDOM_GROUPS: float(random.sum()),
        COST_USEFUL_RANDOM_GROUPS: float((useful & random).sum()),
    }


def rollouts_saved(counters: Mapping[str, float]) -> dict[str, float]:
    """``ROLLOUTS_SAVED`` of the run so far: rollouts * (share of useful groups / that of random slots - 1).

    Random slots are an even look at the pool, as uniform selection is, under the same policy. Nothing is said before
    there are 32 of them, one of them useful. The estimate leans on few groups: with n useful ones of random slots its
    error is some 100 / sqrt(n) percent of what uniform selection would have made.
    """
    groups, useful, random, useful_random, rollouts = (
        counters.get(name, 0.0)
        for name in (COST_GROUPS, COST_USEFUL_GROUPS, COST_RANDOM_GROUPS, COST_USEFUL_RANDOM_GROUPS, COST_ROLLOUTS)
    )
    if random < MIN_RANDOM_GROUPS or useful_random < 1:
        return {}
    return {ROLLOUTS_SAVED: rollouts * ((useful / groups) / (useful_random / random) - 1.0)}


def _by_slot(
    selections: Sequence[Selection], prompt_ids: Sequence[str], useful: Any, right: Any, tried: Any
) -> dict[str, float]:
    """What needs the selection's own view of each group: the kind of slot, and what it had predicted."""
    kinds, predicted = _slots(selections, prompt_ids)
    metrics: dict[str, float] = {}
    for kind, name in ((SlotKind.CHOSEN, USEFUL_RATIO_CHOSEN), (SlotKind.RANDOM, USEFUL_RATIO_RANDOM)):
        metrics |= _share(useful[kinds == kind].sum(), int(np.count_nonzero(kinds == kind)), name)
    known = np.isfinite(predicted) & (tried > 0)
    if known.any():
        metrics[PREDICTION_BIAS] = float((predicted[known] - right[known] / tried[known]).mean())
    return metrics


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file by ascending step; lines of one step are merged, values that are not finite left out.

    A last line without its newline is a write that a kill cut off, and is dropped. Raises DataError on any other line
    that is not an object with a step.
    """
    try:
        *lines, _unfinished = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read metrics: {error.strerror}; give the folder of a run") from error
    rows: dict[int, dict[str, float]] = {}
    old: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            step = int(row[STEP])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataError(
                f"{path}: line {number} is not a metrics object with a {STEP!r}; remove the line"
            ) from error
        old.update(RENAMED.keys() & row.keys())
        values = {RENAMED.get(k, k): v for k, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
        rows.setdefault(step, {}).update(values)
    if old:
        names = ", ".join(f"{name} is {RENAMED[name]} now" for name in sorted(old))
        print(f"{path}: written by an earlier version; {names}", file=sys.stderr)
    return [rows[step] for step in sorted(rows)]
