"""Reward shaping before the advantages: soft overlong punishment.

With T the response's length, T_max the longest that is allowed and b the buffer::

    r <- r + factor * clip((T_max - b - T) / b, -1, 0)

Source: DAPO, arXiv 2503.14476, equation 13. The predictor never sees it: it counts verdicts, not rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OverlongPenalty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongPenalty:
    """``buffer_tokens`` = 0 switches it off."""

    max_response_tokens: int
    buffer_tokens: int = 0
    factor: float = 1.0

    def __call__(self, num_tokens: int) -> float:
        """What a response of ``num_tokens`` tokens gets on top of its reward: 0 or less."""
        if not self.buffer_tokens:
            return 0.0
        beyond = num_tokens - (self.max_response_tokens - self.buffer_tokens)
        return -self.factor * min(max(beyond / self.buffer_tokens, 0.0), 1.0)
