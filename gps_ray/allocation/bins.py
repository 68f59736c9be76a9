"""Allocation by bins of a score, fitted on held-out outcomes: the paper's variant (GPS, arXiv 2602.01970).

The paper bins prompts by predicted difficulty and gives more samples to those that are "challenging but solvable"; its
numbers are not known. Here each bin's success rates are fitted as Beta(a, b) to outcomes of held-out prompts (k_i of
n_i right, beta-binomial likelihood), and the bin's expected gains decide. The score may be anything known in advance:
the predicted success rate, or the length of the text as a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln

from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.beta_posterior import BetaPosterior

__all__ = ["GainBins", "fit_beta", "fit_bins"]

# Bounds of log a and log b: wide enough for "all fail" and "all alike", narrow enough to stay finite.
_LOG_BOUNDS = (np.log(1e-3), np.log(1e4))


def fit_beta(num_right: IntArray, num_tried: IntArray) -> tuple[float, float]:
    """The (a, b) of largest beta-binomial likelihood sum_i log B(a + k_i, b + n_i - k_i) - log B(a, b), beside a
    weak prior worth one prompt with one right and one wrong answer, which keeps one-sided bins finite."""
    right = np.append(num_right, 1).astype(np.float64)
    wrong = np.append(num_tried - num_right, 1).astype(np.float64)

    def loss(log_ab: FloatArray) -> float:
        a, b = np.exp(log_ab)
        return -float(np.mean(betaln(a + right, b + wrong) - betaln(a, b)))

    start = np.log([1.0, 1.0])
    a, b = np.exp(minimize(loss, start, method="L-BFGS-B", bounds=[_LOG_BOUNDS, _LOG_BOUNDS]).x)
    return float(a), float(b)


@dataclass(frozen=True, slots=True, kw_only=True)
class GainBins:
    """edges [bins - 1] float64, rising; alpha, beta [bins]: the fitted success rates of each bin."""

    edges: FloatArray
    alpha: FloatArray
    beta: FloatArray

    def gains(self, scores: FloatArray, max_samples: int) -> FloatArray:
        """[N, J]: every prompt gets its bin's expected gains."""
        return BetaPosterior(self.alpha, self.beta).expected_gains(max_samples)[
            np.searchsorted(self.edges, scores, side="right")
        ]


def fit_bins(scores: FloatArray, num_right: IntArray, num_tried: IntArray, num_bins: int = 8) -> GainBins:
    """Equally filled bins of the scores [N] of held-out prompts; bins that ties would leave empty are merged."""
    edges = np.unique(np.quantile(scores, np.arange(1, num_bins) / num_bins))
    edges = edges[edges > scores.min()]
    which = np.searchsorted(edges, scores, side="right")
    fitted = [fit_beta(num_right[which == bin_], num_tried[which == bin_]) for bin_ in range(len(edges) + 1)]
    alpha, beta = np.array(fitted).T
    return GainBins(edges=edges, alpha=alpha, beta=beta)
