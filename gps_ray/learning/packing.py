"""Rollouts into padded micro-batches of a bounded number of tokens.

Rows are ordered by length, so that a micro-batch pads little and computes few logits that nobody reads. Padding goes
to the right: under a causal mask a token never sees what stands behind it, so no attention mask is needed and the
backbone may use its fast causal kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gps_ray.types import FloatArray, IntArray

__all__ = ["PackedBatch", "Row", "blank_batch", "pack", "split_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One response to learn from: prompt_tokens [P >= 1], response_tokens [T >= 1], sampled_logprobs [T] (None where
    no engine sampled it: supervised training). ``number`` tells the rows of an update apart."""

    prompt_tokens: IntArray
    response_tokens: IntArray
    sampled_logprobs: FloatArray | None = None
    number: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One forward pass. Internal to the learner: it never crosses a process boundary.

    tokens [M, L] int64. Only the last ``num_logits`` = K positions of each row are needed: entry (m, k) of the arrays
    [M, K] belongs to position L - K + k, whose logits predict ``targets``. ``mask`` is True where the target is a
    response token; ``sampled_logprobs`` is 0 elsewhere; ``numbers`` [M] int64 are those of the rows.
    """

    tokens: Tensor
    num_logits: int
    targets: Tensor
    mask: Tensor
    sampled_logprobs: Tensor
    numbers: Tensor

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return int(self.mask.sum())

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(
            tokens=self.tokens.to(device),
            num_logits=self.num_logits,
            targets=self.targets.to(device),
            mask=self.mask.to(device),
            sampled_logprobs=self.sampled_logprobs.to(device),
            numbers=self.numbers.to(device),
        )


def _length(row: Row) -> int:
    return len(row.prompt_tokens) + len(row.response_tokens)


def _assemble(rows: Sequence[Row]) -> PackedBatch:
    length = max(_length(row) for row in rows)
    first = min(len(row.prompt_tokens) for row in rows) - 1
    num_logits = length - first
    tokens = torch.zeros((len(rows), length), dtype=torch.int64)
    targets = torch.zeros((len(rows), num_logits), dtype=torch.int64)
    mask = torch.zeros((len(rows), num_logits), dtype=torch.bool)
    sampled = torch.zeros((len(rows), num_logits), dtype=torch.float32)
    for m, row in enumerate(rows):
        num_prompt, num_response = len(row.prompt_tokens), len(row.response_tokens)
        response = torch.tensor(row.response_tokens, dtype=torch.int64)
        tokens[m, :num_prompt] = torch.tensor(row.prompt_tokens, dtype=torch.int64)
        tokens[m, num_prompt : num_prompt + num_response] = response
        # The logits at position P - 1 + t predict response token t.
        place = slice(num_prompt - 1 - first, num_prompt - 1 - first + num_response)
        targets[m, place] = response
        mask[m, place] = True
        if row.sampled_logprobs is not None:
            sampled[m, place] = torch.tensor(row.sampled_logprobs, dtype=torch.float32)
    return PackedBatch(
        tokens=tokens,
        num_logits=num_logits,
        targets=targets,
        mask=mask,
        sampled_logprobs=sampled,
        numbers=torch.tensor([row.number for row in rows], dtype=torch.int64),
    )


def pack(rows: Sequence[Row], max_tokens: int) -> list[PackedBatch]:
    """Micro-batches of at most ``max_tokens`` tokens each, padding counted; a longer row stands alone.

    The result depends on the rows and their order only: equal lengths keep their order.
    """
    batches: list[PackedBatch] = []
    current: list[Row] = []
    longest = 0
    for row in sorted(rows, key=lambda row: (len(row.prompt_tokens), len(row.response_tokens))):
        longest = max(longest, _length(row))
        if current and longest * (len(current) + 1) > max_tokens:
            batches.append(_assemble(current))
            current, longest = [], _length(row)
        current.append(row)
    if current:
        batches.append(_assemble(current))
    return batches


def split_rows(rows: Sequence[Row], num_parts: int) -> list[list[Row]]:
    """The rows in ``num_parts`` parts of about equally many tokens, each in the given order.

    Longest first, each to the part with the fewest tokens so far: at most one row's length apart.
    """
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    sizes = [0] * num_parts
    for i in sorted(range(len(rows)), key=lambda i: -_length(rows[i])):
        part = sizes.index(min(sizes))
        parts[part].append(i)
        sizes[part] += _length(rows[i])
    return [[rows[i] for i in sorted(part)] for part in parts]


def blank_batch(row: Row) -> PackedBatch:
    """A forward pass that counts for nothing: ranks that share a model must all make equally many."""
    batch = _assemble([row])
    return replace(batch, mask=torch.zeros_like(batch.mask), sampled_logprobs=torch.zeros_like(batch.sampled_logprobs))
