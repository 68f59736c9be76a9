"""The one forward pass that RL, supervised training and the probe share.

There are two roads to the same log-probs. *Whole*: the model's own forward gives all logits, as any causal LM does.
*In pieces* (``pieces.py``): the model gives hidden states, those of response tokens alone meet its head, a piece at a
time. The second is for vocabularies and micro-batches whose logits would fill the memory; it is taken where it was
seen to give the model's own logits, the first where they are small.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from gps_ray.learning.packing import PackedBatch
from gps_ray.learning.pieces import Head, logprobs_in_pieces, piece_entries

__all__ = ["TokenScorer", "can_share_prompts", "token_logprobs"]

# Attention functions of transformers that take a mask of any form.
_MASKED_ATTENTION = ("sdpa", "eager")
# Tokens on which the two roads are compared.
_NUM_COMPARED = 32
# Of the largest logit. The same layers in the same order: they differ by rounding at most.
_TOLERANCE = 1e-3

Finish = Callable[[Tensor], Tensor]


def can_share_prompts(model: Any) -> bool:
    """Does this model attend to what a mask [R, 1, L, L] lets it see, and to nothing else? Sliding windows put a mask
    of their own over it, and layers without attention (state-space, linear) read every token before them."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ("full_attention",)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        config._attn_implementation in _MASKED_ATTENTION
        and set(layers) == {"full_attention"}
        and window is None
        and model._supports_sdpa
        and not getattr(model, "_is_stateful", False)
    )


def token_logprobs(
    model: Any, batch: PackedBatch, temperature: float, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs [M, T] of the batch's targets, and the full log-softmax [M, T, vocabulary], at ``temperature``: the
    whole road.

    Ids in ``unknown`` [any] int64, which no engine samples, have no share in it. Goes through the model's own
    ``forward``, so that any causal LM of transformers works, sharded or not.
    """
    logits = batch.at_targets(model(**batch.inputs(), logits_to_keep=batch.num_logits).logits)
    logits = logits.float() / temperature
    if unknown is not None and len(unknown):
        # In place, on a tensor of our own. Not -inf: an entropy of it would be NaN; the probability is 0 all the same.
        logits.index_fill_(-1, unknown, torch.finfo(torch.float32).min)
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1), logprobs


class TokenScorer:
    """A policy's log-probs and entropies, along the road that fits it.

    In pieces where the logits of ``max_tokens`` tokens are more than ``max_entries`` (one piece; None: the device's
    own). ``note`` says so where the whole road is taken all the same. The model's ``forward`` gets a second way through
    it, because FSDP2's hooks hang on the call of the model and gather its parameters for nothing else. To be made under
    the autocast it is used under.
    """

    def __init__(self, model: Any, unknown: Tensor, *, max_tokens: int, max_entries: int | None = None) -> None:
        self.model = model
        self._unknown = unknown
        self._head = model.get_output_embeddings()
        vocabulary = self._head.out_features
        entries = piece_entries(unknown.device) if max_entries is None else max_entries
        self._num_rows = max(1, entries // vocabulary)
        self._finish: Finish | None = None
        self.note: str | None = None
        if max_tokens * vocabulary > entries:
            self._finish = _finish_of(model, vocabulary, unknown.device)
            if self._finish is None:
                self.note = (
                    f"learning: {type(model).__name__} makes its logits from more than its last hidden states and its "
                    f"head, so they are computed whole: up to {13 * max_tokens * vocabulary / 2**30:.1f} GiB at "
                    f"learning.microbatch_tokens={max_tokens}; lower that if memory runs out"
                )

    @property
    def in_pieces(self) -> bool:
        return self._finish is not None

    def __call__(self, batch: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs [M, T] float32 of the batch's targets, and entropies [M, T] float32 without a gradient; what stands
        off the mask counts for nothing."""
        if self._finish is None:
            chosen, logprobs = token_logprobs(self.model, batch, temperature, self._unknown)
            with torch.no_grad():
                return chosen, -(logprobs.exp() * logprobs).sum(-1)
        head = Head(linear=self._head, finish=self._finish, temperature=temperature, unknown=self._unknown)
        targets = batch.targets[batch.mask]

        def score(hidden: Tensor) -> tuple[Tensor, Tensor]:
            return logprobs_in_pieces(head, batch.of_responses(hidden), targets, self._num_rows)

        found = self.model(**batch.inputs(), on_hidden=score)
        chosen, entropies = (torch.zeros(batch.mask.shape, device=batch.mask.device) for _ in range(2))
        return chosen.masked_scatter(batch.mask, found[0]), entropies.masked_scatter(batch.mask, found[1])


class _TwoWays:
    """A model's ``forward`` that can end before the head: with ``on_hidden`` it gives what that makes of the last
    hidden states [R, L, H]."""

    def __init__(self, model: Any) -> None:
        # The model holds this: a reference back would keep its memory until the next garbage collection.
        self._model, self._own = weakref.ref(model), type(model).forward

    def __call__(self, *args: Any, on_hidden: Callable[[Tensor], Any] | None = None, **inputs: Any) -> Any:
        model: Any = self._model()
        if on_hidden is None:
            return self._own(model, *args, **inputs)
        return on_hidden(model.base_model(*args, **inputs).last_hidden_state)


@torch.no_grad()
def _finish_of(model: Any, vocabulary: int, device: torch.device) -> Finish | None:
    """What the model does to its head's output, found by comparison with its own forward; None where it is nothing that
    is known here. The model's ``forward`` has the second way afterwards."""
    if model.base_model is model:
        return None
    if not isinstance(model.forward, _TwoWays):
        model.forward = _TwoWays(model)
    tokens = torch.arange(1, _NUM_COMPARED + 1, device=device).mul_(7919).remainder_(vocabulary).unsqueeze(0)
    own = model(input_ids=tokens, use_cache=False).logits.float()
    head = model.get_output_embeddings()
    raw = model(input_ids=tokens, use_cache=False, on_hidden=lambda hidden: head(hidden))
    if isinstance(model, FSDPModule):
        # FSDP2 leaves the root's parameters gathered: an optimizer made now would hold these and train nothing.
        model.reshard()
    largest = own.abs().max()
    for finish in _finishes(model.config.get_text_config()):
        difference = (finish(raw).float() - own).abs().max()
        if bool(difference <= _TOLERANCE * largest):
            return finish
    return None


def _finishes(config: Any) -> Iterator[Finish]:
    """What the configs of transformers' models name. What a config names comes first: of small logits a cap changes
    little, and none could be taken for it."""
    if cap := getattr(config, "final_logit_softcapping", None):
        yield lambda logits: torch.tanh(logits / cap) * cap
    if scale := getattr(config, "logits_scaling", None):
        yield lambda logits: logits / scale
    for name in ("logit_scale", "lm_head_multiplier"):
        if factor := getattr(config, name, None):
            yield partial(torch.mul, other=factor)
    yield lambda logits: logits
