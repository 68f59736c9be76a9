"""What a policy loss sees and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MAX_LOG_RATIO", "ClipRange", "PolicyLoss", "PolicyTokens", "TokenLoss", "bounded_ratio"]

# Ratios are kept within exp(+-this): finite in float32, and far beyond any clip.
MAX_LOG_RATIO = 20.0


def bounded_ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio); beyond +-MAX_LOG_RATIO it stays where it is and has no gradient. Without the bound the gradient
    of an inf that the clip hides is 0 * inf = NaN, and one such token costs the whole step."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTokens:
    """A micro-batch: log-probs under the policy (gradients flow here only) and under the old policy, advantages, and
    the mask, True on response tokens. All [M, T]."""

    policy: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor

    def log_ratio(self) -> Tensor:
        """policy - old [M, T], 0 off the mask: padding holds arbitrary numbers, and an inf times 0 would be NaN."""
        return torch.where(self.mask, self.policy - self.old, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRange:
    """A probability ratio is cut off below 1 - low and above 1 + high."""

    low: float
    high: float

    def clip(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(1.0 - self.low, 1.0 + self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """per_token [M, T]: finite everywhere, whatever padding holds; is_clipped [M, T] bool: the clip cut the gradient
    (or, where a loss keeps it, the weight)."""

    per_token: Tensor
    is_clipped: Tensor


PolicyLoss = Callable[[PolicyTokens, ClipRange], TokenLoss]
