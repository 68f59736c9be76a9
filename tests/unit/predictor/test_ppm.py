"""The prompt predictive model against hand-computed values, and what it promises."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.config import PpmConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.ppm import LatentDraws, PpmPredictor
from gps_ray.predictor.ppm_network import Gaussian, PpmNetwork, build_network
from gps_ray.predictor.ppm_training import GroupSet, elbo_terms, group_sets, prior_of, replay_pairs

TINY = PpmConfig(
    model_dim=16, num_layers=1, num_heads=2, decoder_hidden=16, latent_dim=3, num_latent_draws=4, replay_steps=3,
    pairs_per_update=2,
)  # fmt: skip
NUM_ROWS, NUM_POOL = 60, 50


def _table() -> PromptTable:
    rows = generator(0, "test/embeddings").normal(size=(NUM_ROWS, 8))
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    embeddings[:, 5] = 0.25  # a dimension that does not vary
    return PromptTable(
        prompt_ids=tuple(map(str, range(NUM_ROWS))), texts=("",) * NUM_ROWS, embeddings=embeddings, num_pool=NUM_POOL
    )


def _batch(step: int, rows: list[int], num_right: list[int], num_tried: list[int]) -> OutcomeBatch:
    return OutcomeBatch(
        step=step,
        rows=np.array(rows, np.int64),
        num_right=np.array(num_right, np.int32),
        num_tried=np.array(num_tried, np.int32),
        mean_response_length=np.full(len(rows), np.nan, np.float32),
    )


def _random_batch(step: int, size: int = 6) -> OutcomeBatch:
    rng = generator(0, "test/batch", step)
    tried = rng.integers(0, 9, size=size)
    return _batch(step, rng.choice(NUM_POOL, size, replace=False).tolist(), rng.binomial(tried, 0.4).tolist(), tried)


def _features(rows: IntArray) -> torch.Tensor:
    return torch.from_numpy(_table().embeddings[rows])


def _sets(*sets: list[tuple[int, int, int]]) -> GroupSet:
    """Sets of (row, num_right, num_tried)."""
    batches = [_batch(0, *map(list, zip(*groups, strict=True))) if groups else None for groups in sets]
    return group_sets(batches, _features)


class _Constant(torch.nn.Module):
    """Stands in for q or p: a given Gaussian per set."""

    def __init__(self, mean: list[list[float]], std: list[list[float]]) -> None:
        super().__init__()
        self.gaussian = Gaussian(torch.tensor(mean), torch.tensor(std))

    def forward(self, features: torch.Tensor, rate: torch.Tensor, mask: torch.Tensor) -> Gaussian:
        return self.gaussian


def _hand_network() -> PpmNetwork:
    """gamma(e, z) = sigmoid(relu(z_0) - 0.5 relu(z_1 + e_0)): a decoder whose value can be written down."""
    network = build_network(8, PpmConfig(**{**TINY.model_dump(), "decoder_hidden": 8}), 0)
    with torch.no_grad():
        for parameter in (network.from_features.weight, network.from_features.bias, network.from_latent.weight):
            parameter.zero_()
        network.from_latent.weight[0, 0] = network.from_latent.weight[1, 1] = 1.0
        network.from_features.weight[1, 0] = 1.0
        network.to_logit.weight.zero_()
        network.to_logit.weight[0, :2] = torch.tensor([1.0, -0.5])
        network.to_logit.bias.zero_()
    return network


def test_elbo_by_hand() -> None:
    network = _hand_network()
    q_mean, q_std = [0.5, 0.1, 0.0], [0.3, 0.2, 1.0]
    p_mean, p_std = [0.2, -0.3, 0.5], [0.6, 0.4, 0.9]
    network.encoder = _Constant([q_mean] * 2, [q_std] * 2)
    network.prior = _Constant([p_mean] * 2, [p_std] * 2)
    groups = [(3, 2, 8), (7, 1, 1), (9, 0, 5)]
    context, target = _sets([], [(1, 4, 8)]), _sets(groups, groups[:1])
    noise = torch.tensor([[[0.4, -1.0, 2.0], [-0.7, 0.3, 0.0]]] * 2)
    log_likelihood, kl = elbo_terms(network, context, target, noise, TINY)

    table = _table().embeddings
    draws = []
    for eps in noise[0].tolist():
        z = [m + s * e for m, s, e in zip(q_mean, q_std, eps, strict=True)]
        terms = []
        for row, right, tried in groups:
            logit = max(z[0], 0) - 0.5 * max(z[1] + float(table[row, 0]), 0)
            terms.append(binom.logpmf(right, tried, 1 / (1 + math.exp(-logit))))
        draws.append(terms)
    expected = np.mean(draws, axis=0)
    assert log_likelihood.tolist() == pytest.approx([expected.sum(), expected[0]], rel=1e-5)

    def divergence(other_mean: list[float], other_std: list[float]) -> float:
        parts = zip(q_mean, q_std, other_mean, other_std, strict=True)
        return sum(math.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - 0.5 for m, s, n, t in parts)

    # The first pair has no context: its prior is N(0, I).
    assert kl.tolist() == pytest.approx([divergence([0.0] * 3, [1.0] * 3), divergence(p_mean, p_std)], rel=1e-5)


def test_closed_form_kl_agrees_with_sampling() -> None:
    q = Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.9]))
    p = Gaussian(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.7]))
    z = q.mean + q.std * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    log_q = torch.distributions.Normal(*q).log_prob(z).sum(-1)
    log_p = torch.distributions.Normal(*p).log_prob(z).sum(-1)
    assert float(q.kl_to(p)) == pytest.approx(float((log_q - log_p).mean()), abs=0.02)


def test_encoders_see_a_set_padding_and_blank_groups_do_not_matter() -> None:
    network = build_network(8, TINY, 0)
    groups = [(3, 2, 8), (7, 1, 1), (9, 0, 5)]
    alone = _sets(groups)
    padded = _sets([(5, 0, 0), *groups[::-1]], [(i, 1, 2) for i in range(6)])
    for encoder in (network.encoder, network.prior):
        a = encoder(alone.features, alone.rate, alone.mask)
        b = encoder(padded.features, padded.rate, padded.mask)
        torch.testing.assert_close(a.mean[0], b.mean[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.std[0], b.std[0], rtol=1e-4, atol=1e-5)
        assert ((a.std > 0.1) & (a.std < 1.0)).all()
    assert not torch.equal(
        network.encoder(alone.features, alone.rate, alone.mask).mean,
        network.prior(alone.features, alone.rate, alone.mask).mean,
    ), "q and p have weights of their own"


def test_prior_is_standard_without_context_and_under_the_ablation() -> None:
    network = build_network(8, TINY, 0)
    context = _sets([], [(1, 2, 4)], [(1, 0, 0)])
    prior = prior_of(network, context, TINY)
    assert prior.mean[[0, 2]].tolist() == [[0.0] * 3] * 2
    assert prior.std[[0, 2]].tolist() == [[1.0] * 3] * 2
    assert prior.mean[1].abs().sum() > 0
    standard = prior_of(network, context, TINY.model_copy(update={"prior": "standard"}))
    assert standard.mean.abs().sum() == 0


def test_replay_keeps_each_pairs_own_context() -> None:
    batches = [_random_batch(step) for step in range(4)]
    assert replay_pairs([], False, 3) == []
    assert replay_pairs(batches[:1], False, 3) == [(None, batches[0])]
    assert replay_pairs(batches[:2], False, 3) == [(None, batches[0]), (batches[0], batches[1])]
    # Once the window has moved on, its oldest batch is only a context.
    assert replay_pairs(batches, True, 3) == list(pairwise(batches))
    assert replay_pairs(batches[:2], True, 1) == [(batches[0], batches[1])]


def test_blocked_prediction_equals_the_training_path() -> None:
    network = build_network(8, TINY, 0)
    features = torch.from_numpy(_table().embeddings)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.sigmoid(network.logits(features[None], z[None]))[0]
    torch.testing.assert_close(network.success_rates(features, z), expected.detach())


def test_posterior_mean_variance_draws_and_useful_share() -> None:
    rates = np.array([[0.1, 0.5], [0.3, 0.5], [0.8, 0.5]], np.float32)
    posterior = LatentDraws(rates)
    np.testing.assert_allclose(posterior.mean(), [0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(posterior.variance(), [np.var([0.1, 0.3, 0.8]), 0.0], rtol=1e-5, atol=1e-12)
    drawn = posterior.sample(500, generator(0, "test"))
    assert drawn.shape == (500, 2)
    assert {round(float(x), 4) for x in drawn[:, 0]} == {0.1, 0.3, 0.8}
    np.testing.assert_allclose(
        posterior.expected_useful((8,))[0], (1 - rates**8 - (1 - rates) ** 8).mean(axis=0), rtol=1e-5
    )


def _weights(predictor: PpmPredictor) -> dict[str, FloatArray]:
    return {name: value for name, value in predictor.state().items() if name.startswith(("weight/", "adam/"))}


def _assert_same(a: dict[str, FloatArray], b: dict[str, FloatArray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("at", [0, 1, 2, 6])
def test_a_loaded_state_goes_on_bit_for_bit(at: int) -> None:
    whole = PpmPredictor(_table(), TINY, 3)
    for step in range(at):
        whole.observe(_random_batch(step))
    resumed = PpmPredictor(_table(), TINY, 3)
    resumed.observe(_random_batch(99))
    resumed.load_state(whole.state())
    rows = np.arange(NUM_ROWS)
    for step in range(at, at + 5):
        np.testing.assert_array_equal(resumed.predict(rows, step).mean(), whole.predict(rows, step).mean())
        whole.observe(_random_batch(step))
        resumed.observe(_random_batch(step))
        assert resumed.metrics() == whole.metrics()
    _assert_same(resumed.state(), whole.state())


def test_everything_is_keyed_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (PpmPredictor(_table(), TINY, seed) for seed in (0, 0, 1))
    for predictor in (first, again, other):
        for step in range(3):
            predictor.observe(_random_batch(step))
    assert torch.equal(torch.get_rng_state(), before)
    _assert_same(first.state(), again.state())
    assert not np.array_equal(first.predict(np.arange(9), 3).mean(), other.predict(np.arange(9), 3).mean())
    state = first.state()
    first.predict(np.arange(NUM_ROWS), 3)
    _assert_same(first.state(), state)


def test_batches_without_a_verdict_change_nothing() -> None:
    predictor = PpmPredictor(_table(), TINY, 0)
    fresh = _weights(predictor)
    predictor.observe(_batch(0, [], [], []))
    predictor.observe(_batch(1, [4, 5], [0, 0], [0, 0]))
    _assert_same(_weights(predictor), fresh)
    assert predictor.seen(np.array([4, 6])).tolist() == [False, False]
    predictor.observe(_batch(2, [4, 6], [0, 1], [0, 1]))
    assert predictor.seen(np.array([4, 6])).tolist() == [False, True]
    assert _weights(predictor).keys() != fresh.keys()
    assert all(np.isfinite(value) for value in predictor.metrics().values())


def test_a_state_of_another_network_or_pool_is_refused() -> None:
    state = PpmPredictor(_table(), TINY, 0).state()
    wide = TINY.model_copy(update={"model_dim": 32})
    with pytest.raises(CheckpointError, match=r"selection\.ppm"):
        PpmPredictor(_table(), wide, 0).load_state(state)
    table = _table()
    smaller = PromptTable(
        prompt_ids=table.prompt_ids[:40], texts=table.texts[:40], embeddings=table.embeddings[:40], num_pool=40
    )
    with pytest.raises(CheckpointError, match=r"data\.\*"):
        PpmPredictor(smaller, TINY, 0).load_state(state)


def _jumping_run(config: PpmConfig) -> tuple[PpmPredictor, float]:
    """A pool whose level jumps every fifth step, so that the newest batch alone tells it.

    Returns the predictor and its mean |error| of the pool's mean success rate, away from the jumps, in the last half.
    """
    table, rng = _table(), generator(0, "test/jumps")
    base = 3.0 * table.embeddings @ rng.normal(size=8)
    predictor = PpmPredictor(table, config, 0)
    errors = []
    for step in range(40):
        rates = 1 / (1 + np.exp(-(base + (2.0 if step // 5 % 2 else -2.0))))
        predicted = predictor.predict(np.arange(NUM_POOL), step).mean()
        if step >= 20 and step % 5:
            errors.append(abs(predicted.mean() - rates[:NUM_POOL].mean()))
        rows = rng.choice(NUM_POOL, 16, replace=False)
        predictor.observe(_batch(step, rows.tolist(), rng.binomial(8, rates[rows]).tolist(), [8] * 16))
    return predictor, float(np.mean(errors))


def test_the_latent_carries_what_only_the_context_shows() -> None:
    config = TINY.model_copy(update={"replay_steps": 16, "pairs_per_update": 4, "learning_rate": 5e-3})
    predictor, error = _jumping_run(config)
    ablated, error_without = _jumping_run(config.model_copy(update={"use_latent": False}))
    assert predictor.metrics()["swap_test"] > 0.2
    assert predictor.metrics()["swap_test_signed"] > 0.2
    assert ablated.metrics()["swap_test"] == 0
    assert ablated.metrics()["kl"] == 0
    assert error < 0.6 * error_without
