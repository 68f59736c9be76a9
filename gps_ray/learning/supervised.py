"""Supervised training on solutions, before RL: the policy must solve some prompts, or no group is useful.

    L = - 1/N sum_i sum_t log p(solution_it | prompt_i, solution_i<t)

over the N solution tokens of a batch, the end-of-sequence token included. The matrices inside the layers are trained by
Muon (momentum made orthogonal, K. Jordan 2024, torch.optim.Muon), all else by AdamW: from random weights that reaches a
given loss at half the cost of AdamW alone. Both learning rates rise linearly over the first steps and fall to zero
along a cosine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from gps_ray.base.errors import LearnerError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Message
from gps_ray.config import WarmStartConfig
from gps_ray.learning.determinism import deterministic
from gps_ray.learning.logprobs import token_logprobs
from gps_ray.learning.packing import TrainRow, lines_of, pack
from gps_ray.model import load_model, load_tokenizer, stop_token_ids
from gps_ray.tasks.chat import DEFAULT_CHAT

__all__ = ["Progress", "WarmStartResult", "train_warm_start"]

MAX_GRAD_NORM = 1.0

# Told after each step: steps done (from 1), steps in all, loss of the step.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartResult:
    """``final_loss`` (nats per token) is the mean over the last tenth of the steps; ``cpu_s`` all threads together."""

    final_loss: float
    num_tokens: int
    cpu_s: float


def train_warm_start(
    model_directory: Path,
    examples: Sequence[tuple[str, str]],
    config: WarmStartConfig,
    out_directory: Path,
    progress: Progress | None = None,
) -> WarmStartResult:
    """Train the model of a Hugging Face folder on (prompt, solution) pairs and write it to ``out_directory``.

    The result depends on the arguments alone (CPUs of one kind). Raises LearnerError where the loss is not finite.
    """
    start = time.process_time()
    tokenizer = load_tokenizer(model_directory)
    model = load_model(model_directory).train()
    rows = _rows(model, tokenizer, examples)
    optimizers = _optimizers(model, config)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, config)) for o in optimizers]
    losses: list[float] = []
    num_tokens = 0
    with deterministic(config.num_threads):
        for batch in _batches(rows, config):
            num_batch_tokens = sum(len(row.response_tokens) for row in batch)
            losses.append(_step(model, optimizers, batch, num_batch_tokens, config.microbatch_tokens))
            num_tokens += num_batch_tokens
            if not math.isfinite(losses[-1]):
                raise LearnerError(
                    f"warm start, step {len(losses)}: expected a finite loss, got {losses[-1]}; "
                    "lower warm_start.learning_rate and warm_start.matrix_learning_rate"
                )
            for schedule in schedules:
                schedule.step()
            if progress is not None:
                progress(len(losses), config.num_steps, losses[-1])
    transformers_logging.disable_progress_bar()
    model.eval().save_pretrained(out_directory)
    tokenizer.save_pretrained(out_directory)
    return WarmStartResult(
        final_loss=float(np.mean(losses[-max(1, len(losses) // 10) :])),
        num_tokens=num_tokens,
        cpu_s=time.process_time() - start,
    )


def _rows(model: Any, tokenizer: Any, examples: Sequence[tuple[str, str]]) -> list[TrainRow]:
    end = stop_token_ids(model, tokenizer)[0]
    return [
        TrainRow(
            prompt_tokens=DEFAULT_CHAT.encode(tokenizer, (Message(role="user", content=prompt),)),
            response_tokens=np.array([*tokenizer.encode(solution, add_special_tokens=False), end], dtype=np.int32),
        )
        for prompt, solution in examples
    ]


def _batches(rows: Sequence[TrainRow], config: WarmStartConfig) -> Iterator[list[TrainRow]]:
    """``num_steps`` batches; each pass over the examples is a fresh permutation."""
    order: list[int] = []
    num_passes = 0
    for _ in range(config.num_steps):
        while len(order) < config.batch_size:
            order.extend(generator(config.seed, "warm_start/order", num_passes).permutation(len(rows)).tolist())
            num_passes += 1
        yield [rows[i] for i in order[: config.batch_size]]
        del order[: config.batch_size]


def _rate(step: int, config: WarmStartConfig) -> float:
    """The learning rate of step (from 0) as a share of its peak."""
    if step < config.num_warmup_steps:
        return (step + 1) / config.num_warmup_steps
    left = (config.num_steps - step) / max(1, config.num_steps - config.num_warmup_steps)
    return 0.5 * (1.0 - math.cos(math.pi * left))


def _optimizers(model: Any, config: WarmStartConfig) -> list[torch.optim.Optimizer]:
    # Rows of an embedding or of the head belong to single tokens: orthogonalising them as a matrix has no meaning.
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    by_token = {id(table.weight) for table in tables if table is not None}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in by_token]
    others = [p for p in model.parameters() if p.ndim != 2 or id(p) in by_token]
    return [
        torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=0.0),
    ]


def _step(
    model: Any, optimizers: Sequence[torch.optim.Optimizer], batch: Sequence[TrainRow], num_tokens: int, max_tokens: int
) -> float:
    model.zero_grad(set_to_none=True)
    loss = 0.0
    for part in pack(lines_of(batch), max_tokens, by_prompt=True):
        logprobs, _ = token_logprobs(model, part, temperature=1.0)
        share = -(logprobs * part.mask).sum() / num_tokens
        share.backward()  # type: ignore[no-untyped-call]
        loss += float(share.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    for optimizer in optimizers:
        optimizer.step()
    return loss
