import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gps_ray.base.errors import ModelError, RolloutError
from gps_ray.base.types import FinishReason, Prompt, Sampling
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import load_model, make_embedded_model, weights_of
from gps_ray.rollout.drawing import draw
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.weights.object_store import ObjectStorePayload

WORDS = [*map(str, range(25)), *"+-*/()="]


def _make(directory: Path, stop_tokens: Sequence[int] = (1,), **changes: object) -> Path:
    config = EmbeddedModelConfig.model_validate(
        {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "max_position_embeddings": 48, **changes}
    )
    make_embedded_model(config, WORDS, directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(stop_tokens)}))
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("model"), stop_tokens=(1, 5, 6, 7, 8))


@pytest.fixture(scope="module")
def engine(folder: Path) -> TorchEngine:
    return TorchEngine(folder)


def _prompts(*texts: str) -> tuple[Prompt, ...]:
    return tuple(Prompt(prompt_id=text, text=text, answer="", task="none") for text in texts)


TEXTS = ("1 + 2 =", "3 * ( 4 + 5 ) - 6 =", "7", "8 / 9 =")


def _request(
    prompts: Sequence[Prompt] = _prompts(*TEXTS), num_rollouts: int | Sequence[int] = 6, **changes: object
) -> EngineRequest:
    counts = np.broadcast_to(np.asarray(num_rollouts, dtype=np.int32), (len(prompts),))
    keys = {"run_seed": 3, "stream": "rollout", "step": 1}
    keys |= {name: changes.pop(name) for name in keys if name in changes}  # type: ignore[misc]
    sampling = Sampling(**({"temperature": 1.0, "max_response_tokens": 10} | changes))  # type: ignore[arg-type]
    return EngineRequest(prompts=prompts, num_rollouts=counts, sampling=sampling, **keys)  # type: ignore[arg-type]


def _tokens(groups: Sequence[GeneratedGroup]) -> list[list[list[int]]]:
    return [[response.tokens.tolist() for response in group.responses] for group in groups]


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logprobs_are_those_of_the_full_forward(folder: Path, written_out: bool, temperature: float) -> None:
    engine = TorchEngine(folder, written_out_step=written_out)
    reference = load_model(folder)
    for group in engine.generate(_request(temperature=temperature)):
        for response in group.responses:
            tokens = torch.tensor(np.concatenate([group.prompt_tokens, response.tokens]).astype(np.int64))
            with torch.no_grad():
                logits = reference(tokens[None]).logits[0] / temperature
            expected = logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[len(group.prompt_tokens) - 1 :, 0]
            assert response.sampled_logprobs.dtype == np.float32
            np.testing.assert_allclose(response.sampled_logprobs, expected.numpy(), atol=1e-5)


def test_both_steps_sample_the_same_responses(folder: Path, engine: TorchEngine) -> None:
    other = TorchEngine(folder, written_out_step=False)
    assert _tokens(engine.generate(_request())) == _tokens(other.generate(_request()))


def test_the_same_request_gives_the_same_bits_on_any_worker(folder: Path, engine: TorchEngine) -> None:
    first = engine.generate(_request())
    engine.generate(_request(step=2))  # what ran before must not matter
    for again in (engine.generate(_request()), TorchEngine(folder).generate(_request())):
        assert _tokens(first) == _tokens(again)
        for a, b in zip(first, again, strict=True):
            for x, y in zip(a.responses, b.responses, strict=True):
                assert x.sampled_logprobs.tobytes() == y.sampled_logprobs.tobytes()


def test_draws_belong_to_the_prompt_and_rollout_not_to_the_batch(engine: TorchEngine) -> None:
    prompts = _prompts(*TEXTS)
    together = _tokens(engine.generate(_request(prompts, 6)))
    apart = [_tokens(engine.generate(_request([prompt], 4)))[0] for prompt in reversed(prompts)]
    assert [group[:4] for group in together] == apart[::-1]


@pytest.mark.parametrize("change", [{"step": 2}, {"stream": "evaluation"}, {"run_seed": 4}])
def test_every_part_of_the_key_changes_the_draws(engine: TorchEngine, change: dict[str, object]) -> None:
    assert _tokens(engine.generate(_request())) != _tokens(engine.generate(_request(**change)))


def test_responses_end_with_their_first_stop_token(engine: TorchEngine) -> None:
    groups = engine.generate(_request(num_rollouts=40))
    reasons = set()
    for response in (response for group in groups for response in group.responses):
        stops = np.isin(response.tokens, (1, 5, 6, 7, 8))
        reasons.add(response.finish_reason)
        assert not stops[:-1].any()
        assert stops[-1] == (response.finish_reason is FinishReason.STOP)
        assert len(response.tokens) == len(response.sampled_logprobs) <= 10
        if response.finish_reason is FinishReason.LENGTH:
            assert len(response.tokens) == 10
        # Of the stop tokens only <eos> is special; none of them is part of the text.
        kept = [token for token in response.tokens[: len(response.tokens) - stops[-1]] if token >= 3]
        assert response.text == " ".join(WORDS[token - 3] for token in kept)
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("stop", [("9",), ("1 2", "+ -"), ("4 ",), ("no such text",)])
def test_stop_strings_end_a_response_and_stay_in_its_text(engine: TorchEngine, stop: tuple[str, ...]) -> None:
    plain = engine.generate(_request(num_rollouts=60))
    groups = engine.generate(_request(num_rollouts=60, stop=stop))
    num_stopped = 0
    for one, other in zip(plain, groups, strict=True):
        for free, stopped in zip(one.responses, other.responses, strict=True):
            found = [text for text in stop if text in free.text]
            if not found:
                assert stopped.text == free.text
                assert stopped.finish_reason is free.finish_reason
                assert stopped.tokens.tolist() == free.tokens.tolist()
                continue
            num_stopped += 1
            end = min(free.text.index(text) + len(text) for text in found)
            assert stopped.text == free.text[:end]
            assert stopped.finish_reason is FinishReason.STOP
            # The same draws up to the token that brought the text.
            assert stopped.tokens.tolist() == free.tokens[: len(stopped.tokens)].tolist()
            assert len(stopped.sampled_logprobs) == len(stopped.tokens)
            shorter = engine.tokenizer.decode(stopped.tokens[:-1], skip_special_tokens=True)
            assert not any(text in shorter for text in stop)
    assert (num_stopped > 0) is (stop != ("no such text",))


def test_greedy_responses_are_those_of_transformers(engine: TorchEngine) -> None:
    for group in engine.generate(_request(num_rollouts=2, temperature=0.0)):
        tokens = torch.tensor(group.prompt_tokens[None].astype(np.int64))
        with torch.no_grad():
            expected = engine.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=10,
                eos_token_id=list(engine.stop_tokens),
                pad_token_id=0,
            )[0, tokens.shape[1] :]
        for response in group.responses:
            assert response.tokens.tolist() == expected.tolist()
            whole = np.concatenate([group.prompt_tokens, response.tokens])
            alone = engine.logprobs(whole)[tokens.shape[1] - 1 :]
            np.testing.assert_allclose(response.sampled_logprobs, alone, atol=1e-5)


def test_ids_that_the_tokenizer_does_not_know_are_never_sampled(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    num_known = model.config.vocab_size
    model.resize_token_embeddings(num_known + 40, mean_resizing=False)
    shutil.copytree(folder, tmp_path / "padded")
    model.save_pretrained(tmp_path / "padded")
    for written_out in (True, False):
        padded = TorchEngine(tmp_path / "padded", written_out_step=written_out)
        known = TorchEngine(folder, written_out_step=written_out)
        assert padded.model.config.vocab_size == num_known + 40
        for one, other in zip(padded.generate(_request()), known.generate(_request()), strict=True):
            for a, b in zip(one.responses, other.responses, strict=True):
                assert a.tokens.tolist() == b.tokens.tolist()
                np.testing.assert_allclose(a.sampled_logprobs, b.sampled_logprobs, atol=1e-5)
        text = np.array([4, 9, 12, 20, 3], dtype=np.int32)
        np.testing.assert_allclose(padded.logprobs(text), known.logprobs(text), atol=1e-5)


def test_the_end_of_the_templates_turn_stops_too(tmp_path: Path) -> None:
    folder = _make(tmp_path)
    engine = TorchEngine(folder)
    tokenizer = engine.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["7"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} 7 {% endfor %}"
    tokenizer.save_pretrained(folder)
    stops = TorchEngine(folder).stop_tokens
    assert (engine.stop_tokens, stops) == ((1,), (1, 10))


def test_groups_may_be_ragged_or_empty(engine: TorchEngine) -> None:
    full = _tokens(engine.generate(_request(num_rollouts=5)))
    ragged = _tokens(engine.generate(_request(num_rollouts=[5, 0, 2, 1])))
    assert ragged == [full[0], [], full[2][:2], full[3][:1]]


def test_frequencies_follow_the_tempered_distribution(tmp_path: Path) -> None:
    engine = TorchEngine(_make(tmp_path, tie_embeddings=False))
    with torch.no_grad():
        engine.model.lm_head.weight.mul_(10)  # an untrained model is all but uniform
        tokens = torch.tensor([engine.tokenizer.encode(TEXTS[0])])
        probabilities = torch.softmax(engine.model(tokens).logits[0, -1] / 0.7, -1).double().numpy()
    groups = engine.generate(_request(_prompts(TEXTS[0]), 4000, temperature=0.7, max_response_tokens=1))
    counts = np.bincount([response.tokens[0] for response in groups[0].responses], minlength=len(probabilities))
    assert 0.05 < probabilities.max() < 0.9
    rare = probabilities * 4000 < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(probabilities[~rare], probabilities[rare].sum())
    assert chisquare(observed, expected / expected.sum() * 4000).pvalue > 0.01


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    minus = float("-inf")
    logits = torch.tensor([[minus, 0.0, minus, 0.0, minus]] * 4)
    uniforms = torch.tensor([0.0, 0.5, 0.49999997, 1 - 2**-24])
    tokens, logprobs = draw(logits, uniforms, Sampling(temperature=1.0, max_response_tokens=1))
    assert tokens.tolist() == [1, 3, 1, 3]
    torch.testing.assert_close(logprobs, torch.full((4,), float(np.log(0.5))))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_loaded_weights_are_what_samples(tmp_path: Path, family: str, tied: bool) -> None:
    engine = TorchEngine(_make(tmp_path / "a", family=family, tie_embeddings=tied))
    other = _make(tmp_path / "b", family=family, tie_embeddings=tied, seed=9)
    before = _tokens(engine.generate(_request()))
    engine.load_weights(1, ObjectStorePayload(arrays=weights_of(load_model(other))))
    expected = TorchEngine(other).generate(_request())
    assert before != _tokens(expected)
    assert _tokens(engine.generate(_request())) == _tokens(expected)


def test_logprobs_of_a_text(engine: TorchEngine) -> None:
    tokens = np.array([4, 9, 12, 20, 3], dtype=np.int32)
    with torch.no_grad():
        full = engine.model(torch.tensor(tokens[None].astype(np.int64))).logits[0].log_softmax(-1)
    expected = [float(full[t, tokens[t + 1]]) for t in range(4)]
    np.testing.assert_allclose(engine.logprobs(tokens), expected, atol=1e-6)
    assert engine.logprobs(tokens).dtype == np.float32


def test_bfloat16_stays_near_float32(folder: Path, engine: TorchEngine) -> None:
    half = TorchEngine(folder, dtype="bfloat16")
    for group in half.generate(_request()):
        for response in group.responses:
            exact = engine.logprobs(np.concatenate([group.prompt_tokens, response.tokens]))
            exact = exact[len(group.prompt_tokens) - 1 :]
            np.testing.assert_allclose(response.sampled_logprobs, exact, atol=0.1)


def test_prompt_and_response_must_fit_the_model(engine: TorchEngine) -> None:
    with pytest.raises(RolloutError, match=r"rollout\.max_response_tokens=45"):
        engine.generate(_request(max_response_tokens=45))
    with pytest.raises(RolloutError, match="empty"):
        engine.generate(_request(_prompts("1 =", " ")))


def test_a_policy_that_has_diverged_is_an_error(folder: Path) -> None:
    engine = TorchEngine(folder)
    weights = weights_of(engine.model)
    weights["model.norm.weight"][:] = np.nan
    engine.load_weights(7, ObjectStorePayload(arrays=weights))
    with pytest.raises(RolloutError, match="policy version 7"):
        engine.generate(_request())


def test_weights_that_do_not_fit_leave_the_version_as_it_was(folder: Path) -> None:
    engine = TorchEngine(folder)
    with pytest.raises(ModelError):
        engine.load_weights(1, ObjectStorePayload(arrays={}))
    assert engine.policy_version == 0
