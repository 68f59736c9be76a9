"""Selectors over matched seeds as data: the contents of ``compare.json``.

The seed is the unit: every figure is a mean over seeds with its 95 % Student-t interval, every comparison is paired by
seed. Costs to target and accuracy at equal cost are those of ``gps_ray.study.paired``; the budget of "equal" is what
the baseline spent under the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.intervals import finite_or_none, json_estimate
from gps_ray.base.types import BoolArray
from gps_ray.base.useful import is_useful
from gps_ray.run.metrics import (
    COST_CPU_S,
    COST_ROLLOUTS,
    COST_TOKENS,
    COST_WALL_S,
    PROBES,
    TRAINING_PHASES,
    VAL_LEVEL,
    VAL_PASS_1,
)
from gps_ray.study.paired import (
    Crossing,
    accuracy_within,
    first_crossing,
    paired_difference,
    paired_ratio,
    smoothed,
    target_accuracy,
)
from gps_ray.study.report.run_data import RunData

__all__ = ["COSTS", "SUMMARY_COLUMNS", "summarise_seeds", "summary_rows"]

# Name in compare.json -> metric of the run.
COSTS = {"rollouts": COST_ROLLOUTS, "tokens": COST_TOKENS, "cpu_s": COST_CPU_S, "wall_s": COST_WALL_S}
_PROBE_FIGURES = ("spearman", "spearman_seen", "spearman_unseen", "ece", "useful_auc", "noise_ceiling")

# The baseline is not compared with itself.
_Runs = Mapping[str, Mapping[int, RunData]]


def summarise_seeds(runs: _Runs, baseline: str, *, serial: bool) -> dict[str, Any]:
    """``runs``: selector -> seed -> run. Only seeds that every selector has finished an evaluation of are compared.

    Raises DataError where there is no such seed, or the baseline is not among the selectors.
    """
    if baseline not in runs:
        raise DataError(f"baseline: expected one of {', '.join(runs)}, got {baseline!r}; name another baseline")
    seeds = [seed for seed in runs[baseline] if all(_evaluated(of_seed.get(seed)) for of_seed in runs.values())]
    if not seeds:
        raise DataError("expected at least one seed with an evaluation under every selector, got none")
    base = [runs[baseline][seed] for seed in seeds]
    return {
        "baseline": baseline,
        "seeds": seeds,
        "runs_one_after_the_other": serial,
        "config": base[0].config,
        "selectors": {name: _selector([of_seed[seed] for seed in seeds], base) for name, of_seed in runs.items()},
    }


def _evaluated(run: RunData | None) -> bool:
    return run is not None and len(run.series(VAL_PASS_1)[1]) > 0


def _selector(runs: Sequence[RunData], base: Sequence[RunData]) -> dict[str, Any]:
    figures = [_figures(run) for run in runs]
    names = dict.fromkeys(name for one in figures for name in one)
    targets = [target_accuracy(run.series(VAL_PASS_1)[1]) for run in base]
    ratios, equal = {}, {}
    for name, metric in COSTS.items():
        costs = _crossings(runs, targets, metric)
        base_costs = _crossings(base, targets, metric)
        ratios[f"{name}_to_target"] = _ratio(costs, base_costs)
        equal[f"accuracy_at_equal_{name}"] = _at_equal_cost(runs, base, metric)
    accuracy = [one["accuracy"] for one in figures]
    base_accuracy = [_figures(run)["accuracy"] for run in base]
    return {
        "charged": "oracle" not in (run.config.get("selection", {}).get("selector") for run in runs),
        "figures": {name: _over_seeds([one.get(name) for one in figures]) for name in names},
        "ratio_to_baseline": ratios,
        "difference_to_baseline": {"accuracy": _difference(accuracy, base_accuracy), **equal},
        "curves": [
            {
                "seed": run.config.get("run", {}).get("seed"),
                "step": run.series(VAL_PASS_1)[0].tolist(),
                **{name: _rounded(run.series(VAL_PASS_1, metric)[0]) for name, metric in COSTS.items()},
                "pass@1": _rounded(run.series(VAL_PASS_1)[1], 5),
            }
            for run in runs
        ],
    }


def _figures(run: RunData) -> dict[str, float | None]:
    """One run in numbers; None where it has no such number."""
    groups = run.groups
    useful = is_useful(groups.num_right, groups.num_tried)
    every = np.ones(len(useful), dtype=np.bool_)
    num_unique = len(set(groups.prompt_id))
    accuracy = run.series(VAL_PASS_1)[1]
    figures: dict[str, float | None] = {
        "accuracy": float(smoothed(accuracy)[-1]),
        "accuracy_at_start": float(accuracy[0]),
        "useful_group_ratio": _share(useful, every),
        "useful_group_ratio_chosen": _share(useful, ~groups.random_slot),
        "useful_group_ratio_random": _share(useful, groups.random_slot),
        "num_unique_prompts": float(num_unique),
        "groups_per_unique_prompt": len(useful) / num_unique if num_unique else None,
    }
    for name, metric in COSTS.items():
        figures[name] = run.last(metric)
    for phase in (*TRAINING_PHASES, "oracle"):
        figures[f"cpu_s_{phase}"] = run.last(f"cost/cpu_s_{phase}")
    figures["rollouts_oracle"] = run.last("cost/num_rollouts_oracle")
    for probe in PROBES:
        for figure in _PROBE_FIGURES:
            figures[f"{probe}_{figure}"] = run.last(f"predictor/{probe}_{figure}")
    figures["swap_test"] = run.last("predictor/swap_test")
    for metric in run.names(VAL_LEVEL):
        figures[f"accuracy_of_{metric.removeprefix(VAL_LEVEL)}"] = float(smoothed(run.series(metric)[1])[-1])
    return {name: value for name, value in figures.items() if value is not None and np.isfinite(value)}


def _share(useful: BoolArray, among: BoolArray) -> float | None:
    return float(np.mean(useful[among])) if among.any() else None


def _crossings(runs: Sequence[RunData], targets: Sequence[float], metric: str) -> list[Crossing]:
    found = []
    for run, target in zip(runs, targets, strict=True):
        cost, accuracy = run.series(VAL_PASS_1, metric)
        found.append(first_crossing(cost, accuracy, target))
    return found


def _ratio(costs: Sequence[Crossing], base: Sequence[Crossing]) -> dict[str, Any]:
    per_seed = {"costs": [c.cost for c in costs], "censored": [c.censored for c in costs]}
    if any(crossing.cost <= 0 for crossing in (*costs, *base)):
        return {"value": None, "low": None, "high": None, "num_censored": 0, **per_seed}
    ratio = paired_ratio(costs, base)
    return {
        "value": ratio.value,
        "low": finite_or_none(ratio.low),
        "high": finite_or_none(ratio.high),
        "num_censored": ratio.num_censored,
        **per_seed,
    }


def _at_equal_cost(runs: Sequence[RunData], base: Sequence[RunData], metric: str) -> dict[str, Any] | None:
    """Paired difference of the smoothed accuracy within what the baseline spent in all."""
    values, base_values = [], []
    for run, baseline in zip(runs, base, strict=True):
        cost, accuracy = baseline.series(VAL_PASS_1, metric)
        reached = accuracy_within(*run.series(VAL_PASS_1, metric), budget=float(cost[-1]))
        if reached is None:
            return None
        values.append(reached)
        base_values.append(float(smoothed(accuracy)[-1]))
    return _difference(values, base_values)


def _difference(values: Sequence[float | None], base: Sequence[float | None]) -> dict[str, Any]:
    left, right = np.array(values, np.float64), np.array(base, np.float64)
    return {**paired_difference(left, right).as_json(), "values": _rounded(left - right, 6)}


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    return {**json_estimate(values), "values": list(values)}


def _rounded(values: Any, digits: int = 2) -> list[float]:
    return [round(float(value), digits) for value in values]


SUMMARY_COLUMNS = (
    "selector",
    "accuracy",
    "difference, equal rollouts",
    "difference, equal CPU-s",
    "rollouts to target",
    "CPU-s to target",
    "useful, chosen",
    "useful, all",
    "unique prompts",
    "Spearman pool probe",
)


def summary_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per selector, for ``SUMMARY_COLUMNS``: means, brackets hold 95 % intervals over seeds."""
    rows = []
    for name, selector in summary["selectors"].items():
        figures, differences = selector["figures"], selector["difference_to_baseline"]
        ratios, itself = selector["ratio_to_baseline"], name == summary["baseline"]
        rows.append(
            [
                name if selector["charged"] else f"{name} (not charged)",
                _interval(figures.get("accuracy"), _percent),
                "-" if itself else _interval(differences["accuracy_at_equal_rollouts"], _points),
                "-" if itself else _interval(differences["accuracy_at_equal_cpu_s"], _points),
                "1" if itself else _ratio_cell(ratios["rollouts_to_target"]),
                "1" if itself else _ratio_cell(ratios["cpu_s_to_target"]),
                _mean(figures.get("useful_group_ratio_chosen"), _percent),
                _mean(figures.get("useful_group_ratio"), _percent),
                _mean(figures.get("num_unique_prompts"), lambda value: f"{value:,.0f}"),
                _mean(figures.get("pool_probe_spearman"), lambda value: f"{value:.2f}"),
            ]
        )
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _mean(figure: Mapping[str, Any] | None, write: Callable[[float], str]) -> str:
    return "-" if figure is None or figure["mean"] is None else write(figure["mean"])


def _interval(figure: Mapping[str, Any] | None, write: Callable[[float], str]) -> str:
    if figure is None or figure["mean"] is None:
        return "-"
    if figure["low"] is None:
        return write(figure["mean"])
    return f"{write(figure['mean'])} [{write(figure['low'])}, {write(figure['high'])}]"


def _ratio_cell(ratio: Mapping[str, Any]) -> str:
    """``0.61 [0.52, 0.72]``; ``(2 never)`` where runs never met the target and count with their whole budget."""
    if ratio["value"] is None:
        return "-"
    never = f" ({ratio['num_censored']} never)" if ratio["num_censored"] else ""
    if ratio["low"] is None or ratio["high"] is None:
        return f"{ratio['value']:.2f}{never}"
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]{never}"
