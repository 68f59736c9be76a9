"""The filter against the dense Gaussian process that it stands for, written out naively."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.shared_filter import SharedFilter, binomial_sites

NUM_PROMPTS, NUM_COLUMNS, OWN_VARIANCE = 30, 6, 2.0


def _columns() -> FloatArray:
    columns = generator(0, "columns").standard_normal((NUM_PROMPTS, NUM_COLUMNS)).astype(np.float32)
    columns[:, 0] = 1.0
    return columns


def _filter(level_drift: float = 0.0, own_drift: float = 0.0, own_variance: float = OWN_VARIANCE) -> SharedFilter:
    return SharedFilter(
        columns=_columns(),
        prior_mean=np.array([0.5, 0.0, 1.0, 0.0, 0.0, 0.0]),
        prior_variance=np.linspace(0.2, 1.2, NUM_COLUMNS),
        drift=np.array([level_drift, 0.0]),
        own_variance=np.full(NUM_PROMPTS, own_variance),
        own_drift=own_drift,
    )


class _DenseProcess:
    """All N logits with their N x N covariance; drift and updates are matrix operations on all of them."""

    def __init__(self, level_drift: float) -> None:
        columns = _columns().astype(np.float64)
        self.mean = columns @ np.array([0.5, 0.0, 1.0, 0.0, 0.0, 0.0])
        self.covariance = columns @ np.diag(np.linspace(0.2, 1.2, NUM_COLUMNS)) @ columns.T
        self.covariance += OWN_VARIANCE * np.eye(NUM_PROMPTS) + level_drift
        self.level_drift = level_drift

    def observe(self, rows: IntArray, num_right: IntArray, num_tried: IntArray) -> None:
        sites = binomial_sites(self.mean[rows], self.covariance[np.ix_(rows, rows)], num_right, num_tried)
        gain = self.covariance[:, rows] @ np.linalg.inv(self.covariance[np.ix_(rows, rows)] + np.diag(sites.noise))
        self.mean = self.mean + gain @ (sites.centre - self.mean[rows])
        self.covariance = self.covariance - gain @ self.covariance[rows] + self.level_drift


def _histories(num_steps: int) -> list[tuple[IntArray, IntArray, IntArray]]:
    """Random prompts, some of them several times, with every kind of outcome."""
    steps = []
    for step in range(num_steps):
        rng = generator(1, "history", step)
        rows = np.sort(rng.choice(NUM_PROMPTS, size=7, replace=False))
        tried = rng.choice([1, 8, 128], size=7)
        steps.append((rows, rng.binomial(tried, rng.beta(0.5, 0.5, size=7)), tried))
    return steps


def test_without_drift_it_equals_the_dense_process() -> None:
    tested, dense = _filter(), _DenseProcess(0.0)
    seen: set[int] = set()
    for rows, right, tried in _histories(12):
        tested.observe(rows, right, tried)
        tested.advance()
        dense.observe(rows, right, tried)
        seen |= set(rows.tolist())
        posterior = tested.predict(np.arange(NUM_PROMPTS))
        np.testing.assert_allclose(posterior.location, dense.mean, atol=2e-3)
        np.testing.assert_allclose(posterior.logit_variance, np.diag(dense.covariance), rtol=2e-3, atol=1e-4)
    assert len(seen) > 25  # most prompts were observed, several of them again


def test_with_drift_it_stays_close_to_the_dense_process() -> None:
    """Only the dependence of a prompt's own effect on the drift is dropped: outcomes come from the model itself."""
    level_drift = 0.05
    errors = []
    for truth in range(8):
        tested, dense = _filter(level_drift), _DenseProcess(level_drift)
        rng = generator(truth, "truth")
        # Not by SVD, numpy's default: the signs of its vectors, hence the truth, differ from processor to processor.
        logits = rng.multivariate_normal(dense.mean, dense.covariance, method="cholesky")
        for _ in range(25):
            rows = np.sort(rng.choice(NUM_PROMPTS, size=7, replace=False))
            tried = np.full(7, 16)
            right = rng.binomial(tried, expit(logits[rows]))
            tested.observe(rows, right, tried)
            tested.advance()
            dense.observe(rows, right, tried)
            logits = logits + np.sqrt(level_drift) * rng.standard_normal()
        posterior = tested.predict(np.arange(NUM_PROMPTS))
        std = np.sqrt(np.diag(dense.covariance))
        assert np.abs((posterior.location - dense.mean) / std).max() < 1.0
        assert np.abs((posterior.location - dense.mean) / std).mean() < 0.25
        np.testing.assert_allclose(np.sqrt(posterior.logit_variance), std, rtol=0.25)
        errors.append((posterior.location - logits) / np.sqrt(posterior.logit_variance))
    # It knows what is true now as well as it believes it does. Of one truth alone this says little: all prompts share
    # the error about the level.
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) < 1.2


def test_drift_moves_a_prompt_that_has_its_own_record_and_the_static_text_model_does_not() -> None:
    everything, others = np.arange(NUM_PROMPTS), np.arange(1, NUM_PROMPTS)
    moved = {}
    for level_drift in (0.0, 0.5):
        tested = _filter(level_drift)
        tested.observe(np.array([0]), np.array([200]), np.array([400]))
        tested.advance()
        before = tested.predict(everything).location[0]
        for _ in range(3):
            tested.observe(others, np.full(len(others), 8), np.full(len(others), 8))
            tested.advance()
        moved[level_drift] = tested.predict(everything).location[0] - before
    assert abs(moved[0.0]) < 0.15
    assert moved[0.5] > 0.8


def test_draws_are_joint() -> None:
    tested = _filter(level_drift=0.01, own_variance=0.3)
    for rows, right, tried in _histories(3):
        tested.observe(rows, right, tried)
        tested.advance()
    rows = np.arange(8)
    posterior = tested.predict(rows)
    assert posterior.draw_logits is not None
    draws = posterior.draw_logits(60_000, generator(3, "draws"))
    np.testing.assert_allclose(draws.mean(axis=0), posterior.location, atol=0.03)
    covariance = np.cov(draws.T)
    np.testing.assert_allclose(np.diag(covariance), posterior.logit_variance, rtol=0.05)
    columns = np.concatenate([tested.weight[rows, None] * _columns()[rows], _columns()[rows, :2]], axis=1)
    expected = columns @ tested.covariance @ columns.T
    off_diagonal = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(covariance[off_diagonal], expected[off_diagonal], atol=0.05)
    assert np.abs(expected[off_diagonal]).max() > 0.2
    # A posterior is a snapshot: what the filter learns afterwards does not change its draws.
    tested.observe(rows, np.full(8, 8), np.full(8, 8))
    np.testing.assert_array_equal(
        posterior.draw_logits(5, generator(4, "draws")), posterior.draw_logits(5, generator(4, "draws"))
    )
    np.testing.assert_allclose(posterior.draw_logits(60_000, generator(3, "draws")), draws)


@pytest.mark.parametrize(("num_right", "num_tried"), [(0, 8), (1, 8), (4, 8), (8, 8), (128, 128), (3, 128), (1, 1)])
@pytest.mark.parametrize("prior_std", [0.7, 2.5])
def test_sites_give_the_posterior_of_one_prompt(num_right: int, num_tried: int, prior_std: float) -> None:
    """Exact posterior moments by a fine sum. The Gaussian closest to it has about its mean and spread."""
    location, variance = -0.4, prior_std**2
    sites = binomial_sites(np.array([location]), np.array([[variance]]), np.array([num_right]), np.array([num_tried]))
    precision = 1 / variance + 1 / sites.noise[0]
    mean = (location / variance + sites.centre[0] / sites.noise[0]) / precision

    f = np.linspace(-25, 25, 50_001)
    log_density = -0.5 * (f - location) ** 2 / variance
    log_density += num_right * np.log(expit(f)) + (num_tried - num_right) * np.log(expit(-f))
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    exact_mean = (density * f).sum()
    exact_std = np.sqrt((density * (f - exact_mean) ** 2).sum())
    assert abs(mean - exact_mean) < 0.1 * exact_std
    assert 1 / np.sqrt(precision) == pytest.approx(exact_std, rel=0.15)


def test_own_effects_forget_and_the_drift_widens() -> None:
    tested = _filter(level_drift=0.1, own_drift=0.2)
    rows = np.array([4])
    tested.observe(rows, np.array([64]), np.array([64]))
    certain = tested.predict(rows)
    for _ in range(200):
        tested.advance()
    later = tested.predict(rows)
    assert later.logit_variance[0] > certain.logit_variance[0] + OWN_VARIANCE / 2
    assert abs(tested.offset[4]) < 1e-3
    assert tested.weight[4] == pytest.approx(1.0, abs=1e-3)
    assert tested.own[4] == pytest.approx(OWN_VARIANCE, rel=1e-3)


def test_thousands_of_steps_keep_the_covariance_positive() -> None:
    tested = _filter(level_drift=0.01, own_drift=0.01)
    for step in range(1500):
        rng = generator(5, "long", step)
        rows = np.sort(rng.choice(NUM_PROMPTS, size=10, replace=False))
        tested.observe(rows, rng.binomial(128, 0.3, size=10), np.full(10, 128))
        tested.advance()
    walking = tested.covariance[:-1, :-1]  # the second slope does not drift here: its variance is 0 by definition
    assert np.linalg.eigvalsh(walking).min() > 1e-3
    assert np.isfinite(tested.predict(np.arange(NUM_PROMPTS)).location).all()


def test_a_wide_prior_and_many_failures_do_not_throw_the_fixed_point_out() -> None:
    """Full steps alone end beyond 100,000 logits here."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((128, 3))
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    covariance = 10 * np.exp(-squared / 6) + 2.0 + 5 * np.eye(128)
    tried = 8 * rng.integers(1, 33, 128)
    right = rng.binomial(tried, 1 / (1 + np.exp(4 - 4 * rng.standard_normal(128))))
    sites = binomial_sites(np.zeros(128), covariance, right, tried)
    mean = covariance @ np.linalg.solve(covariance + np.diag(sites.noise), sites.centre)
    assert np.abs(mean).max() < 15
    rate = right / tried
    assert mean[rate > 0.9].min() > 0 > mean[rate < 0.1].max()
