"""``jobs.bench rollout``: the torch engine against one ``transformers.generate`` call on the same prompts.

Both run in this process by turns, with the same model, dtype, threads, stop rule and number of responses per prompt,
and both give sampled tokens and their log-probs. The engine's time includes reading the prompts' text and writing the
responses'; that of ``generate`` starts and ends with token ids.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import seed_64
from gps_ray.base.types import Prompt, Sampling
from gps_ray.config import CountdownConfig, DataConfig, EmbeddedModelConfig
from gps_ray.model import make_embedded_model
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine, left_padded
from gps_ray.tasks.chat import DEFAULT_CHAT
from gps_ray.tasks.countdown import Countdown

__all__ = ["add_arguments", "bench_prompts", "check_sequences", "model_folder", "run", "speed_columns"]

LOGPROB_TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-sequences", type=int, nargs="+", default=[256, 32])
    parser.add_argument("--group-size", type=int, default=8, help="responses per prompt")
    parser.add_argument("--response-tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are medians")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--model", type=Path, default=None, help="Hugging Face folder; default: the embedded model")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per engine and number of sequences.

    ``ratio`` is tokens/s over that of ``transformers.generate``; ``cpu_ratio`` the same per CPU-second, which other
    processes on the machine disturb less.
    """
    check_sequences(args)
    with model_folder(args) as directory:
        engines = {
            "torch": TorchEngine(directory, dtype=args.dtype, num_threads=args.num_threads),
            "torch, generic step": TorchEngine(
                directory, dtype=args.dtype, num_threads=args.num_threads, written_out_step=False
            ),
        }
    rows = [row for num in args.num_sequences for row in _case(args, engines, num)]
    return {
        "benchmark": "rollout",
        "num_parameters": engines["torch"].model.num_parameters(),
        "dtype": args.dtype,
        "group_size": args.group_size,
        "max_response_tokens": args.response_tokens,
        "num_threads": args.num_threads,
        "repeats": args.repeats,
        "num_cpus": os.cpu_count(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": rows,
    }


def check_sequences(args: argparse.Namespace) -> None:
    """Raise ConfigError where --num-sequences is not made of whole groups."""
    for num_sequences in args.num_sequences:
        if num_sequences < 1 or num_sequences % args.group_size:
            raise ConfigError(
                f"--num-sequences: {num_sequences} is not a multiple of --group-size {args.group_size}; change one"
            )


@contextmanager
def model_folder(args: argparse.Namespace) -> Iterator[Path]:
    """--model, or a folder with the embedded model, gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            make_embedded_model(EmbeddedModelConfig(), Countdown().vocabulary(), Path(scratch))
        yield args.model or Path(scratch)


def speed_columns(speeds: Mapping[str, Sequence[tuple[float, float]]], baseline: str) -> dict[str, dict[str, Any]]:
    """Columns of every arm's row, from its (tokens per second, tokens per CPU-second) of every turn."""
    medians = {name: np.median(turns, axis=0) for name, turns in speeds.items()}
    columns: dict[str, dict[str, Any]] = {}
    for name, turns in speeds.items():
        ratio, cpu_ratio = medians[name] / medians[baseline]
        columns[name] = {
            "tokens_per_s": round(float(medians[name][0]), 1),
            "ratio": round(float(ratio), 3),
            "cpu_ratio": round(float(cpu_ratio), 3),
            "tokens_per_s_by_turn": [round(value, 1) for value, _ in turns],
            "tokens_per_cpu_s_by_turn": [round(value, 1) for _, value in turns],
        }
    return columns


def bench_prompts(num: int) -> tuple[Prompt, ...]:
    """Generated Countdown prompts, always the same."""
    # Pools below some size cannot hold every level; the prompts are a part of a larger one.
    config = CountdownConfig(num_pool_prompts=max(num, 64), num_evaluation_prompts=8, num_heldout_probe_prompts=8)
    return Countdown().generate(DataConfig(countdown=config)).pool[:num]


def _case(args: argparse.Namespace, engines: dict[str, TorchEngine], num_sequences: int) -> list[dict[str, Any]]:
    num_prompts = num_sequences // args.group_size
    request = EngineRequest(
        run_seed=0,
        stream="bench",
        step=0,
        prompts=bench_prompts(num_prompts),
        num_rollouts=np.full(num_prompts, args.group_size, dtype=np.int32),
        sampling=Sampling(temperature=1.0, max_response_tokens=args.response_tokens),
    )
    reference = engines["torch, generic step"]
    arms: dict[str, Callable[[], int]] = {"transformers.generate": _baseline(reference, request)}
    for name, engine in engines.items():
        arms[name] = _engine_turn(engine, request)
    rows = []
    for name, columns in speed_columns(_by_turns(arms, args.repeats), "transformers.generate").items():
        row: dict[str, Any] = {"num_sequences": num_sequences, "engine": name, **columns}
        if name in engines:
            groups = engines[name].generate(request)
            row["max_logprob_difference"] = _logprob_difference(reference, groups)
            row["difference_allowed"] = LOGPROB_TOLERANCE
        rows.append(row)
    return rows


def _by_turns(arms: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Tokens per second and per CPU-second of every arm in every turn; a first turn warms up, uncounted."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for turn in range(repeats + 1):
        for name, generate in arms.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            num_tokens = generate()
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            if turn:
                speeds[name].append((num_tokens / seconds, num_tokens / cpu_seconds))
    return speeds


def _engine_turn(engine: TorchEngine, request: EngineRequest) -> Callable[[], int]:
    return lambda: sum(len(response.tokens) for group in engine.generate(request) for response in group.responses)


def _baseline(engine: TorchEngine, request: EngineRequest) -> Callable[[], int]:
    """One ``generate`` call with log-probs of the sampled tokens; gives the number of tokens up to the stop token."""
    model, tokenizer = engine.model, engine.tokenizer
    encoded = [DEFAULT_CHAT.encode(tokenizer, prompt.chat) for prompt in request.prompts]
    tokens, mask = left_padded(encoded, model.device)
    stop_tokens = torch.tensor(engine.stop_tokens)

    @torch.inference_mode()
    def generate() -> int:
        output = model.generate(
            input_ids=tokens,
            attention_mask=mask.long(),
            do_sample=True,
            temperature=request.sampling.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=int(request.num_rollouts[0]),
            max_new_tokens=request.sampling.max_response_tokens,
            eos_token_id=list(engine.stop_tokens),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=True,
        )
        model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        responses = output.sequences[:, tokens.shape[1] :]
        # Everything behind the first stop token is padding.
        ended = torch.isin(responses, stop_tokens).cumsum(1)
        return int((ended == 0).sum() + (ended[:, -1] > 0).sum())

    def seeded() -> int:
        # generate draws from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_64(request.run_seed, request.stream))
            return generate()

    return seeded


def _logprob_difference(reference: TorchEngine, groups: Sequence[GeneratedGroup]) -> float:
    """Largest |sampled log-prob - log-prob by one full forward over prompt and response| over all tokens."""
    differences = []
    for group in groups:
        for response in group.responses:
            full = reference.logprobs(np.concatenate([group.prompt_tokens, response.tokens]))
            differences.append(np.abs(full[len(group.prompt_tokens) - 1 :] - response.sampled_logprobs).max())
    return float(max(differences))
