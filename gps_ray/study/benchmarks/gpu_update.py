"""``jobs.bench gpu_update``: updates of a model of a given shape by micro-batch size, and each loss on a real model.

With ``--shape`` the weights are random and all responses have the same length: what is measured is tokens per second
and the peak of memory, which with the logits of a large vocabulary is what limits a micro-batch. With ``--losses`` the
policy in ``--model`` samples rollouts, and every algorithm makes one update of them, on the CPU and on the GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import rollouts_to_table
from gps_ray.base.types import Sampling, SuccessPrediction
from gps_ray.config import LearningConfig
from gps_ray.learning.algorithms import ALGORITHMS
from gps_ray.learning.learner import Learner
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.study.benchmarks.groups import half_right
from gps_ray.study.benchmarks.one_process import device_name
from gps_ray.study.benchmarks.rollout import bench_prompts

__all__ = ["SHAPES", "add_arguments", "run"]

GROUP_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Qwen3, as in its config.json."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int


SHAPES = {
    "qwen3-0.6b": Shape(
        hidden_size=1024,
        intermediate_size=3072,
        num_layers=28,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        vocabulary=151_936,
    ),
    "small": Shape(
        hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, vocabulary=4096
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--microbatch-tokens", type=int, nargs="+", default=[2048, 4096, 8192, 16_384])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--response-tokens", type=int, default=896)
    parser.add_argument("--num-prompts", type=int, default=4, help=f"groups of an update, of {GROUP_SIZE} rollouts")
    parser.add_argument("--repeats", type=int, default=3, help="updates of each size, after one that warms up")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--losses", action="store_true", help="every loss on rollouts of --model, not a shape")
    parser.add_argument("--model", type=Path, default=None, help="Hugging Face folder, for --losses")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows by micro-batch size (tokens/s; peak bytes beside weights and optimizer, whole and per token and vocabulary
    entry), or by loss."""
    rows = _losses(args) if args.losses else _sizes(args)
    shape = None if args.losses else args.shape
    return {
        "benchmark": "gpu_update",
        "device": device_name(),
        "torch": torch.__version__,
        "shape": shape,
        "dtype": args.dtype,
        "rows": rows,
    }


def _sizes(args: argparse.Namespace) -> list[dict[str, Any]]:
    shape = SHAPES[args.shape]
    table, prompt_ids = _groups_of_one_length(args, shape.vocabulary)
    num_tokens = args.num_prompts * GROUP_SIZE * args.response_tokens
    with _shape_folder(shape) as directory:
        return [_size(args, directory, shape, table, prompt_ids, num_tokens, size) for size in args.microbatch_tokens]


def _size(
    args: argparse.Namespace,
    directory: Path,
    shape: Shape,
    table: pa.Table,
    prompt_ids: Sequence[str],
    num_tokens: int,
    microbatch_tokens: int,
) -> dict[str, Any]:
    learner = _learner(
        directory, "grpo", args.dtype, args.response_tokens, on_gpu=_has_gpu(), microbatch_tokens=microbatch_tokens
    )
    resident = _allocated()
    _reset_peak()
    seconds = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        updated = learner.update([table], prompt_ids)
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds[1:]))
    # Gradients stay between updates on some versions of torch, and count here.
    beside = _peak() - resident
    return {
        "microbatch_tokens": microbatch_tokens,
        "update_s": round(median, 3),
        "response_tokens_per_s": round(num_tokens / median),
        "resident_gib": round(resident / 2**30, 2),
        "peak_beside_gib": round(beside / 2**30, 2),
        "bytes_per_logit": round(beside / (microbatch_tokens * shape.vocabulary), 2),
        "loss": updated.metrics["train/loss"],
        "update_s_by_turn": [round(value, 4) for value in seconds],
    }


def _losses(args: argparse.Namespace) -> list[dict[str, Any]]:
    if args.model is None:
        raise ConfigError("--losses: expected a policy that samples; give its folder by --model")
    table, prompt_ids = _sampled_groups(args)
    places = [("cpu", "float32", False), ("gpu", "float32", True), ("gpu", "bfloat16", True)]
    rows = []
    for loss in ALGORITHMS:
        row: dict[str, Any] = {"loss": loss}
        for device, dtype, on_gpu in places if _has_gpu() else places[:1]:
            learner = _learner(args.model, loss, dtype, args.response_tokens, on_gpu=on_gpu, microbatch_tokens=8192)
            start = time.perf_counter()
            # For posterior_baseline, which alone reads it: nothing is known yet.
            unknown = SuccessPrediction(mean=0.5, std=12**-0.5)
            metrics = learner.update([table], prompt_ids, dict.fromkeys(prompt_ids, unknown)).metrics
            name = f"{device} {dtype}"
            row |= {
                f"{name} loss": float(metrics["train/loss"]),
                f"{name} grad norm": float(metrics["train/grad_norm"]),
                f"{name} s": round(time.perf_counter() - start, 2),
            }
            del learner
        rows.append(row)
    return rows


def _learner(
    directory: Path, loss: str, dtype: str, response_tokens: int, *, on_gpu: bool, microbatch_tokens: int
) -> Learner:
    config = LearningConfig(
        loss=loss,
        num_gpus_per_worker=float(on_gpu),
        num_minibatches=1,
        num_threads=torch.get_num_threads(),
        learning_rate=1e-6,
        microbatch_tokens=microbatch_tokens,
        max_shared_prompt_tokens=2048,
    )
    return Learner(directory, config, dtype=dtype, temperature=1.0, max_response_tokens=response_tokens, num_steps=100)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _allocated() -> int:
    return torch.cuda.memory_allocated() if _has_gpu() else 0


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if _has_gpu() else 0


def _reset_peak() -> None:
    if _has_gpu():
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def _shape_folder(shape: Shape) -> Iterator[Path]:
    """A folder with random weights, and a tokenizer that knows every id of the vocabulary."""
    words = {f"t{i}": i for i in range(shape.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="t2")), pad_token="t0", eos_token="t1", unk_token="t2"
    )
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    with tempfile.TemporaryDirectory() as scratch:
        Qwen3ForCausalLM(config).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        yield Path(scratch)


def _groups_of_one_length(args: argparse.Namespace, vocabulary: int) -> tuple[pa.Table, tuple[str, ...]]:
    rng = generator(0, "bench/gpu_update")
    chance = np.full(args.response_tokens, -np.log(vocabulary), dtype=np.float32)
    groups = [
        half_right(
            f"p{i}",
            rng.integers(0, vocabulary, args.prompt_tokens).astype(np.int32),
            [(rng.integers(0, vocabulary, args.response_tokens).astype(np.int32), chance) for _ in range(GROUP_SIZE)],
        )
        for i in range(args.num_prompts)
    ]
    return rollouts_to_table(groups), tuple(group.outcome.prompt_id for group in groups)


def _sampled_groups(args: argparse.Namespace) -> tuple[pa.Table, tuple[str, ...]]:
    engine = TorchEngine(args.model, num_threads=torch.get_num_threads())
    request = EngineRequest(
        run_seed=0,
        stream="bench",
        step=0,
        prompts=bench_prompts(args.num_prompts),
        num_rollouts=np.full(args.num_prompts, GROUP_SIZE, dtype=np.int32),
        sampling=Sampling(temperature=1.0, max_response_tokens=args.response_tokens),
    )
    sampled: list[GeneratedGroup] = engine.generate(request)
    groups = [
        half_right(
            prompt.prompt_id,
            group.prompt_tokens,
            [(response.tokens, response.sampled_logprobs) for response in group.responses],
        )
        for prompt, group in zip(request.prompts, sampled, strict=True)
    ]
    return rollouts_to_table(groups), tuple(group.outcome.prompt_id for group in groups)
