"""A vLLM engine for tests, in a process of its own as in a rollout worker: vLLM changes torch for the whole process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import torch

from gps_ray.base.types import Prompt, Sampling
from gps_ray.config import EmbeddedModelConfig, RolloutConfig
from gps_ray.model import make_embedded_model
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.rollout.vllm_setup import environment
from gps_ray.weights.interface import PublisherSettings
from gps_ray.weights.nccl import NcclGroup, NcclPayload, NcclPublisher
from tests.processes import spawn_process

__all__ = [
    "PROMPTS",
    "ArraySource",
    "assert_serves",
    "engine_process",
    "learner_process",
    "make_folder",
    "make_request",
    "moved",
    "receive_over_a_store",
    "start_engine",
    "tokens_of",
]

WORDS = [*map(str, range(25)), *"+-*/()="]
TEXTS = [f"{a} {op} {b} + ( {c} ) =" for a in (1, 7, 23) for op in "+-*/" for b, c in ((4, 5), (12, 3))]
PROMPTS = tuple(Prompt(prompt_id=text, text=text, answer="", task="none") for text in TEXTS)
START_S, CALL_S = 300, 120

_engine: Any = None  # what _call reaches: the engine, or the learner's sender


def _start(folder: Path, rollout: RolloutConfig, dtype: str, setup: Callable[[], None] | None) -> None:
    global _engine
    if setup is not None:
        os.environ.update(environment(rollout))
        setup()
    from gps_ray.rollout.vllm_engine import VllmEngine

    _engine = VllmEngine(folder, rollout, dtype=dtype)


def _call(method: str | Callable[..., Any], *arguments: Any) -> Any:
    return getattr(_engine, method)(*arguments) if isinstance(method, str) else method(_engine, *arguments)


def start_engine(
    process: ProcessPoolExecutor,
    folder: Path,
    dtype: str = "float32",
    num_gpus: int = 0,
    setup: Callable[[], None] | None = None,
    **vllm: Any,
) -> None:
    """Make the VllmEngine of that process, in which ``setup`` runs first."""
    rollout = RolloutConfig.model_validate(
        {"engine": "vllm", "num_gpus_per_worker": num_gpus, "vllm": {"kv_cache_memory_bytes": 64 << 20, **vllm}}
    )
    process.submit(_start, folder, rollout, dtype, setup).result(START_S)


@contextmanager
def engine_process(folder: Path, *arguments: Any, **settings: Any) -> Iterator[Callable[..., Any]]:
    """``call(method, *arguments)`` on a VllmEngine in a process of its own; arguments as for ``start_engine``. A
    function in place of the method's name is given the engine."""
    with spawn_process() as process:
        start_engine(process, folder, *arguments, **settings)
        yield lambda *call: process.submit(_call, *call).result(CALL_S)


class _StoreGroup:
    """A process group that broadcasts by way of a TCP store, where there is no GPU for NCCL."""

    def __init__(self, init_info: Mapping[str, Any], listener: socket | None = None) -> None:
        from vllm.distributed.utils import StatelessProcessGroup

        self._group = StatelessProcessGroup.create(
            init_info["master_address"],
            init_info["master_port"],
            0 if listener is not None else 1,
            init_info["world_size"],
            store_timeout=CALL_S,
            listen_socket=listener,
        )

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object) -> None:
        tensor.copy_(self._group.broadcast(tensor, src))

    def send(self, tensors: Iterable[torch.Tensor]) -> Callable[[], bool]:
        for tensor in tensors:
            self.broadcast(tensor, 0, None)
        return lambda: True

    def destroy(self) -> None:
        """The store ends with the process."""

    close = destroy


def receive_over_a_store() -> None:
    """In the engine's process: vLLM's nccl backend, but for the communicator and the CUDA calls around it."""
    import vllm.distributed.weight_transfer.nccl_engine as nccl_engine

    nccl_engine.worker_init_process_group = lambda init_info, _: _StoreGroup(asdict(init_info))
    torch.cuda.current_stream = lambda *_: None  # type: ignore[assignment,return-value]
    torch.accelerator.synchronize = lambda *_: None  # type: ignore[assignment,misc]


@dataclass
class ArraySource:
    """A ``WeightSource`` made of arrays."""

    policy_version: int
    arrays: Mapping[str, Any]
    device: torch.device

    def weights(self) -> Mapping[str, Any]:
        return self.arrays

    def device_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, array in sorted(self.arrays.items()):
            yield name, torch.tensor(array, device=self.device)


class _Learner:
    """What a learner with ``weight_transfer=nccl`` publishes and sends."""

    def __init__(self, dtype: str, on_gpu: bool) -> None:
        self._device = torch.device("cuda:0" if on_gpu else "cpu")
        open_group = partial(NcclGroup, device=self._device, deadline_s=CALL_S) if on_gpu else _StoreGroup
        settings = PublisherSettings(rank=0, dtype=dtype, num_live_versions=2, deadline_s=CALL_S, host="127.0.0.1")
        self._publisher = NcclPublisher(settings, open_group)

    def publish(self, version: int, weights: Mapping[str, Any]) -> NcclPayload:
        return self._publisher.publish(ArraySource(version, weights, self._device))


def _start_learner(dtype: str, on_gpu: bool) -> None:
    global _engine
    _engine = _Learner(dtype, on_gpu)


@contextmanager
def learner_process(dtype: str = "float32", *, on_gpu: bool = False) -> Iterator[Callable[..., Any]]:
    """``call("publish", version, weights)`` on a learner's sender in a process of its own; on the first GPU by NCCL."""
    with spawn_process() as process:
        process.submit(_start_learner, dtype, on_gpu).result(START_S)
        yield lambda *call: process.submit(_call, *call).result(CALL_S)


def make_folder(directory: Path, **changes: Any) -> Path:
    shape = {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "max_position_embeddings": 48}
    make_embedded_model(EmbeddedModelConfig.model_validate(shape | changes), WORDS, directory)
    # Several stop tokens, so that an untrained model stops often.
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5, 6, 7]}))
    return directory


def make_request(num_rollouts: int | Sequence[int] = 3, **changes: Any) -> EngineRequest:
    counts = np.broadcast_to(np.asarray(num_rollouts, dtype=np.int32), (len(PROMPTS),))
    keys: dict[str, Any] = {"run_seed": 3, "stream": "rollout", "step": 1}
    keys |= {name: changes.pop(name) for name in keys if name in changes}
    sampling = Sampling(**({"temperature": 0.7, "max_response_tokens": 10} | changes))
    return EngineRequest(prompts=PROMPTS, num_rollouts=counts, sampling=sampling, **keys)


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
