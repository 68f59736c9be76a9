"""A vLLM engine for tests, in a process of its own as in a rollout worker: vLLM changes torch for the whole process."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gps_ray.config import EmbeddedModelConfig, RolloutConfig
from gps_ray.model import make_embedded_model
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.types import Prompt

__all__ = ["PROMPTS", "assert_serves", "engine_process", "make_folder", "make_request", "moved", "tokens_of"]

WORDS = [*map(str, range(25)), *"+-*/()="]
TEXTS = [f"{a} {op} {b} + ( {c} ) =" for a in (1, 7, 23) for op in "+-*/" for b, c in ((4, 5), (12, 3))]
PROMPTS = tuple(Prompt(prompt_id=text, text=text, answer="", task="none") for text in TEXTS)
START_S, CALL_S = 300, 120

_engine: Any = None


def _start(folder: Path, rollout: RolloutConfig, dtype: str) -> None:
    global _engine
    from gps_ray.rollout.vllm_engine import VllmEngine

    _engine = VllmEngine(folder, rollout, dtype=dtype)


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_engine, method)(*arguments)


@contextmanager
def engine_process(
    folder: Path, dtype: str = "float32", num_gpus: int = 0, **vllm: Any
) -> Iterator[Callable[..., Any]]:
    """``call(method, *arguments)`` on a VllmEngine in a process of its own."""
    rollout = RolloutConfig.model_validate(
        {"engine": "vllm", "num_gpus_per_worker": num_gpus, "vllm": {"kv_cache_memory_bytes": 64 << 20, **vllm}}
    )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(_start, folder, rollout, dtype).result(START_S)
        yield lambda *call: process.submit(_call, *call).result(CALL_S)


def make_folder(directory: Path, **changes: Any) -> Path:
    shape = {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "max_position_embeddings": 48}
    make_embedded_model(EmbeddedModelConfig.model_validate(shape | changes), WORDS, directory)
    # Several stop tokens, so that an untrained model stops often.
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5, 6, 7]}))
    return directory


def make_request(num_rollouts: int | Sequence[int] = 3, **changes: Any) -> EngineRequest:
    counts = np.broadcast_to(np.asarray(num_rollouts, dtype=np.int32), (len(PROMPTS),))
    values: dict[str, Any] = {"run_seed": 3, "stream": "rollout", "step": 1, "temperature": 0.7}
    return EngineRequest(prompts=PROMPTS, num_rollouts=counts, **(values | {"max_response_tokens": 10} | changes))


def tokens_of(groups: Sequence[GeneratedGroup]) -> list[list[list[int]]]:
    return [[response.tokens.tolist() for response in group.responses] for group in groups]


def moved(weights: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Weights of a later version, read-only as they come out of the object store."""
    rng = np.random.default_rng(version)
    moved = {name: (w + 0.1 * rng.standard_normal(w.shape)).astype(np.float32) for name, w in weights.items()}
    for array in moved.values():
        array.setflags(write=False)
    return moved


def _greedy(reference: TorchEngine, prompt: Any) -> list[int]:
    tokens = torch.from_numpy(prompt.astype(np.int64))[None]
    output = reference.model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=list(reference.stop_tokens),
        pad_token_id=reference.tokenizer.pad_token_id,
    )
    response: list[int] = output[0, len(prompt) :].tolist()
    return response


def assert_serves(call: Callable[..., Any], reference: TorchEngine, version: int) -> None:
    """Greedy output equals transformers'; log-probs of a text and of sampled tokens are within 1e-4."""
    for group in call("generate", make_request(1, temperature=0.0)):
        assert group.responses[0].tokens.tolist() == _greedy(reference, group.prompt_tokens), version
    text = np.random.default_rng(version).integers(0, len(WORDS), 40).astype(np.int32)
    np.testing.assert_allclose(call("logprobs", text), reference.logprobs(text), atol=1e-4)
    temperature = 0.7
    for group in call("generate", make_request(temperature=temperature)):
        for response in group.responses:
            whole = torch.from_numpy(np.concatenate([group.prompt_tokens, response.tokens]).astype(np.int64))[None]
            with torch.no_grad():
                logits = reference.model(whole[:, :-1]).logits[0, len(group.prompt_tokens) - 1 :]
            expected = (logits / temperature).log_softmax(-1).gather(1, whole[0, len(group.prompt_tokens) :, None])
            np.testing.assert_allclose(response.sampled_logprobs, expected[:, 0].numpy(), atol=1e-4)
