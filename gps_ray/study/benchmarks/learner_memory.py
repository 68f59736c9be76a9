"""``jobs.bench learner_memory``: the peak of a forward and backward pass over a real vocabulary, logits whole and in
pieces.

Each road runs in a process of its own, on a model with so few other numbers that the logits are what its memory holds.
The peak is that of the resident set, above what was resident just before the pass; the loss must be the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["add_arguments", "run"]

_HIDDEN = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-rows", type=int, default=4096, help="response tokens of the micro-batch")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="entries of the head")
    parser.add_argument("--response-tokens", type=int, default=512, help="of each response")
    parser.add_argument("--num-threads", type=int, default=2)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row per road. ``bytes_per_entry``: peak over rows times vocabulary."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for road in ("whole", "pieces"):
        with context.Pool(1) as pool:
            rows.append(pool.apply(_measure, (road, vars(args))))
    for row in rows:
        row["loss_difference"] = abs(row["loss"] - rows[0]["loss"])
    return {
        "benchmark": "learner_memory",
        "num_rows": args.num_rows,
        "vocabulary": args.vocabulary,
        "num_threads": args.num_threads,
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


def _measure(road: str, settings: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gps_ray.learning.logprobs import TokenScorer
    from gps_ray.learning.packing import TrainRow, lines_of, pack

    torch.set_num_threads(settings["num_threads"])
    torch.manual_seed(0)
    num_rows, vocabulary, length = (settings[name] for name in ("num_rows", "vocabulary", "response_tokens"))
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=_HIDDEN, intermediate_size=_HIDDEN, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=2 * length, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    rng = np.random.default_rng(0)
    responses = [rng.integers(0, vocabulary, length).astype(np.int32) for _ in range(num_rows // length)]
    rows = [TrainRow(prompt_tokens=np.array([1, 2]), response_tokens=response) for response in responses]
    (batch,) = pack(lines_of(rows), 2 * num_rows)
    entries = {"whole": num_rows * vocabulary, "pieces": None}[road]
    scorer = TokenScorer(model, torch.tensor([], dtype=torch.int64), max_tokens=num_rows, max_entries=entries)
    assert scorer.in_pieces == (road == "pieces")
    before, start = _resident_bytes(), time.perf_counter()
    logprobs, entropy = scorer(batch, 1.0)
    loss = -(logprobs * batch.mask).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "logits": road,
        "peak_mib": round(peak / 2**20, 1),
        "bytes_per_entry": round(peak / (num_rows * vocabulary), 3),
        "s": round(seconds, 2),
        "loss": float(loss.detach()),
        "entropy": float(entropy.mean()),
    }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
