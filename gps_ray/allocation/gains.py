"""What the j-th sample of a prompt is worth before any is drawn.

Best of b with a verifier solves a prompt of success rate g with probability 1 - (1 - g)^b, so the j-th sample adds
g (1 - g)^(j-1) (Damani et al., arXiv 2410.04707). Under a posterior of g the expectation counts, not the value at the
mean: an uncertain prompt that failed j - 1 times is probably a hard one, and its gains fall faster.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.predictor.interface import Posterior

__all__ = ["NUM_DRAWS", "expected_gains", "rate_gains"]

# Draws where the posterior has no closed form: standard error of a gain at most .25 / sqrt(512) = .011.
NUM_DRAWS = 512


def rate_gains(rates: FloatArray, max_samples: int) -> FloatArray:
    """g (1 - g)^(j-1) for rates [..., N]: [..., N, J] with j = 1 .. J = ``max_samples``."""
    gains: FloatArray = rates[..., None] * (1.0 - rates[..., None]) ** np.arange(max_samples)
    return gains


def expected_gains(
    posterior: Posterior, max_samples: int, rng: np.random.Generator, num_draws: int = NUM_DRAWS
) -> FloatArray:
    """E[g (1 - g)^(j-1)] [N, J] under any posterior, falling in j.

    Taken from the posterior's own ``expected_gains(max_samples)`` where it has that method (a closed form), else as the
    mean over ``num_draws`` draws of ``rng``, the same for all j, so that the gains fall exactly.
    """
    closed_form = getattr(posterior, "expected_gains", None)
    if closed_form is not None:
        return np.asarray(closed_form(max_samples), dtype=np.float64)
    rates = posterior.sample(num_draws, rng)
    gains = np.empty((rates.shape[1], max_samples))
    failed_before = np.ones_like(rates)
    for j in range(max_samples):
        gains[:, j] = (rates * failed_before).mean(axis=0)
        failed_before *= 1.0 - rates
    return gains
