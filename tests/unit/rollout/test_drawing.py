"""The distribution that is drawn from, against one written out with Python numbers."""

import math

import numpy as np
import pytest
import torch

from gps_ray.base.types import Sampling
from gps_ray.rollout.drawing import draw


def _slow(logits: list[float], sampling: Sampling) -> list[float]:
    """Probabilities after temperature, min_p, top_k, top_p, one after the other, normalised in between."""

    def normalised(weights: list[float]) -> list[float]:
        return [w / sum(weights) for w in weights]

    top = max(logits)
    shares = normalised([math.exp((x - top) / sampling.temperature) for x in logits])
    shares = normalised([p if p >= sampling.min_p * max(shares) else 0.0 for p in shares])
    if sampling.top_k:
        least = sorted(shares, reverse=True)[: sampling.top_k][-1]
        shares = normalised([p if p >= least else 0.0 for p in shares])
    kept, reached = [0.0] * len(shares), 0.0
    for i in sorted(range(len(shares)), key=lambda i: -shares[i]):
        if reached < sampling.top_p:
            kept[i] = shares[i]
        reached += shares[i]
    return normalised(kept)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.7}, {"top_p": 1e-6}, {"top_k": 4}, {"min_p": 0.2}, {"top_p": 0.8, "top_k": 6, "min_p": 0.05}],
)
def test_frequencies_and_logprobs_are_those_of_the_distribution(settings: dict[str, float], temperature: float) -> None:
    sampling = Sampling(temperature=temperature, max_response_tokens=1, **settings)  # type: ignore[arg-type]
    num = 4000
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5
    expected = np.array(_slow(logits.tolist(), sampling))
    tokens, logprobs = draw(logits.expand(num, -1).clone(), (torch.arange(num) + 0.5) / num, sampling)
    # Evenly spread uniforms: the counts are the distribution, but for one draw at each of its steps.
    np.testing.assert_allclose(np.bincount(tokens, minlength=12) / num, expected, atol=2 / num)
    np.testing.assert_allclose(logprobs.exp(), expected[tokens], atol=1e-5)


def test_ties_at_the_kth_token_stay() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]] * 100)
    sampling = Sampling(temperature=1.0, max_response_tokens=1, top_k=2)
    tokens, _ = draw(logits, torch.arange(100) / 100, sampling)
    assert set(tokens.tolist()) == {0, 1, 2}


def test_greedy_is_the_likeliest_token_with_its_logprob_at_temperature_1() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, -1.0]])
    sampling = Sampling(temperature=0.0, max_response_tokens=1, top_p=0.5)
    tokens, logprobs = draw(logits, torch.tensor([0.99, 0.99]), sampling)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])
    assert sampling.takes_tokens_away
