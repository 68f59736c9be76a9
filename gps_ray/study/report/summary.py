"""Arms of a comparison over matched seeds as data: what the table, ``compare.json`` and the page are made of.

The seed is the unit: every figure is a mean over seeds with its 95 % Student-t interval, every comparison is paired by
seed. One seed is N = 1 of the same: its figures have no interval. Costs to target and accuracy at equal cost are those
of ``gps_ray.study.paired``; the budget of "equal" is what the baseline spent under the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.intervals import Estimate
from gps_ray.base.types import FloatArray
from gps_ray.run.metrics import (
    COST_CPU_S,
    COST_ROLLOUTS,
    COST_TOKENS,
    COST_WALL_S,
    PROBES,
    TRAINING_PHASES,
    VAL_LEVEL,
    VAL_PASS_1,
    VAL_PASS_1_HIGH,
    VAL_PASS_1_LOW,
)
from gps_ray.study.over_seeds import OverSeeds, estimate_as_json, over_seeds
from gps_ray.study.paired import Crossing, accuracy_within, first_crossing, paired_ratio, smoothed, target_accuracy
from gps_ray.study.report.run_data import RunData

__all__ = ["COSTS", "ArmSummary", "ComparisonSummary", "CostToTarget", "as_json", "summarise"]

# What a run is charged, by name in the summary: the metric.
COSTS = {"rollouts": COST_ROLLOUTS, "tokens": COST_TOKENS, "cpu_s": COST_CPU_S, "wall_s": COST_WALL_S}
_PROBE_FIGURES = ("spearman", "spearman_seen", "spearman_unseen", "ece", "useful_auc", "noise_ceiling")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostToTarget:
    """What each seed paid to reach the baseline's accuracy, and the geometric mean of the ratios to the baseline; null
    where a cost is 0, which has no ratio."""

    by_seed: tuple[Crossing, ...]
    ratio: Estimate | None

    @property
    def num_never(self) -> int:
        """Runs that did not get there: they count with their whole budget."""
        return sum(crossing.censored for crossing in self.by_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm. What no run of it has is absent from the mappings. ``num_evaluations``: of each seed's run.

    ``figures``: accuracy (pass@1, mean of the last three evaluations, of all where there are fewer), accuracy_at_start
    and final_accuracy (the first and the newest one; their intervals over prompts in ..._low, _high),
    useful_group_ratio (_chosen, _random slots), num_unique_prompts, the costs and the CPU-seconds by phase, what the
    newest probes say of the predictor, accuracy_of_LEVEL.
    ``cost_to_target``: by name of ``COSTS``. ``difference``: arm minus baseline of accuracy, and of
    accuracy_at_equal_COST.
    """

    name: str
    charged: bool
    num_evaluations: tuple[int, ...]
    figures: Mapping[str, OverSeeds]
    cost_to_target: Mapping[str, CostToTarget]
    difference: Mapping[str, OverSeeds]

    def estimate(self, figure: str) -> Estimate | None:
        found = self.figures.get(figure)
        return None if found is None else found.estimate

    @property
    def label(self) -> str:
        return self.name if self.charged else f"{self.name} (not charged)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSummary:
    """Arms in the order given; ``targets``: the baseline's smoothed final pass@1 by seed, empty before its first
    evaluation; ``serial``: runs had the machine to themselves, null where that is not known."""

    baseline: str
    seeds: tuple[int, ...]
    serial: bool | None
    targets: tuple[float, ...]
    arms: tuple[ArmSummary, ...]

    @property
    def baseline_arm(self) -> ArmSummary:
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def target(self) -> float | None:
        """Mean over seeds."""
        return float(np.mean(self.targets)) if self.targets else None


def summarise(
    runs: Mapping[str, Mapping[int, RunData]], baseline: str, *, serial: bool | None = None
) -> ComparisonSummary:
    """``runs``: arm -> seed -> run. Compared are the seeds with an evaluation under every arm; where there is none yet,
    those that every arm has, and what needs evaluations is absent.

    Raises DataError where the arms share no seed.
    """
    shared = [seed for seed in runs[baseline] if all(seed in of_seed for of_seed in runs.values())]
    if not shared:
        raise DataError("expected at least one seed with a run under every arm, got none; run all arms under one seed")
    evaluated = [seed for seed in shared if all(len(_accuracy(of_seed[seed])) for of_seed in runs.values())]
    seeds = evaluated or shared
    base = [runs[baseline][seed] for seed in seeds]
    targets = [target_accuracy(_accuracy(run)) for run in base if len(_accuracy(run))]
    return ComparisonSummary(
        baseline=baseline,
        seeds=tuple(seeds),
        serial=serial,
        targets=tuple(targets),
        arms=tuple(_arm(name, [of_seed[seed] for seed in seeds], base, targets) for name, of_seed in runs.items()),
    )


def as_json(summary: ComparisonSummary) -> dict[str, Any]:
    """The contents of ``compare.json``. ``costs`` of a ratio are those of each seed, ``never`` the seeds that did not
    get there."""
    return {
        "baseline": summary.baseline,
        "seeds": list(summary.seeds),
        "runs_one_after_the_other": summary.serial,
        "arms": {
            arm.name: {
                "charged": arm.charged,
                "figures": {name: figure.as_json() for name, figure in arm.figures.items()},
                "ratio_to_baseline": {
                    f"{name}_to_target": {
                        **estimate_as_json(cost.ratio),
                        "costs": [crossing.cost for crossing in cost.by_seed],
                        "never": [s for s, c in zip(summary.seeds, cost.by_seed, strict=True) if c.censored],
                    }
                    for name, cost in arm.cost_to_target.items()
                },
                "difference_to_baseline": {name: figure.as_json() for name, figure in arm.difference.items()},
            }
            for arm in summary.arms
        },
    }


def _accuracy(run: RunData) -> FloatArray:
    return run.series(VAL_PASS_1)[1]


def _arm(name: str, runs: Sequence[RunData], base: Sequence[RunData], targets: Sequence[float]) -> ArmSummary:
    by_run = [_figures(run) for run in runs]
    names = dict.fromkeys(figure for figures in by_run for figure in figures)
    to_target = {cost: _cost_to_target(runs, base, targets, metric) for cost, metric in COSTS.items()}
    difference = {"accuracy": _difference(_last_accuracies(runs), _last_accuracies(base))}
    for cost, metric in COSTS.items():
        difference[f"accuracy_at_equal_{cost}"] = _at_equal_cost(runs, base, metric)
    return ArmSummary(
        name=name,
        charged=all(run.setting("selection", "selector") != "oracle" for run in runs),
        num_evaluations=tuple(len(_accuracy(run)) for run in runs),
        figures={figure: over_seeds([figures.get(figure) for figures in by_run]) for figure in names},
        cost_to_target={cost: found for cost, found in to_target.items() if found is not None},
        difference={figure: found for figure, found in difference.items() if found is not None},
    )


def _figures(run: RunData) -> dict[str, float]:
    """One run in numbers, without those that it does not have."""
    groups, accuracy = run.groups, _accuracy(run)
    first_low, first_high = (run.series(bound)[1] for bound in (VAL_PASS_1_LOW, VAL_PASS_1_HIGH))
    figures: dict[str, float | None] = {
        "accuracy": _last_smoothed(accuracy),
        "accuracy_at_start": float(accuracy[0]) if len(accuracy) else None,
        "accuracy_at_start_low": float(first_low[0]) if len(first_low) else None,
        "accuracy_at_start_high": float(first_high[0]) if len(first_high) else None,
        "final_accuracy": run.last(VAL_PASS_1),
        "final_accuracy_low": run.last(VAL_PASS_1_LOW),
        "final_accuracy_high": run.last(VAL_PASS_1_HIGH),
        "useful_group_ratio": groups.useful_share(),
        "useful_group_ratio_chosen": groups.useful_share(~groups.random_slot),
        "useful_group_ratio_random": groups.useful_share(groups.random_slot),
        "num_unique_prompts": groups.num_unique_prompts or None,
    }
    for cost, metric in COSTS.items():
        figures[cost] = run.last(metric)
    for phase in (*TRAINING_PHASES, "oracle"):
        figures[f"cpu_s_{phase}"] = run.last(f"cost/cpu_s_{phase}")
    figures["rollouts_oracle"] = run.last("cost/num_rollouts_oracle")
    for probe in PROBES:
        for figure in _PROBE_FIGURES:
            figures[f"{probe}_{figure}"] = run.last(f"predictor/{probe}_{figure}")
    figures["swap_test"] = run.last("predictor/swap_test")
    for metric in run.names(VAL_LEVEL):
        figures[f"accuracy_of_{metric.removeprefix(VAL_LEVEL)}"] = _last_smoothed(run.series(metric)[1])
    return {name: value for name, value in figures.items() if value is not None and np.isfinite(value)}


def _last_smoothed(accuracy: FloatArray) -> float | None:
    return float(smoothed(accuracy)[-1]) if len(accuracy) else None


def _last_accuracies(runs: Sequence[RunData]) -> list[float | None]:
    return [_last_smoothed(_accuracy(run)) for run in runs]


def _cost_to_target(
    runs: Sequence[RunData], base: Sequence[RunData], targets: Sequence[float], metric: str
) -> CostToTarget | None:
    """None where there is no target yet, or a run has no evaluation with such a cost."""
    curves = [run.series(VAL_PASS_1, metric) for run in runs]
    base_curves = [run.series(VAL_PASS_1, metric) for run in base]
    if len(targets) < len(runs) or not all(len(cost) for cost, _ in (*curves, *base_curves)):
        return None
    costs = [first_crossing(*curve, target) for curve, target in zip(curves, targets, strict=True)]
    base_costs = [first_crossing(*curve, target) for curve, target in zip(base_curves, targets, strict=True)]
    has_ratio = all(crossing.cost > 0 for crossing in (*costs, *base_costs))
    return CostToTarget(by_seed=tuple(costs), ratio=paired_ratio(costs, base_costs) if has_ratio else None)


def _at_equal_cost(runs: Sequence[RunData], base: Sequence[RunData], metric: str) -> OverSeeds | None:
    """Paired difference of the smoothed accuracy within what the baseline spent in all; None where a run has none."""
    reached: list[float | None] = []
    for run, baseline in zip(runs, base, strict=True):
        cost, _ = baseline.series(VAL_PASS_1, metric)
        reached.append(accuracy_within(*run.series(VAL_PASS_1, metric), float(cost[-1])) if len(cost) else None)
    return _difference(reached, _last_accuracies(base))


def _difference(values: Sequence[float | None], base: Sequence[float | None]) -> OverSeeds | None:
    """Arm minus baseline, paired by seed; None where a value is missing: the others would be another comparison."""
    pairs = [(x, y) for x, y in zip(values, base, strict=True) if x is not None and y is not None]
    return over_seeds([x - y for x, y in pairs]) if len(pairs) == len(values) else None
