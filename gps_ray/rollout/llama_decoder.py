"""The decoding step of Llama-like models on a CPU, written out.

For a small model most of a decoding step through transformers is Python, mask building and an attention kernel made
for long queries. This step is the same arithmetic in a third of the operations. Prefill, cache and everything else
are the generic decoder's; tests hold both to the same logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, rms_norm
from torch.nn.functional import embedding, linear, silu

from gps_ray.rollout.decoder import Decoder

__all__ = ["LlamaDecoder"]

_ARCHITECTURES = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
# Those whose cosines depend on the position only, not on the length of the sequence.
_ROPE_TYPES = frozenset({"default", "linear", "llama3"})


_Linear = tuple[torch.Tensor, torch.Tensor | None]
_Norm = tuple[tuple[int, ...], torch.Tensor, float]


def _norm_of(module: Any) -> Any:
    """Arguments of ``rms_norm`` after the input."""
    return None if module is None else (module.weight.shape, module.weight, module.variance_epsilon)


def _joined(linears: list[nn.Linear]) -> _Linear:
    """One matrix (and bias) for several projections of the same input.

    The modules' own parameters become views of it, so there is one copy and weights loaded in place are seen here.
    """
    weight = torch.cat([part.weight.data for part in linears])
    biases = [part.bias.data for part in linears if part.bias is not None]
    bias = torch.cat(biases) if biases else None
    start = 0
    for part in linears:
        stop = start + part.out_features
        part.weight.data = weight[start:stop]
        if bias is not None:
            part.bias.data = bias[start:stop]
        start = stop
    return weight, bias


class _Layer:
    """The parameters of one decoder layer, with joined projections."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self.gate_up = _joined([mlp.gate_proj, mlp.up_proj])
        self.out = _joined([attention.o_proj])
        self.down = _joined([mlp.down_proj])
        self.input_norm, self.mlp_norm = _norm_of(layer.input_layernorm), _norm_of(layer.post_attention_layernorm)
        self.query_norm, self.key_norm = (_norm_of(getattr(attention, name, None)) for name in ("q_norm", "k_norm"))
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.num_query_heads = attention.q_proj.out_features // self.head_dim
        self.num_kv_heads = attention.k_proj.out_features // self.head_dim


class LlamaWeights:
    """What the step reads of a model; made once per model."""

    def __init__(self, model: Any) -> None:
        self.layers = [_Layer(layer) for layer in model.model.layers]
        self.embedding = model.model.embed_tokens.weight
        self.final_norm = _norm_of(model.model.norm)
        self.lm_head = model.lm_head.weight
        self.rotary = model.model.rotary_emb


class LlamaDecoder(Decoder):
    """Decodes Llama, Qwen2 and Qwen3 in float32 on a CPU."""

    def __init__(self, model: Any, weights: LlamaWeights, max_new_tokens: int) -> None:
        super().__init__(model, max_new_tokens)
        self.weights = weights

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether the written-out step computes what this model computes."""
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            type(model).__name__ in _ARCHITECTURES
            and model.dtype == torch.float32
            and model.device.type == "cpu"
            and config.hidden_act == "silu"
            and rope.get("rope_type") in _ROPE_TYPES
            and all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
        )

    def prefill(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = super().prefill(tokens, mask)
        table = torch.arange(self.num_tokens + self.max_new_tokens)[None]
        cosine, sine = self.weights.rotary(logits, table)
        half = sine.shape[-1] // 2
        # rotate_half(x) = [-x2, x1] is roll(x) with the sign moved into the table.
        signs = torch.cat([-torch.ones(half), torch.ones(half)])
        self.cosine, self.sine = cosine[0], sine[0] * signs
        return logits

    def select_rows(self, rows: torch.Tensor) -> None:
        super().select_rows(rows)
        # Added to the attention scores: 0 where a token may be seen, -inf on padding; one row per KV head.
        bias = torch.zeros(self.mask.shape).masked_fill_(~self.mask, float("-inf"))
        self.score_bias = bias.repeat_interleave(self.weights.layers[0].num_kv_heads, dim=0)[:, None]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        weights = self.weights
        self.num_tokens += 1
        self.positions = self.positions + 1
        cosine, sine = self.cosine[self.positions][:, None], self.sine[self.positions][:, None]
        score_bias = self.score_bias[:, :, : self.num_tokens]
        x = embedding(tokens, weights.embedding)
        for layer, cache in zip(weights.layers, self.cache.layers, strict=True):
            x = x + self._attention(layer, cache, rms_norm(x, *layer.input_norm), cosine, sine, score_bias)
            joined = linear(rms_norm(x, *layer.mlp_norm), *layer.gate_up)
            gate, up = joined.chunk(2, dim=-1)
            x = x + linear(silu(gate) * up, *layer.down)
        logits: torch.Tensor = linear(rms_norm(x, *weights.final_norm), weights.lm_head)
        return logits

    def _attention(
        self,
        layer: _Layer,
        cache: Any,
        x: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        score_bias: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of one new token per row: x [R, hidden] -> [R, hidden]; cosine, sine [R, 1, head_dim]."""
        num_rows, head_dim = len(x), layer.head_dim
        num_query, num_kv = layer.num_query_heads, layer.num_kv_heads
        heads = linear(x, *layer.qkv).view(num_rows, -1, head_dim)
        rotated, values = heads[:, : num_query + num_kv], heads[:, num_query + num_kv :]
        if layer.query_norm is not None:
            queries, keys = rotated[:, :num_query], rotated[:, num_query:]
            rotated = torch.cat([rms_norm(queries, *layer.query_norm), rms_norm(keys, *layer.key_norm)], dim=1)
        rotated = torch.addcmul(rotated * cosine, rotated.roll(head_dim // 2, -1), sine)
        place = self.num_tokens - 1
        cache.key_buffer[:, :, place] = rotated[:, num_query:]
        cache.value_buffer[:, :, place] = values
        cache.advance(self.num_tokens)
        # One small matrix product per row and KV head; its query heads are the rows of the left matrix.
        queries = rotated[:, :num_query].reshape(num_rows * num_kv, num_query // num_kv, head_dim)
        scores = torch.baddbmm(score_bias, queries, cache.keys.flatten(0, 1).transpose(1, 2), alpha=layer.scaling)
        mixed = torch.bmm(scores.softmax(-1), cache.values.flatten(0, 1))
        out: torch.Tensor = linear(mixed.view(num_rows, num_query * head_dim), *layer.out)
        return out
