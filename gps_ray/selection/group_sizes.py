"""How many rollouts each prompt of a batch gets, at a fixed total.

The n-th rollout of a prompt with success rate g makes a group useful that was not so before with probability

    U(n) - U(n - 1) = E[g^(n-1) (1 - g) + (1 - g)^(n-1) g],     U(n) = E[1 - g^n - (1 - g)^n],

which falls in n, so that always taking the largest gain left maximises the expected number of useful groups. A prompt
near 1/2 is useful after a few rollouts; one that is seldom solved, or whose rate is not known, needs more.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.greedy import allocate
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.interface import Posterior

__all__ = ["group_sizes", "useful_gains"]

# A gain that rises by less than this does so by rounding alone: 3e-12 at a thousand counts, 6e-9 at a million.
_ROUNDING = 1e-6


def useful_gains(posterior: Posterior, largest: int, rng: np.random.Generator) -> FloatArray:
    """[N, J]: what the j-th rollout (j = 1 .. J = ``largest``) adds to the probability of a useful group.

    A group of one is never useful, so the first two count half of what they bring together.
    """
    useful = posterior.expected_useful(range(2, largest + 1), rng)
    first = useful[0] / 2
    gains = np.stack([first, first, *np.diff(useful, axis=0)], axis=1)
    # Several gains may be equal, and differences of probabilities round by more the more counts they come from.
    falling = np.minimum.accumulate(gains, axis=1)
    return np.where(gains - falling < _ROUNDING, falling, gains)


def group_sizes(posterior: Posterior, total: int, smallest: int, largest: int, rng: np.random.Generator) -> IntArray:
    """num_rollouts [N] int32, each between ``smallest`` (at least 2) and ``largest``, with sum ``total``.

    Raises ConfigError where the total does not fit between the bounds.
    """
    return allocate(useful_gains(posterior, largest, rng), total, smallest).astype(np.int32)
