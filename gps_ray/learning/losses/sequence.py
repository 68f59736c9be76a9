"""Losses whose unit is the whole response: one ratio per response, one loss, carried by each of its tokens.

RLOO takes the response as one action, the ratio is that of its probability::

    s_i = exp(sum_t policy_it - old_it)

GSPO takes the geometric mean over tokens, so that the ratio's scale does not depend on the length::

    s_i = exp(1/T_i sum_t policy_it - old_it)

and both::

    L_it = max(-A_i s_i, -A_i clip(s_i, 1 - low, 1 + high))

Averaged by "seq-mean-token-mean" this is the mean over responses. Before the first step of an update s_i = 1 and
RLOO's gradient is that of REINFORCE, -A_i sum_t grad policy_it; later mini-batches are corrected for the steps in
between. Sources: GSPO, arXiv 2507.18071, equations 5 to 7; RLOO, arXiv 2402.14740, section 2.3, whose single
on-policy step needs no ratio.
"""

from __future__ import annotations

from gps_ray.learning.losses.clipped import clipped_surrogate
from gps_ray.learning.losses.interface import ClipRange, PolicyTokens, TokenLoss, bounded_ratio

__all__ = ["gspo_loss", "rloo_loss"]


def gspo_loss(tokens: PolicyTokens, clip: ClipRange) -> TokenLoss:
    """The loss of each response by the geometric mean of its ratios, on each of its tokens."""
    lengths = tokens.mask.sum(1, keepdim=True).clamp(min=1)
    log_ratio = tokens.log_ratio().sum(1, keepdim=True) / lengths
    return clipped_surrogate(bounded_ratio(log_ratio), tokens.advantages, clip)


def rloo_loss(tokens: PolicyTokens, clip: ClipRange) -> TokenLoss:
    """The loss of each response by the ratio of its probabilities, on each of its tokens."""
    log_ratio = tokens.log_ratio().sum(1, keepdim=True)
    return clipped_surrogate(bounded_ratio(log_ratio), tokens.advantages, clip)
