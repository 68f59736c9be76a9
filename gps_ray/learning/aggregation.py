"""How the token losses of a mini-batch become one number.

    L = 1/D sum_i w_i sum_t L_it

    token-mean                w_i = 1       D = number of response tokens       (DAPO, arXiv 2503.14476, equation 8)
    seq-mean-token-mean       w_i = 1/T_i   D = number of responses             (GRPO, arXiv 2402.03300, equation 3)
    seq-mean-token-sum-norm   w_i = 1       D = number of responses * T_max     (Dr.GRPO, arXiv 2503.20783, section 3.2)

T_i is the length of response i, T_max the longest that is allowed. Tokens and responses are counted over ALL groups of
the mini-batch: over all workers, and with the groups of equal rewards, which need no forward pass, so that the step
size depends neither on the number of workers nor on how many such groups a selector brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

__all__ = ["AggregationMode", "denominator", "row_weight"]

AggregationMode = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def row_weight(length: int, mode: AggregationMode) -> float:
    """w_i of a response of ``length`` tokens."""
    return 1.0 / length if mode == "seq-mean-token-mean" else 1.0


def denominator(lengths: Sequence[int], mode: AggregationMode, max_response_tokens: int) -> float:
    """D of a mini-batch's responses of at least one token each."""
    if mode == "token-mean":
        return float(sum(lengths))
    return float(len(lengths) * (max_response_tokens if mode == "seq-mean-token-sum-norm" else 1))
