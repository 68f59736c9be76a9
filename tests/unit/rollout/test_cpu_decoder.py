"""Both decoders against the plain forward pass over whole sequences, which needs neither cache nor padding."""

import re
from operator import attrgetter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from gps_ray.rollout.cpu_decoder.decoder import Decoder
from gps_ray.rollout.cpu_decoder.llama import LlamaDecoder, LlamaWeights

SMALL = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMA_LIKE = {
    "llama": LlamaConfig(**SMALL),
    "llama with biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama3 rope, tied": LlamaConfig(**SMALL, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3, own head_dim": Qwen3Config(**SMALL, head_dim=10),
}
OTHERS = {
    "absolute positions": GPT2Config(vocab_size=31, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "sliding window": MistralConfig(**SMALL, sliding_window=4),
}
# The logits of these models have a standard deviation of 1.3 and more.
BFLOAT16_ATOL = 0.25
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


def _model(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            # Large enough that positions, biases and norms matter.
            parameter.data = torch.randn_like(parameter) * 0.3 + (1.0 if "norm" in name else 0.0)
    return model


@torch.inference_mode()
def _check(model: Any, decoder: Decoder, prompts: list[list[int]], num_new_tokens: int = 6, atol: float = 2e-4) -> None:
    """Branch into ragged groups, decode fixed tokens, drop rows on the way, and compare every step's logits."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts])
    logits = decoder.prefill(tokens, mask)
    branches = torch.tensor([0, 0, 0, 1, 2, 2])[: 2 * len(prompts)]
    decoder.select_rows(branches)
    logits = logits[branches]
    texts = [list(prompts[i]) for i in branches]
    for t in range(num_new_tokens):
        expected = torch.stack([model(torch.tensor([text])).logits[0, -1] for text in texts])
        torch.testing.assert_close(logits, expected, atol=atol, rtol=2e-4)
        if t == 3:
            kept = torch.tensor([4, 1])
            decoder.select_rows(kept)
            texts = [texts[i] for i in kept]
        new = [(7 * row + 3 * t) % 31 for row in range(len(texts))]
        texts = [[*text, token] for text, token in zip(texts, new, strict=True)]
        logits = decoder.step(torch.tensor(new))


@pytest.mark.parametrize("prompts", [PROMPTS, [[5, 6, 7], [8, 9, 10], [11, 12, 13]]], ids=["padded", "equal lengths"])
@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_written_out_step_is_the_models_forward(name: str, prompts: list[list[int]]) -> None:
    model = _model(LLAMA_LIKE[name])
    assert LlamaDecoder.supports(model)
    _check(model, LlamaDecoder(model, LlamaWeights(model), 8), prompts)


@pytest.mark.parametrize("name", LLAMA_LIKE)
@torch.inference_mode()
def test_written_out_step_in_bfloat16_is_no_coarser_than_the_models_own(name: str) -> None:
    model, exact = _model(LLAMA_LIKE[name]).to(torch.bfloat16), _model(LLAMA_LIKE[name]).to(torch.bfloat16).float()
    assert LlamaDecoder.supports(model)
    weights = LlamaWeights(model)
    _check(exact, LlamaDecoder(model, weights, 8), PROMPTS, atol=BFLOAT16_ATOL)
    errors = []
    for length in range(1, 25):
        tokens = torch.tensor([[(7 * i + length) % 31 for i in range(length)]])
        expected = exact(tokens).logits[0, -1]
        written = LlamaDecoder(model, weights, 8).prefill(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        errors.append([(logits - expected).abs().max() for logits in (written, model(tokens).logits[0, -1].float())])
    of_written, of_own = torch.tensor(errors).mean(0)
    assert of_written <= of_own


def test_large_matrices_in_bfloat16_are_packed_anew_with_each_load() -> None:
    large = LlamaConfig(**SMALL | {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 1024})
    model, exact = _model(large).to(torch.bfloat16), _model(large).to(torch.bfloat16).float()
    weights = LlamaWeights(model)
    with torch.no_grad():
        for parameter in (*model.parameters(), *exact.parameters()):
            parameter.mul_(0.5)
    weights.pack()
    assert weights.layers[0].gate_up.packed is not None or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    _check(exact, LlamaDecoder(model, weights, 8), PROMPTS, atol=BFLOAT16_ATOL)


@pytest.mark.parametrize("name", [*LLAMA_LIKE, *OTHERS])
def test_generic_step_is_the_models_forward(name: str) -> None:
    model = _model((LLAMA_LIKE | OTHERS)[name])
    _check(model, Decoder(model, 8), PROMPTS)


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_are_not_llama_like_are_left_to_their_own_forward(name: str) -> None:
    assert not LlamaDecoder.supports(_model(OTHERS[name]))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ],
)
def test_variants_that_the_written_out_step_does_not_compute_are_refused(changes: dict[str, Any]) -> None:
    assert not LlamaDecoder.supports(_model(Qwen2Config(**SMALL, **changes)))
    assert not LlamaDecoder.supports(_model(Qwen2Config(**SMALL)).to(torch.float16))


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "said"),
    [
        ("llama", "model", "norm", "model.norm.variance_epsilon, model.norm.weight in LlamaForCausalLM"),
        ("llama", "model", "layers", "no model.layers in"),
        ("llama", "model.layers.1.self_attn", "o_proj", r"no model.layers.\*.self_attn.o_proj.weight in"),
        ("qwen3, own head_dim", "model.layers.0.self_attn", "q_norm", r"no model.layers.\*.self_attn.q_norm.weight in"),
        ("qwen3, own head_dim", "config", "layer_types", "no config.layer_types in Qwen3ForCausalLM"),
    ],
)
def test_where_transformers_names_a_part_otherwise_the_models_own_forward_is_used(
    name: str, owner: str, attribute: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = _model(LLAMA_LIKE[name])
    held = attrgetter(owner)(model)
    part = getattr(held, attribute)
    delattr(held, attribute)
    held.called_otherwise = part
    assert not LlamaDecoder.supports(model)
    assert len(caplog.records) == 1
    assert re.search(said, caplog.text)


def test_joining_the_projections_keeps_one_copy_that_in_place_loads_reach() -> None:
    model = _model(LLAMA_LIKE["llama with biases"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = LlamaWeights(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.zero_()
        model.model.layers[0].mlp.up_proj.bias.zero_()
    num_zeros = int((weights.layers[0].qkv.weight == 0).sum())
    assert num_zeros == model.model.layers[0].self_attn.k_proj.weight.numel()
    bias = weights.layers[0].gate_up.bias
    assert bias is not None
    assert int((bias == 0).sum()) == SMALL["intermediate_size"]
