import math

import pytest
import torch
from torch import Tensor

from gps_ray.learning.losses.grpo import GrpoTerms, grpo_loss

LOW, HIGH, BETA, DENOMINATOR = 0.1, 0.3, 0.05, 40.0


def _case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 7)
    policy = -2 * torch.rand(shape, generator=generator)
    sampled = policy + 0.4 * torch.randn(shape, generator=generator)
    reference = policy + 0.4 * torch.randn(shape, generator=generator)
    advantages = torch.randn(5, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.7
    return policy.requires_grad_(), sampled, reference, advantages, mask


def _loss(policy: Tensor, sampled: Tensor, advantages: Tensor, mask: Tensor, reference: Tensor | None) -> GrpoTerms:
    return grpo_loss(
        policy,
        sampled,
        advantages,
        mask,
        token_denominator=DENOMINATOR,
        clip_ratio_low=LOW,
        clip_ratio_high=HIGH,
        kl_coefficient=0.0 if reference is None else BETA,
        reference_logprobs=reference,
    )


def _by_loop(
    policy: Tensor, sampled: Tensor, advantages: Tensor, mask: Tensor, reference: Tensor | None
) -> tuple[float, Tensor, int]:
    """Loss, its gradient by hand, and the number of tokens at which the clip cut the gradient off."""
    loss, gradient, num_clipped = 0.0, torch.zeros_like(policy), 0
    for i in range(policy.shape[0]):
        for t in range(policy.shape[1]):
            if not mask[i, t]:
                continue
            advantage = float(advantages[i])
            ratio = math.exp(float(policy[i, t]) - float(sampled[i, t]))
            bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
            if ratio * advantage <= bounded * advantage:  # PPO takes the smaller objective
                loss -= ratio * advantage
                gradient[i, t] -= ratio * advantage
            else:
                loss -= bounded * advantage
                num_clipped += 1
            if reference is not None:
                gap = float(reference[i, t]) - float(policy[i, t])
                loss += BETA * (math.exp(gap) - gap - 1)
                gradient[i, t] += BETA * (1 - math.exp(gap))
    return loss / DENOMINATOR, gradient / DENOMINATOR, num_clipped


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_match_a_loop(seed: int, with_reference: bool) -> None:
    policy, sampled, reference, advantages, mask = _case(seed)
    terms = _loss(policy, sampled, advantages, mask, reference if with_reference else None)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    loss, gradient, num_clipped = _by_loop(
        policy.detach(), sampled, advantages, mask, reference if with_reference else None
    )
    assert float(terms.loss.detach()) == pytest.approx(loss, abs=1e-6)
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, gradient, atol=1e-6, rtol=1e-5)
    assert int(terms.num_clipped) == num_clipped > 0


def test_padding_cannot_reach_the_loss() -> None:
    policy, sampled, reference, advantages, mask = _case(0)
    plain = _loss(policy, sampled, advantages, mask, reference)
    dirty = torch.where(mask, policy.detach(), torch.inf).requires_grad_()
    terms = _loss(dirty, sampled, advantages, mask, torch.where(mask, reference, torch.nan))
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert float(terms.loss.detach()) == float(plain.loss.detach())
    assert dirty.grad is not None
    assert torch.isfinite(dirty.grad).all()
    assert (dirty.grad[~mask] == 0).all()


def test_shares_of_micro_batches_add_up_to_the_loss_of_the_whole() -> None:
    policy, sampled, reference, advantages, mask = _case(1)
    whole = _loss(policy, sampled, advantages, mask, reference)
    parts = [
        _loss(policy[rows], sampled[rows], advantages[rows], mask[rows], reference[rows])
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert float(sum(part.loss.detach() for part in parts)) == pytest.approx(float(whole.loss.detach()), abs=1e-7)


def test_approximate_kl_is_positive_off_policy_and_zero_on_policy() -> None:
    policy, sampled, _, advantages, mask = _case(2)
    assert float(_loss(policy, sampled, advantages, mask, None).kl_to_sampled_sum) > 0
    on_policy = _loss(policy, policy.detach(), advantages, mask, None)
    assert float(on_policy.kl_to_sampled_sum) == 0
    assert int(on_policy.num_clipped) == 0
