"""Rollouts into padded micro-batches of a bounded number of tokens.

A *line* is a prompt with one or more of its responses behind it. The rollouts of a group have their prompt in common,
so a line that holds several computes it once: G * (P + T) tokens become P + G * T. Each response sees the prompt and
itself, and stands at the positions it had alone (the shared prefix of Liu et al., "Prefix Grouper", arXiv 2506.05433,
with a mask in place of split attention calls).

Lines are ordered by length, so that a micro-batch pads little. Padding goes to the right. Where every line holds one
response, a causal mask says all there is to say: no attention mask is needed and the backbone may use its fast causal
kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gps_ray.base.types import FloatArray, IntArray

__all__ = ["PackedBatch", "PackedLine", "TrainRow", "blank_batch", "lines_of", "pack", "split_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One response to learn from: prompt_tokens [P >= 1], response_tokens [T >= 1], sampled_logprobs [T] (None where
    no engine sampled it: supervised training). ``number`` tells the rows of an update apart."""

    prompt_tokens: IntArray
    response_tokens: IntArray
    sampled_logprobs: FloatArray | None = None
    number: int = -1


# Rows of one prompt that stand behind one copy of it.
PackedLine = tuple[TrainRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One forward pass. Internal to the learner: it never crosses a process boundary.

    What the model reads: tokens [R, L] int64 of R lines; with shared prompts also positions [R, L] int64 and attention
    [R, 1, L, L] bool (query, key), else None. Logits are needed at the last ``num_logits`` = K places of each line;
    ``sources`` [M, T] int64 are the places (line * K + k) that predict ``targets`` [M, T], one row per response.
    ``mask`` [M, T] is True on response tokens, from the left; ``sampled_logprobs`` [M, T] is 0 elsewhere; ``numbers``
    [M] int64 are those of the rows.
    """

    tokens: Tensor
    positions: Tensor | None
    attention: Tensor | None
    num_logits: int
    sources: Tensor
    targets: Tensor
    mask: Tensor
    sampled_logprobs: Tensor
    numbers: Tensor

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return int(self.mask.sum())

    def inputs(self) -> dict[str, Tensor | bool | None]:
        """What the backbone of a transformers model is called with."""
        return {
            "input_ids": self.tokens,
            "position_ids": self.positions,
            "attention_mask": self.attention,
            "use_cache": False,
        }

    def at_targets(self, outputs: Tensor) -> Tensor:
        """Outputs [R, K, ...] of the last K places of each line -> [M, T, ...] where the targets are predicted."""
        return outputs.flatten(0, 1)[self.sources]

    def of_responses(self, hidden: Tensor) -> Tensor:
        """Hidden states [R, L, H] -> [N, H] of the places that predict a response token, in the order of
        ``targets[mask]``. A copy of those alone."""
        places = self.sources[self.mask]
        first = self.tokens.shape[1] - self.num_logits
        return hidden[places // self.num_logits, first + places % self.num_logits]

    def to(self, device: torch.device) -> PackedBatch:
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)


def lines_of(rows: Sequence[TrainRow], max_shared_tokens: int = 0) -> list[PackedLine]:
    """The rows in lines, in the order in which their prompts first come.

    Rows of equal prompts share a line as long as it has at most ``max_shared_tokens`` tokens; 0: every row alone. The
    mask of a shared line costs L bytes per token, so lines must not grow without end.
    """
    by_prompt: dict[bytes, list[list[TrainRow]]] = {}
    lines: list[list[TrainRow]] = []
    for row in rows:
        of_prompt = by_prompt.setdefault(np.asarray(row.prompt_tokens, dtype=np.int64).tobytes(), [])
        if not of_prompt or _length((*of_prompt[-1], row)) > max_shared_tokens:
            of_prompt.append([])
            lines.append(of_prompt[-1])
        of_prompt[-1].append(row)
    return [tuple(line) for line in lines]


def _length(line: Sequence[TrainRow]) -> int:
    """Tokens of a line. The last token of a response predicts nothing and is left out."""
    return len(line[0].prompt_tokens) + sum(len(row.response_tokens) - 1 for row in line)


def _assemble(lines: Sequence[PackedLine]) -> PackedBatch:
    length = max(map(_length, lines))
    first = min(len(line[0].prompt_tokens) for line in lines) - 1
    rows = [row for line in lines for row in line]
    longest = max(len(row.response_tokens) for row in rows)
    tokens, positions, segments = (np.zeros((len(lines), length), dtype=np.int64) for _ in range(3))
    segments[:] = -1  # padding; 0 is the prompt, i the i-th response
    sources, targets = (np.zeros((len(rows), longest), dtype=np.int64) for _ in range(2))
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    sampled = np.zeros((len(rows), longest), dtype=np.float32)
    m = 0
    for r, line in enumerate(lines):
        num_prompt = len(line[0].prompt_tokens)
        tokens[r, :num_prompt] = line[0].prompt_tokens
        positions[r, :num_prompt] = np.arange(num_prompt)
        segments[r, :num_prompt] = 0
        begin = num_prompt
        for i, row in enumerate(line, start=1):
            num_response = len(row.response_tokens)
            span = slice(begin, begin + num_response - 1)
            tokens[r, span] = row.response_tokens[:-1]
            positions[r, span] = np.arange(num_prompt, num_prompt + num_response - 1)
            segments[r, span] = i
            # The prompt's last token predicts the first of every response.
            predicting = np.concatenate([[num_prompt - 1], np.arange(span.start, span.stop)])
            sources[m, :num_response] = r * (length - first) + predicting - first
            targets[m, :num_response] = row.response_tokens
            mask[m, :num_response] = True
            if row.sampled_logprobs is not None:
                sampled[m, :num_response] = row.sampled_logprobs
            begin, m = span.stop, m + 1
    shared = any(len(line) > 1 for line in lines)
    return PackedBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions) if shared else None,
        attention=_attention(torch.from_numpy(segments)) if shared else None,
        num_logits=length - first,
        sources=torch.from_numpy(sources),
        targets=torch.from_numpy(targets),
        mask=torch.from_numpy(mask),
        sampled_logprobs=torch.from_numpy(sampled),
        numbers=torch.tensor([row.number for row in rows], dtype=torch.int64),
    )


def _attention(segments: Tensor) -> Tensor:
    """[R, 1, L, L]: a token sees what stands before it in the prompt and in its own response, and itself (padding must
    see something, or its softmax is NaN)."""
    query, key = segments[:, None, :, None], segments[:, None, None, :]
    return ((key == 0) | (key == query)) & torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()


def pack(lines: Sequence[PackedLine], max_tokens: int, *, by_prompt: bool = False) -> list[PackedBatch]:
    """Micro-batches of at most ``max_tokens`` tokens each, padding counted, what the model reads and what the loss
    sees; a longer line stands alone.

    Lines are ordered by their length, those that share a prompt apart from the others: these need no mask. With
    ``by_prompt`` the prompt's length goes first: that pads more, and computes fewer logits that nobody reads where the
    model gives them from the shortest prompt of a micro-batch on. The result depends on the lines and their order only:
    equal lengths keep their order.
    """
    parts: list[list[PackedLine]] = []
    size = _Size()
    for line in sorted(lines, key=_by_prompt if by_prompt else _by_length):
        apart = not by_prompt and parts and _is_shared(parts[-1][-1]) != _is_shared(line)
        if not parts or apart or size.with_line(line).padded > max_tokens:
            parts.append([])
            size = _Size()
        parts[-1].append(line)
        size = size.with_line(line)
    return [_assemble(part) for part in parts]


def _is_shared(line: PackedLine) -> bool:
    return len(line) > 1


def _by_prompt(line: PackedLine) -> tuple[int, int]:
    return len(line[0].prompt_tokens), _length(line)


def _by_length(line: PackedLine) -> tuple[bool, int]:
    return not _is_shared(line), _length(line)


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a micro-batch: its lines and rows, and the longest of each."""

    num_lines: int = 0
    num_rows: int = 0
    line: int = 0
    response: int = 0

    def with_line(self, line: PackedLine) -> _Size:
        response = max(len(row.response_tokens) for row in line)
        return _Size(
            self.num_lines + 1,
            self.num_rows + len(line),
            max(self.line, _length(line)),
            max(self.response, response),
        )

    @property
    def padded(self) -> int:
        """Tokens with their padding: of the lines, or of the responses in rows of their own."""
        return max(self.num_lines * self.line, self.num_rows * self.response)


def split_lines(lines: Sequence[PackedLine], num_parts: int) -> list[list[PackedLine]]:
    """The lines in ``num_parts`` parts of about equally many tokens, each in the given order.

    Longest first, each to the part with the fewest tokens so far: at most one line's length apart.
    """
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    sizes = [0] * num_parts
    for i in sorted(range(len(lines)), key=lambda i: -_length(lines[i])):
        part = sizes.index(min(sizes))
        parts[part].append(i)
        sizes[part] += _length(lines[i])
    return [[lines[i] for i in sorted(part)] for part in parts]


def blank_batch(line: PackedLine) -> PackedBatch:
    """A forward pass that counts for nothing: train workers that share a model must all make equally many."""
    batch = _assemble([line])
    return replace(batch, mask=torch.zeros_like(batch.mask), sampled_logprobs=torch.zeros_like(batch.sampled_logprobs))
