"""A run folder without a run: a policy whose success rates are known and rise, a selector that sees them dimly.

Written through the same code as a real run (``RunFolder``, ``write_outcomes``, ``step_metrics``, ...), so that a report
test fails when either side changes its columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import (
    ChunkHeader,
    FloatArray,
    GroupOutcome,
    IntArray,
    PosteriorMoments,
    Prompt,
    RolloutSample,
    RolloutStatus,
    Selection,
    SlotKind,
)
from gps_ray.base.useful import is_useful, useful_probability
from gps_ray.config import TrainConfig
from gps_ray.loop.evaluation import evaluation_metrics, probe_metrics
from gps_ray.run.folder import RunFolder
from gps_ray.run.metrics import TRAINING_PHASES, step_metrics
from gps_ray.run.outcomes import write_outcomes
from gps_ray.run.segments import Segments

LEVELS = {"CD-2": 0.5, "CD-3": -1.2, "CD-4": -2.4, "CD-4 hard": -5.0}
HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202egnp\x00 $x^2$ \ud800"


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """What the run should look like. ``selector`` "uniform" picks at random and predicts nothing."""

    selector: str = "gps"
    seed: int = 0
    num_steps: int = 90
    num_planned: int = 90
    every_steps: int = 10
    probe_every_steps: int = 30
    num_pool: int = 400
    num_prompts: int = 32
    group_size: int = 8
    random_share: float = 0.25


@dataclass(slots=True)
class _Prompts:
    prompts: list[Prompt]
    logit: FloatArray

    def at(self, rows: IntArray) -> _Prompts:
        return _Prompts([self.prompts[i] for i in rows], self.logit[rows])

    def rates(self, skill: float) -> FloatArray:
        """True success rates [N] for a policy of that skill."""
        rates: FloatArray = 1 / (1 + np.exp(-self.logit - skill))
        return rates


@dataclass(slots=True)
class _Run:
    spec: Synthetic
    folder: RunFolder
    splits: dict[str, _Prompts]
    probes: dict[str, _Prompts]
    skill: float = 0.0
    seen: set[str] = field(default_factory=set)
    costs: dict[str, float] = field(default_factory=dict)

    def charge(self, name: str, value: float) -> None:
        self.costs[name] = self.costs.get(name, 0.0) + value


def write_synthetic_run(directory: Path, spec: Synthetic) -> Path:
    """Write the folder of a run that has made ``num_steps`` of ``num_planned`` steps; returns it."""
    splits = {
        name: _prompts(name, num)
        for name, num in (("pool", spec.num_pool), ("evaluation", 128), ("heldout_probe", 100))
    }
    folder = RunFolder(directory)
    config = TrainConfig.model_validate(
        {
            "run": {"directory": str(directory), "seed": spec.seed, "num_steps": spec.num_planned},
            "selection": {"selector": spec.selector, "num_prompts": spec.num_prompts},
            "data": {"countdown": {"num_pool_prompts": spec.num_pool}},
            "evaluation": {"num_probe_prompts": 0},
        }
    )
    folder.create(config, {name: split.prompts for name, split in splits.items()})
    probes = {
        "pool_probe": splits["pool"].at(np.arange(0, spec.num_pool, 4)),
        "heldout_probe": splits["heldout_probe"],
    }
    run = _Run(spec, folder, splits, probes)
    for step in range(spec.num_steps + 1):
        metrics = _train_step(run, step) if step else {}
        if step % spec.every_steps == 0 or step == spec.num_steps:
            metrics |= _evaluate(run, step)
        folder.metrics.append({"step": step, **metrics, **run.costs})
    return directory


def _prompts(split: str, num: int) -> _Prompts:
    rng = generator(0, f"synthetic/{split}")
    names = list(LEVELS)
    levels = [names[i] for i in rng.choice(len(names), size=num, p=[0.1, 0.25, 0.2, 0.45])]
    prompts = [
        Prompt(prompt_id=f"{split}-{i:04d}", text=f"Reach {i} from 3 5 7", answer="{}", task="countdown", level=level)
        for i, level in enumerate(levels)
    ]
    return _Prompts(prompts, np.array([LEVELS[level] for level in levels]) + rng.normal(0, 1.2, num))


def _predicted(run: _Run, prompts: _Prompts, step: int) -> FloatArray:
    """What a fair predictor would say: the logit under noise that shrinks with the steps."""
    rng = generator(run.spec.seed, "synthetic/prediction", step)
    noise = rng.normal(0, 1.8 / (1 + step / 20) + 0.5, len(prompts.logit))
    guess = _Prompts(prompts.prompts, 0.8 * prompts.logit + noise - 0.4)
    return guess.rates(run.skill)


def _selection(run: _Run, step: int) -> Selection:
    spec, pool = run.spec, run.splits["pool"]
    rng = generator(spec.seed, f"synthetic/{spec.selector}", step)
    num = min(spec.num_prompts, spec.num_pool)
    order = rng.permutation(spec.num_pool)
    predicted = np.full(spec.num_pool, np.nan)
    num_random = num
    if spec.selector != "uniform":
        predicted = _predicted(run, pool, step)
        num_random = int(num * spec.random_share)
        order[num_random:] = order[num_random:][np.argsort(np.abs(predicted[order[num_random:]] - 0.5))]
    rows = order[:num]
    kinds = np.where(np.arange(num) < num_random, SlotKind.RANDOM, SlotKind.CHOSEN)
    return Selection(
        step=step,
        round=0,
        prompt_ids=tuple(pool.prompts[i].prompt_id for i in rows),
        num_rollouts=np.full(num, spec.group_size, np.int32),
        predicted_mean=predicted[rows],
        predicted_std=np.full(num, 0.1),
        slot_kind=(kinds if spec.selector != "uniform" else np.full(num, SlotKind.CHOSEN)).astype(np.int8),
        num_candidates=spec.num_pool,
        expected_useful=useful_probability(predicted[rows], spec.group_size),
        text_mean=np.clip(predicted[rows] - 0.1, 0, 1),
        num_steps_observed=step - 1,
    )


def _outcomes(run: _Run, prompt_ids: tuple[str, ...], step: int) -> list[GroupOutcome]:
    pool = run.splits["pool"]
    rates = pool.rates(run.skill)
    rng = generator(run.spec.seed, "synthetic/rollout", step)
    outcomes = []
    for prompt_id in prompt_ids:
        right = rng.random(run.spec.group_size) < rates[int(prompt_id[-4:])]
        status = np.where(right, RolloutStatus.RIGHT, RolloutStatus.WRONG).astype(np.int8)
        if rng.random() < 0.01:
            status[0] = RolloutStatus.FAILED
        outcomes.append(
            GroupOutcome(
                prompt_id=prompt_id,
                policy_version=step - 1,
                rewards=(status == RolloutStatus.RIGHT).astype(np.float32),
                status=status,
                response_lengths=rng.integers(4, 13, run.spec.group_size).astype(np.int32),
            )
        )
    return outcomes


def header_of(outcomes: list[GroupOutcome], step: int, chunk_id: int = 0) -> ChunkHeader:
    """The header of one chunk that holds these groups."""
    failed = np.array([len(o.status) - o.num_tried for o in outcomes], np.int32)
    return ChunkHeader(
        chunk_id=chunk_id,
        step=step,
        stream="rollout",
        policy_version=step - 1,
        prompt_ids=tuple(o.prompt_id for o in outcomes),
        num_right=np.array([o.num_right for o in outcomes], np.int32),
        num_wrong=np.array([o.num_tried - o.num_right for o in outcomes], np.int32),
        num_failed=failed,
        num_truncated=np.zeros(len(outcomes), np.int32),
        num_response_tokens=np.array([o.response_lengths.sum() for o in outcomes], np.int32),
        reward_sum=np.array([o.rewards.sum() for o in outcomes], np.float32),
        cpu_s=1.0,
        wall_s=0.5,
    )


def _train_step(run: _Run, step: int) -> dict[str, float]:
    selection = _selection(run, step)
    outcomes = _outcomes(run, selection.prompt_ids, step)
    header = header_of(outcomes, step)
    write_outcomes(Segments(run.folder.outcomes), step, outcomes, [selection])
    run.seen |= set(selection.prompt_ids)
    useful = float(is_useful(header.num_right, header.num_tried).mean())
    run.skill += 0.03 * useful
    metrics = step_metrics([header], [selection], selection.prompt_ids)
    run.charge("cost/num_rollouts", metrics["rollout/num_rollouts"])
    run.charge("cost/num_tokens", metrics["rollout/num_tokens"])
    predicts = run.spec.selector != "uniform"
    seconds = {"rollout": 0.55, "update": 0.1 + 0.8 * useful, "selector": 0.08 if predicts else 0.01}
    for phase in TRAINING_PHASES:
        run.charge(f"cost/cpu_s_{phase}", seconds[phase])
    run.costs["cost/cpu_s"] = sum(run.costs[f"cost/cpu_s_{phase}"] for phase in TRAINING_PHASES)
    run.charge("cost/wall_s", 0.1 + sum(seconds.values()))
    if step % 10 == 1 or step == run.spec.num_steps:
        run.folder.write_samples(step, _samples(outcomes))
    rng = generator(run.spec.seed, "synthetic/learner", step)
    metrics |= {
        f"timing_s/{phase}": s for phase, s in zip(("rollout", "update", "select"), seconds.values(), strict=True)
    }
    metrics |= {"timing_s/weights": 0.05, "timing_s/step": 0.1 + sum(seconds.values())}
    metrics |= {f"train/{name}": float(rng.normal(1, 0.1)) for name in ("loss", "grad_norm", "clip_ratio")}
    if predicts:
        metrics |= {"predictor/elbo": -5 + step / 50, "predictor/swap_test": 0.02 + step / 2000}
    return metrics


def _samples(outcomes: list[GroupOutcome]) -> list[RolloutSample]:
    return [
        RolloutSample(
            prompt_id=outcome.prompt_id,
            prompt_text=f"Reach {outcome.prompt_id} from 3 5 7 with + - *",
            response_text=HOSTILE if i == 0 else f"{i} + {outcome.num_right} * 7",
            reward=float(outcome.rewards[-1]),
            status=RolloutStatus(int(outcome.status[-1])),
        )
        for i, outcome in enumerate(outcomes[:12])
    ]


def _count(run: _Run, prompts: _Prompts, stream: str, num_rollouts: int, step: int) -> tuple[IntArray, IntArray]:
    rates = prompts.rates(run.skill)
    right = generator(run.spec.seed, f"synthetic/{stream}", step).binomial(num_rollouts, rates).astype(np.int32)
    name = "evaluation" if stream == "evaluation" else "probe"
    run.charge(f"cost/num_rollouts_{name}", len(rates) * num_rollouts)
    run.charge(f"cost/cpu_s_{name}", 0.4 * len(rates) * num_rollouts / 256)
    return right, np.full(len(rates), num_rollouts, np.int32)


def _evaluate(run: _Run, step: int) -> dict[str, float]:
    evaluation = run.splits["evaluation"]
    right, tried = _count(run, evaluation, "evaluation", 4, step)
    metrics = evaluation_metrics(right, tried, np.zeros_like(tried), [p.level for p in evaluation.prompts])
    metrics["timing_s/evaluation"] = 0.8
    if step % run.spec.probe_every_steps and step != run.spec.num_steps:
        return metrics
    for name, probe in run.probes.items():
        prediction = None
        if run.spec.selector != "uniform":
            prediction = PosteriorMoments(
                mean=_predicted(run, probe, step),
                std=np.full(len(probe.logit), 0.1),
                seen=np.array([p.prompt_id in run.seen for p in probe.prompts]),
            )
        right, tried = _count(run, probe, name, 16, step)
        run.folder.write_probe(step, name, probe.prompts, prediction, right, tried)
        if prediction is not None:
            metrics |= probe_metrics(name, prediction, right, tried, run.spec.group_size)
    return metrics
