"""Acquisitions: from a posterior of success rates to one score per candidate.

An acquisition sees only the posterior, so that any of them goes with any predictor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import FloatArray
from gps_ray.predictor.interface import CostedPosterior, Posterior, TeachingPosterior

__all__ = [
    "ACQUISITIONS",
    "NEEDS_LENGTHS",
    "THRESHOLD",
    "Acquisition",
    "learning_progress",
    "nearest_half",
    "reward_variance",
    "sampled",
    "thompson_nearest_half",
    "thompson_paced",
    "thompson_threshold",
    "useful_group",
    "useful_per_token",
    "with_random_ties",
]

# (posterior of N prompts, group size G, keyed generator) -> scores [N] float64, higher is better.
Acquisition = Callable[[Posterior, int, np.random.Generator], FloatArray]

# What a score of 0 counts as where prompts are drawn by their scores.
_SMALLEST_SCORE = 1e-6

# Success rates that MoPPS's threshold rule accepts.
THRESHOLD = (0.3, 0.7)


def nearest_half(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = -(E[g] - 1/2)^2 (GPS, arXiv 2602.01970): the mean alone, blind to uncertainty."""
    score: FloatArray = -((posterior.mean() - 0.5) ** 2)
    return score


def useful_group(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = E[1 - g^G - (1 - g)^G] under the whole posterior: the expected probability of a useful group.

    A single response is no group, and all scores would be 0. It is compared with what was expected of the prompt, and
    the mean of |reward - g| is 2 g (1 - g): the u of a group of two.
    """
    score: FloatArray = posterior.expected_useful((max(group_size, 2),), rng)[0]
    return score


def with_random_ties(acquisition: Acquisition) -> Acquisition:
    """The acquisition with exact ties in random order, for posteriors that give all prompts without outcomes the same
    value (Beta counts, DPS), where the lowest row would always win. The order is worth at most 1e-9."""

    def shuffled(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
        scores = acquisition(posterior, group_size, rng)
        return scores + 1e-9 * rng.random(len(scores))

    return shuffled


def sampled(acquisition: Acquisition, exponent: float) -> Acquisition:
    """Prompts drawn without replacement with probability ~ score ** exponent, in place of the best by rank.

    As scores: exponent * log(score) plus Gumbel noise, whose top B are such a draw (Gumbel top-k, arXiv 1903.06059),
    all divided by the exponent, so that the diversity terms weigh against a relative gain of the score. Large exponents
    approach the ranking. A ranking takes everything from whichever kind of prompt has the best odds, however small its
    lead; a draw gives every kind its share, and what is trained on now and then is not forgotten.

    Raises ConfigError where a score is negative: only probabilities, like those of ``useful_group``, can be drawn by.
    """

    def drawn(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
        scores = acquisition(posterior, group_size, rng)
        if scores.min(initial=0.0) < 0:
            raise ConfigError(
                "selection.sampling_exponent: prompts can be drawn only by scores of 0 and more, got "
                f"{scores.min():.3g}; set selection.acquisition=useful_group, or selection.sampling_exponent=null"
            )
        keys: FloatArray = np.log(np.maximum(scores, _SMALLEST_SCORE)) + rng.gumbel(size=len(scores)) / exponent
        return keys

    return drawn


def thompson_nearest_half(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = -(g' - 1/2)^2 for one draw g' of the posterior (MoPPS ``topk``, arXiv 2507.04632)."""
    draw = posterior.sample(1, rng)[0]
    score: FloatArray = -((draw - 0.5) ** 2)
    return score


def thompson_threshold(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """Draws inside [0.3, 0.7] first, in random order, then by their distance from it (MoPPS ``threshold``)."""
    low, high = THRESHOLD
    draw = posterior.sample(1, rng)[0]
    distance = np.maximum(low - draw, draw - high)
    score: FloatArray = np.where(distance <= 0, rng.random(len(draw)), -distance)
    return score


def thompson_paced(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = -(arcsin sqrt(g') - arcsin sqrt(target))^2 for one draw g' of the posterior (ARCUS, arXiv 2609.38018).

    The target goes from 1/2 where nothing is solved to 3/4 where all is: 1/2 plus a quarter of the mean predicted rate.
    The paper has a paced target above 1/2; this pace is ours.
    """
    mean = posterior.mean()
    target = 0.5 + 0.25 * float(mean.sum()) / max(len(mean), 1)
    draw = posterior.sample(1, rng)[0]
    score: FloatArray = -((np.arcsin(np.sqrt(draw)) - np.arcsin(np.sqrt(target))) ** 2)
    return score


def learning_progress(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = E[1 - g^G - (1 - g)^G] times what a useful group of this kind of prompt still teaches (``LearningProgress``).

    Raises ConfigError where the predictor keeps no such account.
    """
    yields = posterior.yields if isinstance(posterior, TeachingPosterior) else None
    if yields is None:
        raise ConfigError(
            "selection.acquisition: learning_progress needs a predictor that follows what it teaches, got none; set "
            "selection.predictor=fused, or another selection.acquisition"
        )
    return yields * useful_group(posterior, group_size, rng)


def useful_per_token(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = E[1 - g^G - (1 - g)^G] / c: useful groups per token in place of per group, where answers differ in length.

    c: the tokens that a response is expected to cost (``selection.overhead_tokens`` among them) over their mean, so
    that scores keep the scale of ``useful_group``, against which diversity weighs. Before the first response all cost
    the same. Raises ConfigError where nobody says what responses cost.
    """
    if not isinstance(posterior, CostedPosterior):
        raise ConfigError(
            "selection.acquisition: useful_per_token needs a selector that says what responses cost, got none; set "
            "another selection.acquisition"
        )
    useful = useful_group(posterior, group_size, rng)
    tokens = posterior.expected_tokens()
    return useful * tokens.mean() / tokens if len(tokens) else useful


def reward_variance(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = E[g (1 - g)], the expected variance of a reward of 0 or 1 (MaPP, arXiv 2609.34990)."""
    mean = posterior.mean()
    score: FloatArray = mean - mean**2 - posterior.variance()
    return score


ACQUISITIONS: dict[str, Acquisition] = {
    "nearest_half": nearest_half,
    "useful_group": useful_group,
    "nearest_half_shuffled": with_random_ties(nearest_half),
    "useful_group_shuffled": with_random_ties(useful_group),
    "thompson_nearest_half": thompson_nearest_half,
    "thompson_threshold": thompson_threshold,
    "thompson_paced": thompson_paced,
    "learning_progress": learning_progress,
    "useful_per_token": useful_per_token,
    "useful_per_token_shuffled": with_random_ties(useful_per_token),
    "reward_variance": reward_variance,
    "reward_variance_shuffled": with_random_ties(reward_variance),
}

# Those that mean nothing where nobody tells the selector how long responses were.
NEEDS_LENGTHS = frozenset(("useful_per_token", "useful_per_token_shuffled"))
