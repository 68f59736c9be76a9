"""Log-probs in pieces against the model's own forward: the same numbers and gradients from less memory."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
)

from gps_ray.config import LearningConfig
from gps_ray.learning import logprobs
from gps_ray.learning.logprobs import TokenScorer
from gps_ray.learning.packing import PackedBatch, blank_batch, lines_of, pack
from tests.unit.learning.rollouts import MIXED, ids, make_groups, make_learner, make_model, make_tables
from tests.unit.learning.test_packing import make_rows

VOCABULARY = 37
UNKNOWN = torch.tensor([29, 36])
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip
CONFIGS = {
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "untied": Qwen3Config(**SHAPE, tie_word_embeddings=False),
    "soft-capped": Gemma2Config(**SHAPE, final_logit_softcapping=2.0, attn_implementation="eager"),
    "divided": GraniteConfig(**SHAPE, logits_scaling=3.0),
    "multiplied": Cohere2Config(**SHAPE, logit_scale=0.3),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3),
}


def _model(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def _scorer(model: Any, max_entries: int) -> TokenScorer:
    return TokenScorer(model, UNKNOWN, max_tokens=10_001, max_entries=max_entries)


def _batches(shared: int) -> list[PackedBatch]:
    return pack(lines_of(make_rows(3, num_prompts=5, group_size=6), shared), 200)


def _scored(model: Any, scorer: TokenScorer, batches: list[PackedBatch]) -> tuple[list[Any], torch.Tensor]:
    model.zero_grad()
    found = []
    for batch in batches:
        values, entropy = scorer(batch, 0.8)
        assert not entropy.requires_grad
        (values * batch.mask * batch.sampled_logprobs).sum().backward()  # type: ignore[no-untyped-call]
        found.append((values * batch.mask, entropy * batch.mask))
    return found, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_rows", [1, 7, 10_000])
def test_log_probs_entropies_and_gradients_are_those_of_the_whole_road(name: str, num_rows: int) -> None:
    model, batches = _model(name), _batches(shared=0 if name == "gpt2" else 30)
    whole, pieces = _scorer(model, 10**9), _scorer(model, VOCABULARY * num_rows)
    assert (whole.in_pieces, pieces.in_pieces, pieces.note) == (False, True, None)
    expected, gradient = _scored(model, whole, batches)
    found, of_pieces = _scored(model, pieces, batches)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(of_pieces, gradient, atol=2e-5, rtol=1e-4)
    assert gradient.abs().max() > 1


def test_a_frozen_head_and_one_with_a_bias_are_taken_as_they_are() -> None:
    model, batches = _model("untied"), _batches(0)
    model.lm_head = torch.nn.Linear(32, VOCABULARY)
    model.lm_head.weight.requires_grad_(False)
    found = []
    for entries in (10**9, 5 * VOCABULARY):
        model.zero_grad()
        values = sum((_scorer(model, entries)(batch, 1.0)[0] * batch.mask).sum() for batch in batches)
        values.backward()  # type: ignore[union-attr]
        found.append((values, model.lm_head.bias.grad, model.model.embed_tokens.weight.grad))
        assert model.lm_head.weight.grad is None
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-4)


def test_a_batch_that_counts_for_nothing_has_a_gradient_of_zero_everywhere() -> None:
    model = _model("untied")
    batch = blank_batch(lines_of(make_rows(8))[0])
    values, entropy = _scorer(model, 10)(batch, 1.0)
    assert (values == 0).all()
    assert (entropy == 0).all()
    (values * batch.mask).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_bfloat16_differs_from_float32_no_more_than_the_whole_road_does() -> None:
    model, batches = _model("tied"), _batches(30)
    exact, _ = _scored(model, _scorer(model, 10**9), batches)
    differences, gradients = [], []
    for entries in (10**9, 5 * VOCABULARY):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, gradient = _scored(model, _scorer(model, entries), batches)
        gradients.append(gradient)
        differences.append(max(float((a[0] - b[0]).detach().abs().max()) for a, b in zip(exact, found, strict=True)))
    assert 0 < differences[1] <= 1.5 * differences[0] < 0.5
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


class _HiddenScaled(LlamaForCausalLM):
    """Does to its hidden states what no config says."""

    def forward(self, *args: Any, logits_to_keep: int = 0, **inputs: Any) -> Any:
        outputs = self.model(*args, **inputs)
        outputs.logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:] * 0.25)
        return outputs


def test_a_model_that_makes_its_logits_in_a_way_of_its_own_takes_the_whole_road_and_says_so() -> None:
    torch.manual_seed(0)
    model = _HiddenScaled(CONFIGS["tied"]).eval()
    scorer = _scorer(model, 10)
    assert not scorer.in_pieces
    assert "_HiddenScaled" in (scorer.note or "")
    assert "learning.microbatch_tokens=10001" in (scorer.note or "")
    expected, _ = _scored(model, _scorer(model, 10**9), _batches(30))
    found, _ = _scored(model, scorer, _batches(30))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_coefficient": 0.1, "rollout_is": "token"},
        {"loss": "ppo", "activation_checkpointing": True},
        {"lora_rank": 4, "kl_coefficient": 0.1},
    ],
)
def test_an_update_in_pieces_is_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    directory, groups = make_model(tmp_path / "model", num_layers=1), make_groups([MIXED, "rw", "wwwwwr", MIXED])
    config = LearningConfig.model_validate({"num_threads": 1, "microbatch_tokens": 64, **changes})
    whole = make_learner(directory, config)
    monkeypatch.setattr(logprobs, "piece_entries", lambda _: 100)
    pieces = make_learner(directory, config)
    for _ in range(2):
        metrics = [dict(learner.update(make_tables(groups), ids(groups)).metrics) for learner in (whole, pieces)]
        assert metrics[0].keys() == metrics[1].keys()
        assert metrics[1]["train/loss"] == pytest.approx(metrics[0]["train/loss"], abs=1e-6)
        for name, value in metrics[0].items():
            assert metrics[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    np.testing.assert_allclose(pieces.probe()[1], whole.probe()[1], atol=1e-4)


def test_a_model_is_freed_with_its_scorer() -> None:
    """On a GPU what waits for the garbage collector is the memory of a whole model."""
    scorer = _scorer(_model("tied"), max_entries=1)
    assert scorer.in_pieces
    model = weakref.ref(scorer.model)
    gc.disable()
    try:
        del scorer
        assert model() is None
    finally:
        gc.enable()
