"""The forward pass of Llama-like models on a CPU, written out for decoding.

For a small model most of a decoding step through transformers is Python, mask building and an attention kernel made
for long queries. This is the same arithmetic in a third of the operations. The cache and the bookkeeping are the
generic decoder's; tests hold both, and the model's own forward, to the same logits.

With weights in bfloat16 the matrix products are in it (a CPU that has them is twice as quick); norms, attention and the
sum that runs through the layers stay in float32, as under the learner's autocast. The model's own forward would round
that sum after every layer.

It leans on how transformers names the parts of these models: ``_NAMES``, ``_LAYER_NAMES`` and ``_OWN_NAMES`` list all
that it reads. Where a version of transformers lacks one of them, ``LlamaDecoder.supports`` says so in the log and the
model's own forward is used. What names cannot show: ``rotary_emb(x, position_ids)`` must return cosine and sine, each
[1, positions, head_dim].
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from gps_ray.rollout.cpu_decoder.decoder import Decoder

__all__ = ["LlamaDecoder", "LlamaWeights"]

log = logging.getLogger(__name__)

_NAMES = (
    "config.hidden_act",
    "config.rope_parameters",
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers",
    "model.norm.variance_epsilon",
    "model.norm.weight",
    "model.rotary_emb",
)
_LAYER_NAMES = (
    "input_layernorm.variance_epsilon",
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.variance_epsilon",
    "post_attention_layernorm.weight",
    "self_attn.head_dim",
    "self_attn.k_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.weight",
    "self_attn.scaling",
    "self_attn.v_proj.weight",
)
# The architectures, each with what it has beyond these: on the model, and on each of its layers.
_OWN_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LlamaForCausalLM": ((), ()),
    "Qwen2ForCausalLM": (("config.layer_types",), ()),
    "Qwen3ForCausalLM": (("config.layer_types",), ("self_attn.q_norm.weight", "self_attn.k_norm.weight")),
}
# Those whose cosines depend on the position only, not on the length of the sequence.
_ROPE_TYPES = frozenset({"default", "linear", "llama3"})
_DTYPES = frozenset({torch.float32, torch.bfloat16})


# From so many entries on a matrix is kept a second time, in the layout that oneDNN wants: torch's own product (MKL)
# takes up to twice as long at a hundred rows on some CPUs. Below, the second copy would buy nothing.
_LARGE = 1 << 18


class _Linear:
    """x [N, in] -> x W^T + b [N, out], in the dtype of the weights. ``pack`` must follow each change of them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.packed: torch.Tensor | None = None

    def pack(self) -> None:
        if self.weight.numel() >= _LARGE and _packs(self.weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        if self.packed is None:
            return linear(x, self.weight, self.bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product

    def plus(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x + self(y) in float32, in one operation where there is no bias and no other copy or dtype."""
        if self.bias is None and self.packed is None and self.weight.dtype == x.dtype:
            return torch.addmm(x, y, self.weight.t())
        return x + self(y)


def _packs(dtype: torch.dtype) -> bool:
    return torch._C._has_mkldnn and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Norm:
    """RMSNorm over the last dimension of x [N, D]: x * weight / sqrt(mean(x^2) + epsilon).

    torch's own is ten small operations on a CPU, a seventh of a decoding step; this is five.
    """

    def __init__(self, module: Any) -> None:
        self.weight = module.weight
        self.epsilon = torch.full((1, 1), module.variance_epsilon)
        self.averaging = torch.full((len(module.weight), 1), 1 / len(module.weight))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.addmm(self.epsilon, x * x, self.averaging).rsqrt_()
        return (x * scale).mul_(self.weight)

    def of_heads(self, heads: torch.Tensor) -> torch.Tensor:
        """The norm of every head of heads [N, H, D]."""
        return self(heads.flatten(0, 1)).view(heads.shape)


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
    return _Linear(weight, bias)


class _Layer:
    """The parameters of one decoder layer, with joined projections."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self.gate_up = _joined([mlp.gate_proj, mlp.up_proj])
        self.out = _joined([attention.o_proj])
        self.down = _joined([mlp.down_proj])
        self.input_norm, self.mlp_norm = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.matrices = (self.qkv, self.gate_up, self.out, self.down)
        # Qwen3 only.
        self.head_norms = (_Norm(attention.q_norm), _Norm(attention.k_norm)) if hasattr(attention, "q_norm") else None
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.num_query_heads = attention.q_proj.out_features // self.head_dim
        self.num_kv_heads = attention.k_proj.out_features // self.head_dim


class LlamaWeights:
    """What the step reads of a model; made once per model."""

    def __init__(self, model: Any) -> None:
        self.layers = [_Layer(layer) for layer in model.model.layers]
        self.embedding = model.model.embed_tokens.weight
        self.final_norm = _Norm(model.model.norm)
        self.lm_head = _Linear(model.lm_head.weight, None)
        self.rotary = model.model.rotary_emb
        self.pack()

    def pack(self) -> None:
        """To be called after each change of the model's parameters."""
        for matrix in (self.lm_head, *(matrix for layer in self.layers for matrix in layer.matrices)):
            matrix.pack()


def _missing_names(model: Any) -> list[str]:
    own, own_of_layers = _OWN_NAMES[type(model).__name__]
    missing = [name for name in (*_NAMES, *own) if not _has(model, name)]
    if "model.layers" not in missing:
        for name in (*_LAYER_NAMES, *own_of_layers):
            if not all(_has(layer, name) for layer in model.model.layers):
                missing.append(f"model.layers.*.{name}")
    return missing


def _has(owner: Any, dotted: str) -> bool:
    try:
        return attrgetter(dotted)(owner) is not None
    except AttributeError:
        return False


class LlamaDecoder(Decoder):
    """Decodes Llama, Qwen2 and Qwen3 on a CPU; logits are float32. ``select_rows`` must come between prefill and first
    step."""

    def __init__(self, model: Any, weights: LlamaWeights, max_new_tokens: int) -> None:
        super().__init__(model, max_new_tokens)
        self.weights = weights
        # Per layer, once branched: keys and values [R * H_kv, capacity, head_dim], views of the cache's buffers.
        self.buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether what is written out here computes what this model computes, and finds what it reads of it."""
        if type(model).__name__ not in _OWN_NAMES or model.dtype not in _DTYPES or model.device.type != "cpu":
            return False
        missing = _missing_names(model)
        if missing:
            log.warning(
                "decoding by the model's own forward, which is slower: this version of transformers has no %s in %s",
                ", ".join(missing),
                type(model).__name__,
            )
            return False
        config = model.config
        return (
            config.hidden_act == "silu"
            and config.rope_parameters.get("rope_type") in _ROPE_TYPES
            and all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
        )

    def prefill(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        num_tokens = tokens.shape[1]
        places = torch.arange(num_tokens + self.max_new_tokens)
        # Its first argument says the dtype of the result.
        cosine, sine = self.weights.rotary(torch.empty(0), places[None])
        half = sine.shape[-1] // 2
        # rotate_half(x) = [-x2, x1] is roll(x) with the sign moved into the table.
        signs = torch.cat([-torch.ones(half), torch.ones(half)])
        self.cosine, self.sine = cosine[0], sine[0] * signs
        # A token sees the tokens up to its own; padding sees itself, because a row that sees nothing has no softmax.
        causal = places[:num_tokens, None] >= places[:num_tokens]
        self.prompt_mask = ((causal & mask[:, None]) | torch.eye(num_tokens, dtype=torch.bool))[:, None]
        return super().prefill(tokens, mask)

    def select_rows(self, rows: torch.Tensor) -> None:
        for layer in self.cache.layers:
            layer.advance(self.num_tokens)
        super().select_rows(rows)
        self.buffers = [
            (layer.key_buffer.flatten(0, 1), layer.value_buffer.flatten(0, 1)) for layer in self.cache.layers
        ]
        # Added to the attention scores: 0 where a token may be seen, -inf on padding; one row per KV head.
        bias = torch.zeros(self.mask.shape).masked_fill_(~self.mask, float("-inf"))
        self.score_bias = bias.repeat_interleave(self.weights.layers[0].num_kv_heads, dim=0)[:, None]

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        weights, (num_rows, num_new) = self.weights, tokens.shape
        positions = positions.flatten()
        rope = self.cosine[positions][:, None], self.sine[positions][:, None]
        x = embedding(tokens.flatten(), weights.embedding).float()
        for index, layer in enumerate(weights.layers):
            heads = _heads(layer, layer.input_norm(x), *rope)
            if self.buffers:
                mixed = self._attend_from_one(index, layer, *heads)
            else:
                mixed = self._attend_within_prompts(index, layer, num_rows, *heads)
            x = layer.out.plus(x, mixed)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = layer.down.plus(x, silu(gate).mul_(up))
        last = x.view(num_rows, num_new, -1)[:, -1]
        return weights.lm_head(weights.final_norm(last)).float()

    def _attend_from_one(
        self, index: int, layer: _Layer, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One new token per row: queries [R, H, head_dim], keys and values [R, H_kv, head_dim] -> [R, H * head_dim]."""
        key_buffer, value_buffer = self.buffers[index]
        num_rows, num_tokens = len(queries), self.num_tokens
        cache = self.cache.layers[index]
        cache.key_buffer.select(2, num_tokens - 1).copy_(keys)
        cache.value_buffer.select(2, num_tokens - 1).copy_(values)
        # One small matrix product per row and KV head; the query heads that share it are the rows of the left matrix.
        scores = torch.baddbmm(
            self.score_bias[:, :, :num_tokens],
            queries.reshape(len(key_buffer), -1, layer.head_dim),
            key_buffer[:, :num_tokens].transpose(1, 2),
            alpha=layer.scaling,
        )
        return torch.bmm(scores.softmax(-1), value_buffer[:, :num_tokens]).view(num_rows, -1)

    def _attend_within_prompts(
        self,
        index: int,
        layer: _Layer,
        num_prompts: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """All tokens of K prompts: queries [K * P, H, head_dim] and so on -> [K * P, H * head_dim]."""
        num_places = len(queries)
        queries, keys, values = (
            heads.view(num_prompts, -1, *heads.shape[1:]).transpose(1, 2) for heads in (queries, keys, values)
        )
        self.cache.layers[index].update(keys, values)
        mixed = scaled_dot_product_attention(
            queries, keys, values, attn_mask=self.prompt_mask, scale=layer.scaling, enable_gqa=True
        )
        return mixed.transpose(1, 2).reshape(num_places, -1)


def _heads(
    layer: _Layer, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys (both turned to their positions) and values [N, heads, head_dim] of tokens x [N, hidden].

    cosine, sine [N, 1, head_dim] of the tokens' positions, the sine signed for ``roll``.
    """
    heads = layer.qkv(x).float().view(len(x), -1, layer.head_dim)
    num_query, num_turned = layer.num_query_heads, layer.num_query_heads + layer.num_kv_heads
    turned, values = heads[:, :num_turned], heads[:, num_turned:]
    if layer.head_norms is not None:
        query_norm, key_norm = layer.head_norms
        turned = torch.cat([query_norm.of_heads(turned[:, :num_query]), key_norm.of_heads(turned[:, num_query:])], 1)
    turned = torch.addcmul(turned * cosine, turned.roll(layer.head_dim // 2, -1), sine)
    return turned[:, :num_query], turned[:, num_query:], values
