"""The learner: rollouts in, better weights out. One process, one train worker; knows nothing of how it is called.

Several ranks (FSDP2) are to come here: what a sum over ranks must change is explicit (token denominators are computed
from all admitted groups before any forward pass, the forward goes through the root module, checkpoints are DCP's).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from transformers.utils import logging as transformers_logging

from gps_ray.config import LearningConfig
from gps_ray.errors import LearnerError
from gps_ray.keyed_random import generator
from gps_ray.learning.dcp import load_shards, save_shards
from gps_ray.learning.determinism import deterministic
from gps_ray.learning.groups import TrainGroup, count_metrics, train_groups
from gps_ray.learning.logprobs import token_logprobs
from gps_ray.learning.losses.grpo import grpo_loss
from gps_ray.learning.packing import PackedBatch, Row, pack
from gps_ray.model import load_model, load_tokenizer, weights_of
from gps_ray.types import FloatArray, IntArray, UpdateResult

__all__ = ["Learner"]

PROBE_TOKENS = 32


@dataclass(slots=True)
class _Totals:
    """Sums over one update."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    num_tokens: int = 0
    entropy: float = 0.0
    num_clipped: float = 0.0
    kl_to_sampled: float = 0.0
    kl_to_reference: float = 0.0


class Learner:
    """Trains the policy in ``model_directory`` (a Hugging Face folder).

    Weights and AdamW state are float32; ``dtype="bfloat16"`` computes forward and backward under autocast and exports
    bfloat16. ``temperature`` is the one the engine samples at: policy log-probs are taken of the same distribution.
    ``policy_version`` counts the updates done.
    """

    def __init__(self, model_directory: Path, config: LearningConfig, *, dtype: str, temperature: float) -> None:
        self._directory = model_directory
        self._config = config
        self._dtype = getattr(torch, dtype)
        self._temperature = temperature
        # Evaluation mode throughout: dropout would make the policy another than the one that sampled.
        self._device = _device(config)
        self._model = load_model(model_directory).eval().to(self._device)
        self._reference = None
        if config.kl_coefficient:
            self._reference = load_model(model_directory).eval().requires_grad_(False).to(self._device)
        self._optimizer = _adamw(self._model, config)
        self._policy_version = 0

    @property
    def policy_version(self) -> int:
        return self._policy_version

    def update(self, tables: Sequence[pa.Table], admitted: Sequence[str]) -> UpdateResult:
        """One step on the admitted groups, in the order of ``admitted``: ``num_minibatches`` optimizer steps.

        tables: ROLLOUTS; their sampled log-probs are the old policy of the loss. Groups go to the mini-batches in turn
        (a selection is ordered by score, so consecutive parts would differ in kind). A mini-batch without a gradient
        takes no optimizer step; the version advances all the same.

        Raises LearnerError where a group is missing or malformed, or a loss or gradient is not finite.
        """
        start = time.process_time()
        with deterministic(self._config.num_threads):
            groups = train_groups(tables, admitted)
            totals = _Totals()
            for part in range(self._config.num_minibatches):
                self._minibatch(groups[part :: self._config.num_minibatches], totals)
        self._policy_version += 1
        return UpdateResult(
            policy_version=self._policy_version,
            metrics=self._metrics(groups, totals),
            cpu_s=time.process_time() - start,
        )

    def _minibatch(self, groups: Sequence[TrainGroup], totals: _Totals) -> None:
        # Without a KL a zero-variance group adds exactly nothing to the gradient; with one it still pulls.
        trained = [group for group in groups if group.has_gradient or self._reference is not None]
        rows = [row for group in trained for row in group.rows]
        if not rows:
            return
        denominator = float(sum(group.num_tokens for group in groups))
        self._optimizer.zero_grad(set_to_none=True)
        loss = sum(self._microbatch(batch, denominator, totals) for batch in pack(rows, self._config.microbatch_tokens))
        norm = float(torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LearnerError(
                f"update {self._policy_version + 1}: expected a finite loss and gradient, got loss {loss} and "
                f"gradient norm {norm}; lower learning.learning_rate"
            )
        self._optimizer.step()
        totals.losses.append(loss)
        totals.grad_norms.append(norm)

    def _microbatch(self, batch: PackedBatch, denominator: float, totals: _Totals) -> float:
        """Add one micro-batch's gradient; returns its share of the mini-batch's loss."""
        batch = batch.to(self._device)
        with self._autocast():
            policy, logprobs = token_logprobs(self._model, batch, self._temperature)
            reference = None
            if self._reference is not None:
                with torch.no_grad():
                    reference, _ = token_logprobs(self._reference, batch, self._temperature)
        terms = grpo_loss(
            policy,
            batch.sampled_logprobs,
            batch.advantages,
            batch.mask,
            token_denominator=denominator,
            clip_ratio_low=self._config.clip_ratio_low,
            clip_ratio_high=self._config.clip_ratio_high,
            kl_coefficient=self._config.kl_coefficient,
            reference_logprobs=reference,
        )
        terms.loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            totals.entropy += float((entropy * batch.mask).sum())
        totals.num_tokens += batch.num_tokens
        totals.num_clipped += float(terms.num_clipped)
        totals.kl_to_sampled += float(terms.kl_to_sampled_sum)
        totals.kl_to_reference += float(terms.kl_to_reference_sum)
        return float(terms.loss.detach())

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    def _metrics(self, groups: Sequence[TrainGroup], totals: _Totals) -> dict[str, float]:
        """Means over what was trained on are left out where nothing was."""
        metrics = count_metrics(groups) | {
            "train/num_tokens": totals.num_tokens,
            "train/num_optimizer_steps": len(totals.losses),
            "train/learning_rate": self._config.learning_rate,
        }
        if totals.losses:
            metrics |= {
                "train/loss": float(np.mean(totals.losses)),
                "train/grad_norm": float(np.mean(totals.grad_norms)),
                "train/entropy": totals.entropy / totals.num_tokens,
                "train/clip_ratio": totals.num_clipped / totals.num_tokens,
                "train/approx_kl": totals.kl_to_sampled / totals.num_tokens,
            }
            if self._reference is not None:
                metrics["train/reference_kl"] = totals.kl_to_reference / totals.num_tokens
        return metrics

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """All parameters by their Hugging Face names, as float32 copies."""
        return weights_of(self._model)

    def probe(self) -> tuple[IntArray, FloatArray]:
        """A fixed text, tokens [T] int32, and its log-probs [T - 1] float32 at temperature 1.

        The text is drawn once and for all from the vocabulary: unlikely tokens everywhere move when any weight is off.
        """
        vocabulary = self._model.get_input_embeddings().num_embeddings
        tokens = generator(0, "learning/weight_probe").integers(0, vocabulary, PROBE_TOKENS).astype(np.int32)
        row = Row(prompt_tokens=tokens[:1], response_tokens=tokens[1:])
        with torch.no_grad(), deterministic(self._config.num_threads), self._autocast():
            (batch,) = pack([row], PROBE_TOKENS)
            logprobs, _ = token_logprobs(self._model, batch.to(self._device), 1.0)
        return tokens, logprobs.cpu()[batch.mask].numpy()

    def save(self, directory: Path) -> None:
        """Write model, optimizer and counters with torch.distributed.checkpoint; ``load`` goes on bit for bit."""
        save_shards(self._state(), directory)

    def load(self, directory: Path) -> None:
        """Raises CheckpointError where the folder holds no whole checkpoint of this model."""
        state = self._state()
        load_shards(state, directory)
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self._policy_version = int(state["policy_version"])

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer, "policy_version": torch.tensor(self._policy_version)}

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face folder in its own dtype, with the tokenizer it came with."""
        transformers_logging.disable_progress_bar()
        # A copy, not a state dict of another dtype: config.json must name the dtype that lies beside it.
        policy = self._model if self._dtype == torch.float32 else copy.deepcopy(self._model).to(self._dtype)
        policy.save_pretrained(directory)
        load_tokenizer(self._directory).save_pretrained(directory)


def _device(config: LearningConfig) -> torch.device:
    if not config.num_gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LearnerError(
            f"learning.num_gpus_per_worker: {config.num_gpus_per_worker:g} GPUs were asked for, torch sees none; set "
            "learning.num_gpus_per_worker=0 or install the GPU build"
        )
    return torch.device("cuda")


def _adamw(model: torch.nn.Module, config: LearningConfig) -> torch.optim.AdamW:
    """AdamW with its state made at once: DCP would make a missing one by a step of its own and count that step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
