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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from gps_ray.config import CountdownConfig, DataConfig, EmbeddedModelConfig
from gps_ray.errors import ConfigError
from gps_ray.keyed_random import seed_64
from gps_ray.model import encode_prompt, make_embedded_model
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup
from gps_ray.rollout.torch_engine import TorchEngine, left_padded
from gps_ray.tasks.countdown import Countdown
from gps_ray.types import Prompt

__all__ = ["add_arguments", "run"]

# Tokens/s of the engine over those of transformers.generate, by number of sequences: (at least, aim).
TARGETS = {256: (1.3, 1.6), 32: (1.6, 2.2)}
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
    """One row per engine and number of sequences; ``ratio`` is tokens/s over that of ``transformers.generate``."""
    for num_sequences in args.num_sequences:
        if num_sequences < 1 or num_sequences % args.group_size:
            raise ConfigError(
                f"--num-sequences: {num_sequences} is not a multiple of --group-size {args.group_size}; change one"
            )
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.model
        if directory is None:
            directory = Path(scratch)
            make_embedded_model(EmbeddedModelConfig(), Countdown().vocabulary(), directory)
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


def _prompts(num: int) -> tuple[Prompt, ...]:
    # Pools below some size cannot hold every level; the prompts are a part of a larger one.
    config = CountdownConfig(num_pool_prompts=max(num, 64), num_evaluation_prompts=8, num_heldout_probe_prompts=8)
    return Countdown().generate(DataConfig(countdown=config)).pool[:num]


def _case(args: argparse.Namespace, engines: dict[str, TorchEngine], num_sequences: int) -> list[dict[str, Any]]:
    num_prompts = num_sequences // args.group_size
    request = EngineRequest(
        run_seed=0,
        stream="bench",
        step=0,
        prompts=_prompts(num_prompts),
        num_rollouts=np.full(num_prompts, args.group_size, dtype=np.int32),
        temperature=1.0,
        max_response_tokens=args.response_tokens,
    )
    reference = engines["torch, generic step"]
    contestants: dict[str, Callable[[], int]] = {"transformers.generate": _baseline(reference, request)}
    for name, engine in engines.items():
        contestants[name] = _engine_turn(engine, request)
    speeds = _by_turns(contestants, args.repeats)
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    at_least, aim = TARGETS.get(num_sequences, (None, None))
    rows = []
    for name in contestants:
        row: dict[str, Any] = {
            "num_sequences": num_sequences,
            "engine": name,
            "tokens_per_s": round(medians[name], 1),
            "ratio": round(medians[name] / medians["transformers.generate"], 3),
            "tokens_per_s_by_turn": [round(value, 1) for value in speeds[name]],
        }
        if name in engines:
            groups = engines[name].generate(request)
            row["ratio_at_least"], row["ratio_aim"] = at_least, aim
            row["max_logprob_difference"] = _logprob_difference(reference, groups)
            row["max_logprob_difference_allowed"] = LOGPROB_TOLERANCE
        rows.append(row)
    return rows


def _by_turns(contestants: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Tokens/s of every contestant in every turn; a first turn warms up and is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, generate in contestants.items():
            start = time.perf_counter()
            num_tokens = generate()
            if turn:
                speeds[name].append(num_tokens / (time.perf_counter() - start))
    return speeds


def _engine_turn(engine: TorchEngine, request: EngineRequest) -> Callable[[], int]:
    return lambda: sum(len(response.tokens) for group in engine.generate(request) for response in group.responses)


def _baseline(engine: TorchEngine, request: EngineRequest) -> Callable[[], int]:
    """One ``generate`` call with log-probs of the sampled tokens; gives the number of tokens up to the stop token."""
    model, tokenizer = engine.model, engine.tokenizer
    encoded = [encode_prompt(tokenizer, prompt.text) for prompt in request.prompts]
    tokens, mask = left_padded(encoded, model.device)
    stop_tokens = torch.tensor(engine.stop_tokens)

    @torch.inference_mode()
    def generate() -> int:
        output = model.generate(
            input_ids=tokens,
            attention_mask=mask.long(),
            do_sample=True,
            temperature=request.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=int(request.num_rollouts[0]),
            max_new_tokens=request.max_response_tokens,
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
