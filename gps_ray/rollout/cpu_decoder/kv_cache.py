"""A key-value cache with room for the whole response, on transformers' own cache classes.

transformers grows its dynamic cache by concatenation, which copies every key and value once per token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["PreallocatedLayer", "preallocated_cache"]


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Full attention of one layer: buffers [R, H_kv, capacity, head_dim], of which the first ``length`` tokens are set.

    ``keys`` and ``values`` are views of the part in use, as transformers expects.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.key_buffer = torch.empty(0)
        self.value_buffer = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [R, H_kv, new tokens, head_dim] behind the tokens in use and return all keys and values in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            num_rows, num_heads, _, head_dim = key_states.shape
            self.key_buffer = key_states.new_empty(num_rows, num_heads, self.capacity, head_dim)
            self.value_buffer = value_states.new_empty(num_rows, num_heads, self.capacity, value_states.shape[-1])
        start, stop = self.length, self.length + key_states.shape[-2]
        self.key_buffer[:, :, start:stop] = key_states
        self.value_buffer[:, :, start:stop] = value_states
        self.advance(stop)
        return self.keys, self.values

    def advance(self, length: int) -> None:
        """Say that the buffers hold ``length`` tokens (for a caller that wrote them itself)."""
        self.length = length
        self.keys = self.key_buffer[:, :, :length]
        self.values = self.value_buffer[:, :, :length]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row r becomes the old row ``beam_idx[r]``; rows may repeat (branching) or be left out (compaction)."""
        self.key_buffer = self._gathered(self.key_buffer, beam_idx)
        self.value_buffer = self._gathered(self.value_buffer, beam_idx)
        self.advance(self.length)

    def _gathered(self, buffer: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        out = buffer.new_empty(len(rows), *buffer.shape[1:])
        out[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, rows)
        return out


def preallocated_cache(config: Any, capacity: int) -> DynamicCache:
    """transformers' cache for ``config`` with room for ``capacity`` tokens in every full-attention layer.

    Layers of other kinds (sliding windows, linear attention) keep the library's own classes.
    """
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
