"""A posterior of success rates, and beside it what responses will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.predictor.interface import Posterior, TeachingPosterior

__all__ = ["Costed"]


class Costed:
    """``posterior`` itself (``Posterior``, ``TeachingPosterior``), with ``expected_tokens`` (``CostedPosterior``).

    ``tokens()`` gives those [N]; it is called where an acquisition asks, as of a large pool lengths cost about what the
    success rates do.
    """

    def __init__(self, posterior: Posterior, tokens: Callable[[], FloatArray]) -> None:
        self._posterior = posterior
        self._tokens = tokens
        self.yields = posterior.yields if isinstance(posterior, TeachingPosterior) else None

    def __getattr__(self, name: str) -> Any:
        """What a posterior of the user's own has beside: an acquisition of theirs may ask for it."""
        return getattr(self._posterior, name)

    def expected_tokens(self) -> FloatArray:
        return self._tokens()

    def mean(self) -> FloatArray:
        return self._posterior.mean()

    def variance(self) -> FloatArray:
        return self._posterior.variance()

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return self._posterior.sample(num_draws, rng)

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator) -> FloatArray:
        return self._posterior.expected_useful(group_sizes, rng)

    def expected_gains(self, max_samples: int, rng: np.random.Generator) -> FloatArray:
        return self._posterior.expected_gains(max_samples, rng)
