"""Log-probs and entropies from hidden states, the model's head a piece of the rows at a time.

The whole logits [N, V] of a real vocabulary are the largest tensor of an update. Here a piece [n, V] of them lives at a
time, in the forward pass and once more in the backward pass, which makes it anew from the hidden states. With
z = finish(head(h)) / temperature and p = softmax(z)::

    log p_y = z_y - logsumexp(z)        d log p_y / d z = onehot(y) - p        entropy = - sum_v p_v log p_v

The gradient of the head's own parameters is summed over the pieces in float32. torch's ``linear_cross_entropy`` cuts
the same way, but takes the loss's gradient in the forward pass, before a policy loss knows its weights, and has neither
the entropy nor logits that are capped or without a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Head", "logprobs_in_pieces", "piece_entries"]


def piece_entries(device: torch.device) -> int:
    """Logits of one piece: 64 MiB in float32 on a CPU, 256 on a GPU, where short pieces leave it idle. At the peak
    three such tensors live."""
    return 1 << (24 if device.type == "cpu" else 26)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """``finish(linear(hidden)) / temperature``; ids in ``unknown`` [any] int64 have no share in the distribution."""

    linear: nn.Module
    finish: Callable[[Tensor], Tensor]
    temperature: float
    unknown: Tensor | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V] as the model gives them."""
        logits: Tensor = self.finish(self.linear(hidden))
        return logits

    def scaled(self, logits: Tensor) -> Tensor:
        """[n, V] float32, a tensor of its own, without a gradient."""
        scaled = logits.detach().float() / self.temperature
        if self.unknown is not None and len(self.unknown):
            # Not -inf: an entropy of it would be NaN; the probability is 0 all the same.
            scaled.index_fill_(-1, self.unknown, torch.finfo(torch.float32).min)
        return scaled

    def slope(self, logits: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
        """d (sum_i gradient_i log p_{y_i}) / d logits [n, V], in their dtype."""
        slope = torch.softmax(self.scaled(logits), dim=-1).mul_(-gradient.unsqueeze(-1))
        slope.scatter_add_(-1, targets.unsqueeze(-1), gradient.unsqueeze(-1))
        return slope.div_(self.temperature).to(logits.dtype)


def logprobs_in_pieces(head: Head, hidden: Tensor, targets: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Log-probs [N] float32 of ``targets`` [N], and the entropies [N], which have no gradient; hidden [N, H], of which
    ``num_rows`` meet the head at a time."""
    trained = [parameter for parameter in head.linear.parameters() if parameter.requires_grad]
    logprobs, entropies = _InPieces.apply(head, targets, num_rows, hidden, *trained)  # type: ignore[no-untyped-call]
    return logprobs, entropies


def _parts(num_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, num_rows, size))


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, head: Head, targets: Tensor, num_rows: int, hidden: Tensor, *trained: Tensor
    ) -> tuple[Tensor, Tensor]:
        chosen, entropies = (torch.empty(len(hidden), device=hidden.device) for _ in range(2))
        for part in _parts(len(hidden), num_rows):
            logprobs = torch.log_softmax(head.scaled(head.logits(hidden[part])), dim=-1)
            chosen[part] = logprobs.gather(-1, targets[part].unsqueeze(-1)).squeeze(-1)
            entropies[part] = -logprobs.exp().mul_(logprobs).sum(-1)
        kind = hidden.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.head, ctx.num_rows = head, num_rows
        ctx.save_for_backward(targets, hidden, *trained)
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        targets, hidden, *trained = ctx.saved_tensors
        kind, dtype, enabled = ctx.autocast
        of_hidden = torch.empty_like(hidden)
        # Also where there are no rows: train workers that share the model must all have the same gradients.
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in trained]
        with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
            for part in _parts(len(hidden), ctx.num_rows):
                rows = hidden[part].detach().requires_grad_()
                logits = ctx.head.logits(rows)
                slope = ctx.head.slope(logits, targets[part], gradients[0][part])
                of_hidden[part], *found = torch.autograd.grad(logits, (rows, *trained), slope)
                for total, gradient in zip(sums, found, strict=True):
                    total.add_(gradient)
        of_trained = (total.to(parameter.dtype) for total, parameter in zip(sums, trained, strict=True))
        return None, None, None, of_hidden, *of_trained
