"""The verifier's text: tags that the tokenizer calls special stay, what frames a turn goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_ray.base.types import FinishReason, Prompt, RolloutStatus, Sampling
from gps_ray.config import EmbeddedModelConfig, RolloutConfig
from gps_ray.model import load_tokenizer, make_embedded_model
from gps_ray.rollout.chunk import ChunkRequest, ChunkRunner
from gps_ray.rollout.engine import EngineRequest
from gps_ray.rollout.response_text import ResponseText
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.tasks.interface import Verdict

TAGS = ("<answer>", "</answer>", "[THINK]", "[/THINK]")
FRAMES = ("[INST]", "[/INST]", "<|im_end|>", "<start_of_turn>", "<lonely>")
TEMPLATE = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    config = EmbeddedModelConfig(num_layers=1, hidden_size=32, num_heads=2, max_position_embeddings=64)
    make_embedded_model(config, [*map(str, range(10)), *TAGS, *FRAMES], directory)
    tokenizer = load_tokenizer(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": [*TAGS, *FRAMES]})
    tokenizer.save_pretrained(directory)
    return directory


def _decoded(tokenizer: Any, text: str, stop: tuple[int, ...] = ()) -> str:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return ResponseText(tokenizer, stop).decode([[tokenizer.bos_token_id or 0, *tokens, tokenizer.pad_token_id]])[0]


def test_tags_stay_and_frames_go(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE
    tokens = tokenizer.encode("<answer> 4", add_special_tokens=False)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "4"  # what a verifier would have read
    text = "<start_of_turn> [THINK] 2 <lonely> [/THINK] <answer> 4 </answer> <|im_end|>"
    assert _decoded(tokenizer, text) == "[THINK] 2 [/THINK] <answer> 4 </answer>"
    assert _decoded(tokenizer, "[INST] 3 [/INST]") == "3"
    # A tag that ends responses is not part of them, and its partner is alone then.
    end = tokenizer.convert_tokens_to_ids("</answer>")
    assert _decoded(tokenizer, "<answer> 4 </answer> [THINK]", (end,)) == "4 [THINK]"


def _sampling(**changes: Any) -> Sampling:
    return Sampling(temperature=1.0, max_response_tokens=40, **changes)


PROMPTS = (Prompt(prompt_id="p", text="1 2", answer="4", task="t"),)


def test_an_engine_gives_tags_and_stops_at_them(folder: Path) -> None:
    engine = TorchEngine(folder)

    def texts(**changes: Any) -> list[tuple[str, FinishReason]]:
        request = EngineRequest(
            run_seed=1,
            stream="rollout",
            step=1,
            prompts=PROMPTS,
            num_rollouts=np.array([32], np.int32),
            sampling=_sampling(**changes),
        )
        return [(each.text, each.finish_reason) for each in engine.generate(request)[0].responses]

    free = texts()
    assert all(any(tag in text for text, _ in free) for tag in TAGS[:2])
    assert not any(frame in text for text, _ in free for frame in FRAMES[2:])
    stopped = texts(stop=("</answer>",))
    for (text, _), (cut, reason) in zip(free, stopped, strict=True):
        if "</answer>" in text:
            assert (cut, reason) == (text.partition("</answer>")[0] + "</answer>", FinishReason.STOP)


class HasTag:
    """Right if there is a tag in the response."""

    name = "t"
    bounds_its_own_work = True

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        right = "<answer>" in response
        return float(right), RolloutStatus(right)


def test_the_verifier_and_the_samples_see_them(folder: Path) -> None:
    runner = ChunkRunner(TorchEngine(folder), HasTag(), RolloutConfig(), run_seed=1)
    chunk = ChunkRequest(
        chunk_id=0,
        step=1,
        stream="rollout",
        prompts=PROMPTS,
        num_rollouts=np.array([16], np.int32),
        policy_version=0,
        sampling=_sampling(),
        num_samples_kept=1,
    )
    header, _, _ = runner.run(chunk)
    assert header.num_right[0] > 0
    (sample,) = header.samples
    assert ("<answer>" in sample.response_text) == bool(sample.reward)
