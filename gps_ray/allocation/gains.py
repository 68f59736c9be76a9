"""What the j-th sample of a prompt is worth before any is drawn.

Best of b with a verifier solves a prompt of success rate g with probability 1 - (1 - g)^b, so the j-th sample adds
g (1 - g)^(j-1) (Damani et al., arXiv 2410.04707). Under a posterior of g the expectation counts, not the value at the
mean: an uncertain prompt that failed j - 1 times is probably a hard one, and its gains fall faster. So allocation asks
the posterior (``Posterior.expected_gains``); ``rate_gains`` is for rates that are known, or taken for known.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray

__all__ = ["rate_gains"]


def rate_gains(rates: FloatArray, max_samples: int) -> FloatArray:
    """g (1 - g)^(j-1) for rates [..., N]: [..., N, J] with j = 1 .. J = ``max_samples``."""
    gains: FloatArray = rates[..., None] * (1.0 - rates[..., None]) ** np.arange(max_samples)
    return gains
