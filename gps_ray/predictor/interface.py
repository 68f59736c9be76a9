"""The predictor seam: "how likely is the policy to solve this prompt?"

A predictor knows prompts by their row in a ``PromptTable``. Acquisitions see only the posterior it returns, so
any predictor goes with any acquisition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from gps_ray.base.types import BoolArray, FloatArray, IntArray, State

__all__ = [
    "CostedPosterior",
    "OutcomeBatch",
    "Posterior",
    "Predictor",
    "PredictsLengths",
    "PromptTable",
    "ReadsText",
    "TeachingPosterior",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTable:
    """Every prompt the selector may be asked about.

    prompt_ids [N], texts [N]; embeddings [N, E] float32 with rows of unit norm (zero rows allowed for prompts without
    features); states [N, F] float16: what a model's middle layers say of the prompts, None where nobody read them. Rows
    0 .. num_pool - 1 are the pool and can be selected; the rest (held-out probes) is only predicted.
    """

    prompt_ids: tuple[str, ...]
    texts: tuple[str, ...]
    embeddings: FloatArray
    num_pool: int
    states: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBatch:
    """The groups of one step, as counts: rows [K] int64 of the prompt table, num_right [K], num_tried [K] int32
    (right + wrong; 0 where every rollout failed), mean_response_length [K] float32 (tokens; NaN where unknown).
    """

    step: int
    rows: IntArray
    num_right: IntArray
    num_tried: IntArray
    mean_response_length: FloatArray


class Posterior(Protocol):
    """A posterior of N success rates. One without closed forms takes both expectations from ``SampledExpectations``,
    the only ones to draw from their ``rng``."""

    def mean(self) -> FloatArray:
        """[N] float64 in [0, 1]."""
        ...

    def variance(self) -> FloatArray:
        """[N] float64."""
        ...

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """[S, N] float64; a row is one joint draw."""
        ...

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator) -> FloatArray:
        """E[1 - g^G - (1 - g)^G] [K, N] for K group sizes G: the probability of a useful group."""
        ...

    def expected_gains(self, max_samples: int, rng: np.random.Generator) -> FloatArray:
        """E[g (1 - g)^(j-1)] [N, J], j = 1 .. J = ``max_samples``, falling in j: what the j-th sample of a prompt adds
        to the probability that one is right."""
        ...


@runtime_checkable
class TeachingPosterior(Protocol):
    """A posterior that also says ``yields`` [N], what a useful group of each prompt teaches relative to the pool's
    mean (None where nobody asked): what the acquisition ``learning_progress`` goes by."""

    yields: FloatArray | None


@runtime_checkable
class CostedPosterior(Protocol):
    """A posterior that also says what a response to each prompt will cost: what the acquisition ``useful_per_token``
    goes by."""

    def expected_tokens(self) -> FloatArray:
        """[N] float64 > 0; [0] where no response was seen yet."""
        ...


class Predictor(Protocol):
    """Learns from outcomes, predicts success rates. A loaded ``state`` goes on bit for bit."""

    def predict(self, rows: IntArray, step: int) -> Posterior:
        """The posterior of rows [N] before the outcomes of ``step`` are known. Does not change the state."""
        ...

    def informed(self) -> bool:
        """Is a prediction worth more than a uniform batch before the first outcome (offline pre-training, the oracle)?
        Otherwise the first batch is drawn at random."""
        ...

    def observe(self, batch: OutcomeBatch) -> None:
        """Learn from one step's outcomes (possibly none)."""
        ...

    def seen(self, rows: IntArray) -> BoolArray:
        """[N] bool: has this prompt outcomes of its own?"""
        ...

    def metrics(self) -> dict[str, float]:
        """Diagnostics of the last ``observe`` (losses, swap test), without prefix."""
        ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


@runtime_checkable
class ReadsText(Protocol):
    """A predictor that can say what it makes of texts alone. Optional: reports show it beside the prediction."""

    def predict_from_text(self, rows: IntArray, step: int) -> Posterior:
        """``predict`` as if none of these prompts had outcomes of its own."""
        ...


@runtime_checkable
class PredictsLengths(Protocol):
    """Whoever can say how long responses will be: a predictor (optional), a selector, the plain record of lengths."""

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """[N] float64 tokens per response for prompts rows [N]; [0] before the first outcome."""
        ...
