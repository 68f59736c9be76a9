"""One batch of responses being decoded, token by token: the generic way, through the model's own forward."""

from __future__ import annotations

from typing import Any

import torch

from gps_ray.rollout.cpu_decoder.kv_cache import preallocated_cache

__all__ = ["Decoder"]


class Decoder:
    """Decodes with any transformers causal LM: one prefill per prompt, then one row per response.

    Usage: ``prefill`` once, ``select_rows`` to branch each prompt into its responses, then alternately sample and
    ``step``; ``select_rows`` again to drop finished rows. Prompts are padded on the left. Axes: K prompts, R rows,
    P prompt tokens with padding, V vocabulary.
    """

    def __init__(self, model: Any, max_new_tokens: int) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        # Tokens of every row so far, and what it may reach; both with padding.
        self.num_tokens = self.capacity = 0

    def prefill(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [K, V] of the first response token. tokens [K, P] int64, mask [K, P] bool (False: padding)."""
        num_prompts, self.num_tokens = tokens.shape
        self.capacity = self.num_tokens + self.max_new_tokens
        self.cache = preallocated_cache(self.model.config, self.capacity)
        self.is_padded = not bool(mask.all())
        self.mask = mask.new_ones(num_prompts, self.capacity)
        self.mask[:, : self.num_tokens] = mask
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        self.positions = positions[:, -1]
        return self._forward(tokens, positions)

    def select_rows(self, rows: torch.Tensor) -> None:
        """Row r becomes the old row ``rows[r]`` (int64); a row may be repeated or left out."""
        self.cache.reorder_cache(rows)
        self.mask = self.mask[rows]
        self.positions = self.positions[rows]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens [R] int64 and return the logits [R, V] of the next ones."""
        self.num_tokens += 1
        self.positions = self.positions + 1
        return self._forward(tokens[:, None], self.positions[:, None])

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Append tokens [R, new] at positions [R, new]; logits [R, V] behind the last one."""
        # Without padding the library needs no mask at all, which is quicker.
        mask = self.mask[:, : self.num_tokens] if self.is_padded else None
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits
