"""GRPO's clipped policy loss, averaged over tokens.

With rho_it = exp(policy_it - sampled_it), the advantage A_i of response i, and N the number of response tokens of ALL
groups of the mini-batch, over all ranks, skipped zero-variance groups included::

    L = 1/N  sum_i sum_t [ max(-A_i rho_it, -A_i clip(rho_it, 1 - low, 1 + high)) + beta k3_it ]
    k3_it = exp(reference_it - policy_it) - (reference_it - policy_it) - 1        (an unbiased estimate of the KL)

Sources: PPO's clip, arXiv 1707.06347, equation 7; group baseline and k3, DeepSeekMath, arXiv 2402.03300, equations 3
and 4; separate clip bounds and the token-level mean, DAPO, arXiv 2503.14476, equation 8.

Assumes that the sampled log-probs belong to the distribution that was drawn from (same temperature), and that the
rollouts are at most a few updates old. Zero-variance groups add nothing to the first term, so they need no forward
pass; their tokens stay in N, so that the step size does not depend on how many of them a selector brings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GrpoTerms", "grpo_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoTerms:
    """``loss`` is this micro-batch's share of L (shares add up to L); the sums are over its response tokens."""

    loss: Tensor
    num_clipped: Tensor
    kl_to_sampled_sum: Tensor
    kl_to_reference_sum: Tensor


def grpo_loss(
    policy_logprobs: Tensor,
    sampled_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    token_denominator: float,
    clip_ratio_low: float,
    clip_ratio_high: float,
    kl_coefficient: float = 0.0,
    reference_logprobs: Tensor | None = None,
) -> GrpoTerms:
    """One micro-batch: log-probs and mask [M, T] (mask is 1 on response tokens), advantages [M].

    ``token_denominator`` is N of the module's formula. Gradients flow through ``policy_logprobs`` only.
    """
    # Padding holds arbitrary numbers; an inf there times a mask of 0 would be NaN.
    log_ratio = torch.where(mask, policy_logprobs - sampled_logprobs, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_ratio_low, 1.0 + clip_ratio_high)
    weight = -advantages.unsqueeze(1)
    per_token = torch.maximum(weight * ratio, weight * clipped)
    reference_kl = torch.zeros_like(per_token)
    if reference_logprobs is not None:
        reference_gap = torch.where(mask, reference_logprobs - policy_logprobs, 0.0)
        reference_kl = reference_gap.exp() - reference_gap - 1.0
        per_token = per_token + kl_coefficient * reference_kl
    with torch.no_grad():
        # A token counts as clipped where the clipped branch is the one that the maximum took, hence no gradient.
        num_clipped = ((weight * clipped > weight * ratio) & mask).sum()
        # k3 with the roles swapped: the ratio is already there, and the result is never negative.
        kl_to_sampled = ((ratio - 1.0 - log_ratio) * mask).sum()
    return GrpoTerms(
        loss=(per_token * mask).sum() / token_denominator,
        num_clipped=num_clipped,
        kl_to_sampled_sum=kl_to_sampled,
        kl_to_reference_sum=(reference_kl.detach() * mask).sum(),
    )
