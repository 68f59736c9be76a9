"""A Kalman filter for a shared linear model with drift and an independent effect per prompt, in logits.

    f_i(t) = phi_i . w + psi_i . d(t) + u_i(t)        k_i ~ Binomial(n_i, sigmoid(f_i(t)))

w: weights of all columns, static. d: a random walk on the first columns, the drift that the whole pool shares (psi_i
are the first R entries of phi_i). u_i: the prompt's own effect, an AR(1) process with stationary variance s_i.

Prompts share nothing but w and d. So the posterior is one dense Gaussian over (w, d) and, per prompt, a scalar
regression of its own effect on what the static model says of it:

    f_i | w, d  ~  N(c_i phi_i . w + a_i + psi_i . d,  v_i)        a_i = 0, c_i = 1, v_i = s_i at first

A prompt's own outcomes move c_i from 1 to 0: its record takes over from the text, and what the text model learns later
no longer moves it, while the drift d still does. With no drift this is exact for Gaussian observations; the dependence
between u_i and d is dropped. Cost of K outcomes: O(K (D + R)^2 + K^3), of N predictions O(N (D + R)^2).

The binomial likelihood becomes Gaussian by the fixed point of variational inference (Opper and Archambeau, Neural
Computation 2009): precision n E[g (1 - g)] and centre E[f] + (k - n E[g]) / precision under the posterior marginals.
It is calibrated at k = 0 and k = n, where the curvature at the mode (Laplace) is not. Where f itself is seen with
Gaussian noise (``observe_values``: the log of a response's length) nothing is to be approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.blas import strmm
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from gps_ray.base.types import FloatArray, IntArray, State
from gps_ray.predictor.logit_normal import LogitNormalPosterior, expectation

__all__ = ["GaussianSites", "SharedFilter", "binomial_sites"]

_MAX_ITERATIONS = 30
_TOLERANCE = 1e-2  # logits
_MIN_PRECISION = 1e-4
_ROWS_AT_ONCE = 16_384

# One BLAS thread: the order of a sum must not depend on the machine's load, and for matrices of this size two threads
# that wait for each other cost five times as much as one.
_BLAS = ThreadpoolController()


@dataclass(frozen=True, slots=True)
class GaussianSites:
    """K outcomes as Gaussian observations of f: centre [K], noise variance [K]."""

    centre: FloatArray
    noise: FloatArray


@dataclass(frozen=True, slots=True)
class _Prior:
    """What the filter believes of K rows: cov((w, d), f) [D + R, K], E[f] [K], cov(f) [K, K]; psi . d alone [K]."""

    cross: FloatArray
    location: FloatArray
    covariance: FloatArray
    drift_mean: FloatArray
    drift_variance: FloatArray


def binomial_sites(
    location: FloatArray, covariance: FloatArray, num_right: IntArray, num_tried: IntArray
) -> GaussianSites:
    """Sites of the variational posterior under the prior f ~ N(location [K], covariance [K, K]); num_tried > 0."""
    mean, variance = location, np.diag(covariance)
    # Where the newest step began, how far it went, and by which share: to take less of it where it went too far.
    start, step, share, last = (mean, variance), np.zeros_like(location), 1.0, np.inf
    for iteration in range(_MAX_ITERATIONS):
        rate = expectation(mean, variance, lambda g: g)
        curvature = expectation(mean, variance, lambda g: g * (1.0 - g))
        precision = np.maximum(num_tried * curvature, _MIN_PRECISION)
        sites = GaussianSites(mean + (num_right - num_tried * rate) / precision, 1.0 / precision)
        factor = np.linalg.cholesky(covariance + np.diag(sites.noise))
        half = solve_triangular(factor, covariance, lower=True)
        shift = half.T @ solve_triangular(factor, sites.centre - location, lower=True) + location - mean
        largest = float(np.abs(shift).max())
        if largest > max(last, 1.0):
            # Under a wide prior a full step may overshoot to where the likelihood is flat, and never come back.
            share /= 2.0
            mean, variance = start[0] + share * step, start[1]
            continue
        # Full steps at first; later ones are damped, so that no pair of states alternates.
        start, step, last = (mean, variance), (1.0 if iteration < 4 else 0.7) * shift, largest
        mean = mean + share * step
        variance = np.maximum(np.diag(covariance) - (half**2).sum(axis=0), 1e-12)
        if largest < _TOLERANCE:
            break
    return sites


class SharedFilter:
    """columns [N, D] float32; prior mean and variance of w [D]; drift [R] added to the variance of d per step;
    own_variance [N] s_i; own_drift: variance that each prompt's own effect gains and forgets per step; without
    ``keeps_record`` every outcome is read as if it were its prompt's first."""

    def __init__(
        self,
        columns: FloatArray,
        prior_mean: FloatArray,
        prior_variance: FloatArray,
        drift: FloatArray,
        own_variance: FloatArray,
        own_drift: float,
        keeps_record: bool = True,
    ) -> None:
        self.columns = columns
        self._drift = drift
        self._own_variance = own_variance
        self._keeps_record = keeps_record
        self._memory = np.sqrt(np.maximum(1.0 - own_drift / own_variance, 0.0))
        self.mean = np.concatenate([prior_mean, np.zeros(len(drift))])
        # d starts with one step of drift: the covariance stays positive definite.
        self.covariance = np.diag(np.concatenate([prior_variance, drift]))
        self.offset = np.zeros(len(columns))
        self.weight = np.ones(len(columns))
        self.own = own_variance.copy()

    def predict(self, rows: IntArray) -> LogitNormalPosterior:
        """The joint posterior of f of rows [N], independent of what the filter learns afterwards."""
        weight, own = self.weight[rows], self.own[rows]
        location, variance = self.offset[rows], own.copy()
        with _BLAS.limit(limits=1):
            factor = _factor(self.covariance)
            for part in _parts(len(rows)):
                design = self._design(rows[part], weight[part])
                location[part] += design @ self.mean
                variance[part] += np.square(_times_factor(design, factor)).sum(axis=1)

        def draw_logits(num_draws: int, rng: np.random.Generator) -> FloatArray:
            common = rng.standard_normal((len(factor), num_draws), dtype=np.float32)
            logits = np.empty((num_draws, len(rows)))
            with _BLAS.limit(limits=1):
                for part in _parts(len(rows)):
                    logits[:, part] = (_times_factor(self._design(rows[part], weight[part]), factor) @ common).T
            return logits + location + np.sqrt(own) * rng.standard_normal(logits.shape)

        return LogitNormalPosterior(location, variance, draw_logits)

    def predict_unseen(self, rows: IntArray) -> LogitNormalPosterior:
        """The posterior [N] that prompts with these columns would have without a record, each by itself."""
        with _BLAS.limit(limits=1):
            design = self._design(rows, np.ones(len(rows)))
            spread = np.square(_times_factor(design, _factor(self.covariance))).sum(axis=1)
            return LogitNormalPosterior(design @ self.mean, spread + self._own_variance[rows])

    def _design(self, rows: IntArray, weight: FloatArray) -> FloatArray:
        """[N, D + R] float32: how f of these rows depends on (w, d)."""
        columns = self.columns[rows]
        scaled = weight[:, None].astype(np.float32) * columns
        return np.concatenate([scaled, columns[:, : len(self._drift)]], axis=1)

    def observe(self, rows: IntArray, num_right: IntArray, num_tried: IntArray) -> None:
        """Condition on the outcomes of distinct rows [K] with num_tried > 0."""
        with _BLAS.limit(limits=1):
            prior = self._prior(rows)
            sites = binomial_sites(prior.location, prior.covariance, num_right, num_tried)
            self._condition(rows, sites, prior)

    def observe_values(self, rows: IntArray, sites: GaussianSites) -> tuple[FloatArray, float]:
        """Condition on f itself, seen with Gaussian noise at distinct rows [K]. Returns what was predicted of it [K],
        and the squared error of that in units of its covariance: K on average where the variances are right."""
        with _BLAS.limit(limits=1):
            prior = self._prior(rows)
            return prior.location, self._condition(rows, sites, prior)

    def _condition(self, rows: IntArray, sites: GaussianSites, prior: _Prior) -> float:
        factor = np.linalg.cholesky(prior.covariance + np.diag(sites.noise))
        half = solve_triangular(factor, prior.cross.T, lower=True)
        error = solve_triangular(factor, sites.centre - prior.location, lower=True)
        self.mean = self.mean + half.T @ error
        self.covariance = self.covariance - half.T @ half
        if self._keeps_record:
            self._record(rows, sites, prior)
        return float(error @ error)

    def _record(self, rows: IntArray, sites: GaussianSites, prior: _Prior) -> None:
        """Move the own effects of ``rows`` towards their outcomes."""
        own = self.own[rows]
        gain = own / (own + sites.noise + prior.drift_variance)
        self.offset[rows] += gain * (sites.centre - self.offset[rows] - prior.drift_mean)
        self.weight[rows] *= 1.0 - gain
        self.own[rows] *= 1.0 - gain

    def shift_under(self, rows: IntArray, num_right: IntArray, num_tried: IntArray, others: IntArray) -> FloatArray:
        """[N]: by how much E[f] of ``others`` would move through (w, d) alone if ``rows`` had these outcomes."""
        with _BLAS.limit(limits=1):
            prior = self._prior(rows)
            sites = binomial_sites(prior.location, prior.covariance, num_right, num_tried)
            pull = np.linalg.solve(prior.covariance + np.diag(sites.noise), sites.centre - prior.location)
            shift: FloatArray = self._design(others, self.weight[others]) @ (prior.cross @ pull)
        return shift

    def leading_weights(self) -> FloatArray:
        """[R]: what the drifting columns weigh at present, w + d."""
        num_static = len(self.mean) - len(self._drift)
        weights: FloatArray = self.mean[: len(self._drift)] + self.mean[num_static:]
        return weights

    def advance(self) -> None:
        """One step of time: the drift walks, the prompts' own effects forget."""
        num_static = len(self.mean) - len(self._drift)
        at = np.arange(num_static, len(self.mean))
        self.covariance[at, at] += self._drift
        kept = self._memory
        self.offset *= kept
        self.weight = 1.0 - kept * (1.0 - self.weight)
        self.own = kept**2 * self.own + (1.0 - kept**2) * self._own_variance

    def _prior(self, rows: IntArray) -> _Prior:
        design = self._design(rows, self.weight[rows]).astype(np.float64)
        cross = self.covariance @ design.T
        covariance = design @ cross
        walk, num_static = design[:, -len(self._drift) :], len(self.mean) - len(self._drift)
        return _Prior(
            cross=cross,
            location=design @ self.mean + self.offset[rows],
            covariance=(covariance + covariance.T) / 2 + np.diag(self.own[rows]),
            drift_mean=walk @ self.mean[num_static:],
            drift_variance=((walk @ self.covariance[num_static:, num_static:]) * walk).sum(axis=1),
        )

    def state(self) -> State:
        return {
            "mean": self.mean.copy(),
            "covariance": self.covariance.copy(),
            "offset": self.offset.copy(),
            "weight": self.weight.copy(),
            "own": self.own.copy(),
        }

    def load_state(self, state: State) -> None:
        for name in ("mean", "covariance", "offset", "weight", "own"):
            setattr(self, name, np.array(state[name], dtype=np.float64))


def _parts(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        yield slice(start, start + _ROWS_AT_ONCE)


def _factor(covariance: FloatArray) -> FloatArray:
    """Lower Cholesky factor, float32; a trace of variance keeps rounding from ever making it fail."""
    tiny = 1e-10 * np.trace(covariance) / len(covariance)
    factor: FloatArray = np.linalg.cholesky(covariance + tiny * np.eye(len(covariance))).astype(np.float32)
    return factor


def _times_factor(design: FloatArray, factor: FloatArray) -> FloatArray:
    """design [N, D + R] @ factor (lower triangular), float32: BLAS's triangular product does half of the work."""
    product: FloatArray = strmm(1.0, np.asfortranarray(factor), design.T, lower=1, trans_a=1).T
    return product
