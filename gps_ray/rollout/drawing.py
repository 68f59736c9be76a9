"""From logits to tokens: the distribution that ``Sampling`` describes, and one draw from it."""

from __future__ import annotations

import torch

from gps_ray.base.types import Sampling

__all__ = ["draw", "drawn_logprobs"]


def draw(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [R] from logits [R, V] by inverse CDF with uniforms [R], and their log-probs [R] float32 under the
    distribution that they were drawn from. Greedy: the likeliest, with its log-prob at temperature 1, as vLLM has it.
    """
    logprobs = drawn_logprobs(logits, sampling)
    if sampling.is_greedy:
        tokens = logits.argmax(-1, keepdim=True)
        return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
    cdf = logprobs.exp().cumsum(-1)
    # The first token whose cumulative probability exceeds u * total: one of probability 0 is never drawn.
    target = (uniforms * cdf[:, -1])[:, None]
    tokens = torch.searchsorted(cdf, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


def drawn_logprobs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probs [R, V] float32 of the distribution that tokens are drawn from; -inf for those that never are. Greedy:
    the policy's at temperature 1."""
    if sampling.is_greedy:
        return torch.log_softmax(logits.float(), dim=-1)
    logprobs = torch.log_softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.takes_tokens_away:
        logprobs = torch.log_softmax(_kept(logprobs, sampling), dim=-1)
    return logprobs


def _kept(logprobs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """logprobs [R, V] with -inf for the tokens that min_p, top_k and top_p take away, in vLLM's order and with its
    treatment of ties: those equal to the k-th stay."""
    minus = float("-inf")
    if sampling.min_p > 0:
        probabilities = logprobs.exp()
        floor = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logprobs = logprobs.masked_fill(probabilities < floor, minus)
    if 0 < sampling.top_k < logprobs.shape[-1]:
        least = logprobs.topk(sampling.top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < least, minus)
    if sampling.top_p < 1:
        ascending, order = logprobs.sort(dim=-1)
        is_dropped = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        is_dropped[:, -1] = False  # the likeliest one stays
        logprobs = logprobs.masked_fill(torch.zeros_like(is_dropped).scatter_(1, order, is_dropped), minus)
    return logprobs
