"""Every loss and its gradient against python loops; padding never reaches either."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from gps_ray.learning.importance import importance_weights
from gps_ray.learning.losses.cispo import cispo_loss
from gps_ray.learning.losses.clipped import clipped_loss
from gps_ray.learning.losses.interface import ClipRange, PolicyLoss, PolicyTokens
from gps_ray.learning.losses.kl import KlPenalty, kl_estimate
from gps_ray.learning.losses.sequence import gspo_loss, rloo_loss
from gps_ray.learning.losses.value import value_loss

CLIP = ClipRange(low=0.1, high=0.3)
ROWS, PLACES = 5, 7
LOSSES = [clipped_loss, gspo_loss, rloo_loss, cispo_loss]


def _tokens(seed: int) -> PolicyTokens:
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, PLACES)
    policy = -2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    old = policy + 0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)
    advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[:, 3] = True
    return PolicyTokens(
        policy=policy.requires_grad_(), old=old, advantages=advantages.unsqueeze(1).expand(shape), mask=mask
    )


def _surrogate(ratio: float, advantage: float) -> tuple[float, bool]:
    """PPO's objective as a loss: the smaller of the two, and whether the clip decided."""
    bounded = min(max(ratio, 1 - CLIP.low), 1 + CLIP.high)
    return -min(ratio * advantage, bounded * advantage), bounded * advantage < ratio * advantage


def _by_loop(tokens: PolicyTokens, loss: PolicyLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [M, T], the gradient by hand of the losses' sum, and what was clipped."""
    policy = tokens.policy.detach()
    value, gradient, clipped = torch.zeros_like(policy), torch.zeros_like(policy), torch.zeros_like(tokens.mask)
    for i in range(ROWS):
        places = [t for t in range(PLACES) if tokens.mask[i, t]]
        advantage = float(tokens.advantages[i, 0])
        gaps = {t: float(policy[i, t] - tokens.old[i, t]) for t in places}
        for t in places:
            ratio = math.exp(gaps[t])
            if loss is clipped_loss:
                value[i, t], clipped[i, t] = _surrogate(ratio, advantage)
                gradient[i, t] = 0.0 if clipped[i, t] else -ratio * advantage
            elif loss is cispo_loss:
                bounded = min(max(ratio, 1 - CLIP.low), 1 + CLIP.high)
                value[i, t] = -bounded * advantage * float(policy[i, t])
                gradient[i, t], clipped[i, t] = -bounded * advantage, bounded != ratio
            else:
                share = 1.0 if loss is rloo_loss else 1.0 / len(places)
                ratio = math.exp(sum(gaps.values()) * share)
                value[i, t], clipped[i, t] = _surrogate(ratio, advantage)
                # All tokens of the response carry the same loss, which depends on each of their log-probs.
                gradient[i, t] = 0.0 if clipped[i, t] else -ratio * advantage * share * len(places)
    return value, gradient, clipped


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_match_a_loop(loss: PolicyLoss, seed: int) -> None:
    tokens = _tokens(seed)
    result = loss(tokens, CLIP)
    (result.per_token * tokens.mask).sum().backward()  # type: ignore[no-untyped-call]
    value, gradient, clipped = _by_loop(tokens, loss)
    torch.testing.assert_close(result.per_token.detach() * tokens.mask, value)
    torch.testing.assert_close(tokens.policy.grad, gradient)
    assert torch.equal(result.is_clipped & tokens.mask, clipped)
    assert clipped.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_cannot_reach_the_loss(loss: PolicyLoss) -> None:
    tokens = _tokens(0)
    plain = loss(tokens, CLIP)
    dirty = torch.where(tokens.mask, tokens.policy.detach(), torch.inf).requires_grad_()
    result = loss(replace(tokens, policy=dirty, old=torch.where(tokens.mask, tokens.old, -torch.inf)), CLIP)
    (result.per_token * tokens.mask).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(result.per_token * tokens.mask, plain.per_token * tokens.mask)
    assert dirty.grad is not None
    assert torch.isfinite(dirty.grad).all()
    assert (dirty.grad[~tokens.mask] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_every_loss_has_the_gradient_of_reinforce(loss: PolicyLoss) -> None:
    tokens = _tokens(1)
    tokens = replace(tokens, old=tokens.policy.detach())
    lengths = tokens.mask.sum(1, keepdim=True)
    # Every token carries RLOO's loss of the whole response; the mean over tokens undoes the copies.
    weights = {rloo_loss: 1 / lengths}.get(loss, torch.ones_like(lengths))
    result = loss(tokens, CLIP)
    (result.per_token * tokens.mask * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tokens.policy.grad, torch.where(tokens.mask, -tokens.advantages, 0.0))
    assert not result.is_clipped.any()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [-1e3, -89.0, 89.0, 1e3])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_policy_far_from_the_old_one_gives_nothing_that_is_not_finite(
    loss: PolicyLoss, gap: float, advantage: float
) -> None:
    """In float32, where exp ends at 88; whether the clip holds or not."""
    tokens = _tokens(0)
    policy = tokens.policy.detach().float().requires_grad_()
    advantages = torch.full((ROWS, PLACES), advantage)
    result = loss(PolicyTokens(policy=policy, old=policy.detach() - gap, advantages=advantages, mask=tokens.mask), CLIP)
    (result.per_token * tokens.mask).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(result.per_token).all()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
    if advantage > 0 and gap > 0 and loss is not cispo_loss:
        assert not policy.grad.any()  # the clip holds


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("gap", [-1e3, -89.0, 89.0, 1e3])
def test_a_policy_far_from_the_reference_gives_a_finite_kl(kind: KlPenalty, gap: float) -> None:
    policy = torch.full((1, 2), -1.0, requires_grad=True)
    result = kl_estimate(policy, policy.detach() - gap, torch.ones(1, 2, dtype=torch.bool), kind)
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(result).all()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()


KL: dict[KlPenalty, Callable[[float], float]] = {
    "k1": lambda x: x,
    "k2": lambda x: x * x / 2,
    "k3": lambda x: math.exp(-x) + x - 1,
}


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators_match_loops_and_the_kl_itself(kind: KlPenalty) -> None:
    tokens = _tokens(2)
    policy, reference = tokens.policy.detach(), torch.where(tokens.mask, tokens.old, torch.nan)
    result = kl_estimate(policy, reference, tokens.mask, kind)
    for i in range(ROWS):
        for t in range(PLACES):
            expected = KL[kind](float(policy[i, t]) - float(reference[i, t])) if tokens.mask[i, t] else 0.0
            assert float(result[i, t]) == pytest.approx(expected)
    # In expectation over the policy's own tokens k1 and k3 are the KL; k2 is close where the policies are.
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.45, 0.35, 0.2])
    full = kl_estimate(p.log(), q.log(), torch.ones(3, dtype=torch.bool), kind)
    true_kl = float((p * (p.log() - q.log())).sum())
    assert float((p * full).sum()) == pytest.approx(true_kl, rel=0.1 if kind == "k2" else 1e-4)


@pytest.mark.parametrize("kind", ["k2", "k1"])
def test_the_gradient_of_k2_is_that_of_the_kl_and_k1s_is_nothing(kind: KlPenalty) -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.0, 0.4, 0.1], dtype=torch.float64), 0)
    policy = torch.log_softmax(logits, 0)
    mean = (policy.detach().exp() * kl_estimate(policy, reference, torch.ones(3, dtype=torch.bool), kind)).sum()
    (estimate,) = torch.autograd.grad(mean, logits)
    policy = torch.log_softmax(logits, 0)
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    torch.testing.assert_close(estimate, true if kind == "k2" else torch.zeros_like(true))


def test_the_value_loss_matches_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, targets = torch.randn((3, 4, 6), generator=generator, dtype=torch.float64)
    values = values.clone().requires_grad_()
    result = value_loss(values, old, targets, 0.2)
    result.sum().backward()  # type: ignore[no-untyped-call]
    result, gradient = result.detach(), values.grad
    assert gradient is not None
    values = values.detach()
    num_held = 0
    for i in range(4):
        for t in range(6):
            v, o, r = float(values[i, t]), float(old[i, t]), float(targets[i, t])
            bounded = min(max(v, o - 0.2), o + 0.2)
            assert float(result[i, t]) == pytest.approx(0.5 * max((v - r) ** 2, (bounded - r) ** 2))
            held = (bounded - r) ** 2 > (v - r) ** 2
            num_held += held
            assert float(gradient[i, t]) == pytest.approx(0.0 if held else v - r)
    assert num_held > 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_weights_match_loops(level: Literal["token", "sequence"]) -> None:
    tokens = _tokens(3)
    old, sampled = tokens.policy.detach(), torch.where(tokens.mask, tokens.old, torch.nan)
    result = importance_weights(tokens.policy, sampled, tokens.mask, level, 1.2)
    assert not result.weights.requires_grad
    num_cut = 0
    for i in range(ROWS):
        places = [t for t in range(PLACES) if tokens.mask[i, t]]
        gaps = {t: float(old[i, t]) - float(sampled[i, t]) for t in places}
        for t in places:
            ratio = math.exp(gaps[t] if level == "token" else sum(gaps.values()))
            assert float(result.untruncated[i, t]) == pytest.approx(ratio)
            assert float(result.weights[i, t]) == pytest.approx(min(ratio, 1.2))
            num_cut += ratio > 1.2
    assert 0 < num_cut < int(tokens.mask.sum())
    assert (result.weights[~tokens.mask] == 1).all()
