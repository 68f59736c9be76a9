"""How good is the policy (pass@k), and how good is the predictor (probe sets).

Intervals are Student-t over prompts (``gps_ray.base.intervals``), the unit that was drawn. A prompt's value already
carries the noise of its own rollouts, so the interval covers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.intervals import Estimate, mean_estimate
from gps_ray.base.types import ChunkHeader, FloatArray, IntArray, PosteriorMoments, StatedAnswer
from gps_ray.loop.suites import Suite
from gps_ray.loop.voting import maj_at_k
from gps_ray.predictor.calibration import predictor_quality

__all__ = [
    "MIN_PROBE_PROMPTS",
    "Counts",
    "avg_at_k",
    "collect_counts",
    "evaluation_metrics",
    "pass_at_k",
    "powers_of_two",
    "probe_metrics",
    "reported_ks",
    "success_estimate",
    "suite_metrics",
    "vote_estimate",
]

MIN_PROBE_PROMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Verdicts per prompt, num_right, num_tried (with a verdict) and num_failed (without) [N] int32, and the cost
    of the ``num_rollouts`` that were made.

    ``answers`` [N] is what the responses state, where that was asked and the verifier says it of all, else (). A group
    that could not be made states nothing. ``worker_s`` are the rollout workers' wall seconds together.
    """

    num_right: IntArray
    num_tried: IntArray
    num_failed: IntArray
    num_rollouts: int
    num_tokens: int
    cpu_s: float
    worker_s: float = 0.0
    num_truncated: int = 0
    answers: tuple[tuple[StatedAnswer, ...], ...] = ()


def collect_counts(prompt_ids: Sequence[str], headers: Sequence[ChunkHeader], rollouts_per_prompt: int) -> Counts:
    """Counts in the order of ``prompt_ids`` [N] from the chunks that were asked for them.

    A group that could not be made tried 0, and counts as ``rollouts_per_prompt`` responses without a verdict: left out,
    it would make the score a better one.
    """
    row = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
    num_right, num_tried, num_failed = (np.zeros(len(row), np.int32) for _ in range(3))
    answers: list[tuple[StatedAnswer, ...]] = [()] * len(row)
    for header in headers:
        for prompt_id, stated in zip(header.prompt_ids, header.answers, strict=False):
            answers[row[prompt_id]] = stated
        rows = [row[prompt_id] for prompt_id in header.prompt_ids]
        num_right[rows] = header.num_right
        num_tried[rows] = header.num_tried
        num_failed[rows] = header.num_failed
    num_rollouts = int(num_tried.sum() + num_failed.sum())
    num_failed[[row[failure.prompt_id] for header in headers for failure in header.failures]] = rollouts_per_prompt
    return Counts(
        num_right=num_right,
        num_tried=num_tried,
        num_failed=num_failed,
        num_rollouts=num_rollouts,
        num_tokens=sum(int(h.num_response_tokens.sum()) for h in headers),
        cpu_s=sum(h.cpu_s for h in headers),
        worker_s=sum(h.wall_s for h in headers),
        num_truncated=sum(int(h.num_truncated.sum()) for h in headers),
        answers=tuple(answers) if _all_say(answers) else (),
    )


def _all_say(answers: Sequence[Sequence[StatedAnswer]]) -> bool:
    """Did some response come back, and does the verifier say of every one what it states?"""
    return any(answers) and all(answer is not None for row in answers for answer, _ in row)


def pass_at_k(num_right: IntArray, num_tried: IntArray, k: int) -> FloatArray:
    """Unbiased estimate per prompt [N] that at least one of k responses is right.

    ``1 - C(n - c, k) / C(n, k)`` with c = num_right [N] of n = num_tried [N] (Chen et al., arXiv 2107.03374, eq. 1),
    as the product over the last k tries: ``1 - prod_{j = n-k+1 .. n} (1 - c / j)``. NaN where n < k: fewer tries than k
    cannot be unbiased.
    """
    if k < 1:
        raise ValueError(f"pass@k needs k >= 1, got {k}")
    right, tried = np.asarray(num_right, np.float64), np.asarray(num_tried, np.float64)
    _check_counts(right, tried)
    last_tries = tried[:, None] - np.arange(k)
    with np.errstate(divide="ignore", invalid="ignore"):
        all_wrong = np.clip(1.0 - right[:, None] / last_tries, 0.0, 1.0).prod(axis=1)
    estimate: FloatArray = np.where(tried >= k, 1.0 - all_wrong, np.nan)
    return estimate


def avg_at_k(num_right: IntArray, num_tried: IntArray) -> FloatArray:
    """Share of right responses per prompt [N] (avg@k for k = num_tried tries); NaN where nothing was tried.

    Equal to pass@1: k tries only lower its noise.
    """
    return pass_at_k(num_right, num_tried, 1)


def success_estimate(num_right: IntArray, num_tried: IntArray, k: int) -> Estimate:
    """pass@k over the prompts with at least k verdicts. Raises DataError where no prompt has that many."""
    values = pass_at_k(num_right, num_tried, k)
    known = values[np.isfinite(values)]
    if not len(known):
        raise DataError(
            f"pass@{k} needs a prompt with at least {k} verdicts, the most is {int(np.max(num_tried, initial=0))}; "
            f"raise evaluation.rollouts_per_prompt to {k} or look why rollouts fail"
        )
    return mean_estimate(known, bounds=(0.0, 1.0))


def powers_of_two(largest: int) -> list[int]:
    """The k that are reported: 1, 2, 4, ... up to ``largest``."""
    return [1 << i for i in range(max(largest, 0).bit_length())]


def evaluation_metrics(
    num_right: IntArray, num_tried: IntArray, num_failed: IntArray, levels: Sequence[str], prefix: str = "val/"
) -> dict[str, float]:
    """Metrics from counts [N] and levels [N], names behind ``prefix``: pass@k with its interval, pass@1 by level.

    A response without a verdict counts as not solved, so that fewer verdicts never make a better score.
    k = 1, 2, 4, ... goes up to the most verdicts that half of the prompts have. Nothing but the number of prompts where
    no prompt has any.
    """
    judged = np.asarray(num_tried) > 0
    metrics: dict[str, float] = {
        f"{prefix}num_prompts": int(judged.sum()),
        f"{prefix}num_failed": int(np.sum(num_failed)),
    }
    tried = np.asarray(num_tried) + np.asarray(num_failed)
    if not judged.any():
        return metrics
    for k in reported_ks(tried):
        metrics |= _with_ends(f"{prefix}pass@{k}", success_estimate(num_right, tried, k))
    return metrics | _by_label(f"{prefix}pass@1/level/", avg_at_k(num_right, tried), levels)


def suite_metrics(suite: Suite, counts: Counts) -> dict[str, float]:
    """``evaluation_metrics`` of a suite, and what else is known of its responses: maj@k where the verifier says what
    they state, pass@1 by source where there are several, the share cut off, tokens."""
    levels, sources = ([getattr(p, what) for p in suite.prompts] for what in ("level", "task"))
    metrics = evaluation_metrics(counts.num_right, counts.num_tried, counts.num_failed, levels, suite.prefix)
    tried = counts.num_tried + counts.num_failed
    if not counts.num_tried.any():
        return metrics
    for k in reported_ks(tried)[1:]:
        estimate = vote_estimate(counts, k)
        metrics |= {} if estimate is None else _with_ends(f"{suite.prefix}maj@{k}", estimate)
    if len(set(sources)) > 1:
        metrics |= _by_label(f"{suite.prefix}pass@1/source/", avg_at_k(counts.num_right, tried), sources)
    metrics[f"{suite.prefix}truncated_ratio"] = counts.num_truncated / counts.num_rollouts
    metrics[f"{suite.prefix}response_length"] = counts.num_tokens / counts.num_rollouts
    return metrics


def reported_ks(tried: IntArray) -> list[int]:
    """1, 2, 4, ... up to the responses that half of the prompts with any have; tried [N] with those without verdict."""
    return powers_of_two(int(np.median(tried[tried > 0])))


def vote_estimate(counts: Counts, k: int) -> Estimate | None:
    """maj@k over the prompts with at least k responses; None where the verifier does not say what they state."""
    values = maj_at_k(counts.answers, k)
    known = values[np.isfinite(values)]
    return mean_estimate(known, bounds=(0.0, 1.0)) if len(known) else None


def _with_ends(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}


def _by_label(name: str, rates: FloatArray, labels: Sequence[str]) -> dict[str, float]:
    """Mean of the known rates [N] by label [N]; prompts without a label, and labels without a rate, have none."""
    of_label = np.asarray(labels, dtype=object)
    parts = {label: rates[np.isfinite(rates) & (of_label == label)] for label in sorted(set(labels) - {""})}
    return {name + label: float(part.mean()) for label, part in parts.items() if len(part)}


def probe_metrics(
    probe: str, posterior: PosteriorMoments, num_right: IntArray, num_tried: IntArray, group_size: int
) -> dict[str, float]:
    """Predicted [N] against realised success (num_right of num_tried [N]) on one probe set.

    Keys ``predictor/{probe}_{quantity}`` for the whole set, with ``_seen`` and ``_unseen`` behind it for the prompts
    with and without outcomes of their own. Prompts without any verdict are left out; a part with fewer than two
    prompts, and a quantity that is undefined there, has no key.
    """
    right, tried, seen = np.asarray(num_right), np.asarray(num_tried), np.asarray(posterior.seen, bool)
    judged = tried > 0
    metrics: dict[str, float] = {f"predictor/{probe}_num_seen": int((judged & seen).sum())}
    for suffix, part in (("", judged), ("_seen", judged & seen), ("_unseen", judged & ~seen)):
        if np.count_nonzero(part) < MIN_PROBE_PROMPTS:
            continue
        quality = predictor_quality(posterior.mean[part], right[part], tried[part], group_size)
        metrics |= {f"predictor/{probe}_{k}{suffix}": float(v) for k, v in quality.items() if np.isfinite(v)}
    return metrics


def _check_counts(right: FloatArray, tried: FloatArray) -> None:
    if right.shape != tried.shape or right.ndim != 1:
        raise ValueError(f"expected num_right [N] and num_tried [N], got shapes {right.shape} and {tried.shape}")
    if np.any(right < 0) or np.any(right > tried):
        raise ValueError("expected 0 <= num_right <= num_tried for every prompt")
