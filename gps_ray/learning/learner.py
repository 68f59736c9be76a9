"""The learner: rollouts in, better weights out. Knows nothing of how it is called.

With several train workers every one makes the same calls with the same arguments; the model, its optimizer
and the rows of an update are shared among them (FSDP2). What that must not change is explicit: divisors of a loss are
computed from all admitted groups before any forward pass, and every sum goes through ``TrainWorkers``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from transformers.utils import logging as transformers_logging

from gps_ray.base.keyed_random import generator
from gps_ray.base.storage import writing
from gps_ray.base.types import FloatArray, IntArray, SuccessPrediction, UpdateResult
from gps_ray.config import LearningConfig
from gps_ray.learning.algorithms import resolve_algorithm
from gps_ray.learning.critic import Critic, token_values
from gps_ray.learning.dcp import load_shards, save_shards
from gps_ray.learning.determinism import deterministic
from gps_ray.learning.groups import NO_PREDICTIONS, TrainGroup, count_metrics, number_rows, train_groups
from gps_ray.learning.importance import importance_weights
from gps_ray.learning.logprobs import TokenScorer, can_share_prompts
from gps_ray.learning.lora import adapters_off, load_policy, merged_weights, trained_state
from gps_ray.learning.losses.interface import PolicyTokens
from gps_ray.learning.losses.kl import kl_estimate
from gps_ray.learning.losses.value import value_loss
from gps_ray.learning.minibatch import MicroBatch, MiniBatch, RewardKl, fill_advantages, make_minibatch
from gps_ray.learning.packing import TrainRow, pack
from gps_ray.learning.schedule import learning_rate_factor
from gps_ray.learning.sharding import device_weights, full_weights, move_to_workers, train_device
from gps_ray.learning.stepping import GuardedOptimizer, SkipCounter
from gps_ray.learning.totals import Totals
from gps_ray.learning.train_workers import TrainWorkers
from gps_ray.model import load_model, load_tokenizer, load_weights_into
from gps_ray.model.stopping import unknown_token_ids

__all__ = ["Learner"]

PROBE_TOKENS = 32


class Learner:
    """Trains the policy in ``model_directory`` (a Hugging Face folder) by the algorithm of the config.

    Weights and AdamW state are float32; ``dtype="bfloat16"`` computes forward and backward in it and exports it.
    ``temperature`` is the one the engine samples at: policy log-probs are taken of the same distribution.
    ``max_response_tokens`` and ``num_steps`` are the run's (``rollout.max_response_tokens``, ``run.num_steps``).
    ``policy_version`` counts the updates done. A reference policy is always the model in ``model_directory``.
    """

    def __init__(
        self,
        model_directory: Path,
        config: LearningConfig,
        *,
        dtype: str,
        temperature: float,
        max_response_tokens: int,
        num_steps: int,
    ) -> None:
        self._directory = model_directory
        self._config = config
        self._dtype = getattr(torch, dtype)
        self._temperature = temperature
        self._max_response_tokens = max_response_tokens
        self._num_steps = config.total_training_steps or num_steps
        self._algorithm, self._penalty = resolve_algorithm(config, max_response_tokens)
        self._workers = TrainWorkers.current(train_device(config))
        policy = load_policy(model_directory, config)
        # What no engine samples has no share in the policy either.
        unknown = unknown_token_ids(policy.get_output_embeddings().out_features, load_tokenizer(model_directory))
        self._unknown = torch.from_numpy(unknown).to(self._workers.device)
        self._max_shared_tokens = config.max_shared_prompt_tokens if can_share_prompts(policy) else 0
        self._model = self._placed(policy)
        self._policy = self._scorer(self._model)
        self._reference: TokenScorer | None = None
        if config.kl_coefficient and config.lora_rank:
            self._reference = self._policy  # with its adapters off
        elif config.kl_coefficient:
            self._reference = self._scorer(self._placed(load_model(model_directory).requires_grad_(False)))
        skips = SkipCounter(config.max_skipped_updates)
        self._optimizer = GuardedOptimizer(self._model, config.learning_rate, config, skips)
        self._critic: Any = None
        if self._algorithm.over_tokens == "gae":
            self._critic = self._placed(Critic(model_directory))
            self._critic_optimizer = GuardedOptimizer(self._critic, config.value_learning_rate, config, skips)
        self._policy_version = 0

    def _placed(self, model: Any) -> Any:
        # Evaluation mode throughout: dropout would make the policy another than the one that sampled.
        move_to_workers(model.eval(), self._config, self._workers, self._dtype)
        return model

    def _scorer(self, model: Any) -> TokenScorer:
        with self._autocast():
            return TokenScorer(model, self._unknown, max_tokens=self._config.microbatch_tokens)

    @property
    def takes_logits_in_pieces(self) -> bool:
        return self._policy.in_pieces

    @property
    def notes(self) -> list[str]:
        """What the user should know of how this model is trained."""
        return [] if self._policy.note is None else [self._policy.note]

    @property
    def policy_version(self) -> int:
        return self._policy_version

    def update(
        self,
        tables: Sequence[pa.Table],
        admitted: Sequence[str],
        predictions: Mapping[str, SuccessPrediction] = NO_PREDICTIONS,
    ) -> UpdateResult:
        """One step on the admitted groups, in the order of ``admitted``: ``num_minibatches`` optimizer steps.

        tables: ROLLOUTS; predictions: the selector's, from before the rollouts, which ``posterior_baseline`` needs.
        Groups go to the mini-batches in turn (a selection is ordered by score, so consecutive parts would differ in
        kind). A mini-batch without a gradient takes no optimizer step; the version advances all the same.

        Raises LearnerError where a group is missing, malformed or without a prediction that the algorithm needs, or
        where losses or gradients stay not finite.
        """
        start = time.process_time()
        factor = learning_rate_factor(self._policy_version, self._config, self._num_steps)
        totals = Totals()
        with deterministic(self._config.num_threads):
            mask_truncated = self._config.truncated == "mask"
            groups = number_rows(
                train_groups(tables, admitted, self._penalty, mask_truncated=mask_truncated, predictions=predictions)
            )
            self._algorithm.check_predicted(groups)
            for mini_batch in self._mini_batches(groups):
                self._policy_step(mini_batch, factor, totals)
                if self._critic is not None:
                    self._value_step(mini_batch, factor, totals)
        self._policy_version += 1
        num_trained = sum(bool(group.lengths) and self._algorithm.learns_from(group) for group in groups)
        metrics = count_metrics(groups, num_trained) | self._algorithm.metrics(groups) | totals.metrics(self._workers)
        metrics["train/learning_rate"] = self._config.learning_rate * factor
        return UpdateResult(policy_version=self._policy_version, metrics=metrics, cpu_s=time.process_time() - start)

    def _is_trained(self, group: TrainGroup) -> bool:
        # Without a KL a group whose advantages are all 0 adds exactly nothing to the gradient; with one it still pulls.
        return self._reference is not None or self._algorithm.learns_from(group)

    def _mini_batches(self, groups: Sequence[TrainGroup]) -> list[MiniBatch]:
        """All of the update's, scored before the first step changes the models."""
        mini_batches = []
        for part in range(self._config.num_minibatches):
            share = groups[part :: self._config.num_minibatches]
            mini_batch = make_minibatch(
                share,
                [group for group in share if self._is_trained(group)],
                mode=self._algorithm.aggregation,
                max_response_tokens=self._max_response_tokens,
                max_tokens=self._config.microbatch_tokens,
                max_shared_tokens=self._max_shared_tokens,
                by_prompt=not self._policy.in_pieces,
                workers=self._workers,
            )
            if mini_batch is not None:
                mini_batches.append(mini_batch)
        micro_batches = [micro for mini_batch in mini_batches for micro in mini_batch.micro_batches]
        with torch.no_grad(), self._autocast():
            for mini_batch in mini_batches:
                for micro in mini_batch.micro_batches:
                    self._score(micro, is_first=mini_batch is mini_batches[0])
        fill_advantages(
            groups,
            micro_batches,
            algorithm=self._algorithm,
            reward_kl=RewardKl(coefficient=self._config.kl_coefficient, algorithm=self._algorithm),
            gamma=self._config.gamma,
            lam=self._config.lam,
            workers=self._workers,
        )
        return mini_batches

    def _score(self, micro: MicroBatch, *, is_first: bool) -> None:
        batch, config = micro.batch, self._config
        # The first mini-batch trains the very policy that is the old one: the log-probs of its training pass will do,
        # unless the reward's KL asks for them before.
        reward_kl = self._algorithm.kl_in_reward and config.kl_coefficient > 0
        if config.rollout_is is not None and (reward_kl or not is_first):
            self._take_as_old(micro, self._policy(batch, self._temperature)[0])
        if self._reference is not None:
            with adapters_off(self._reference.model):
                micro.reference, _ = self._reference(batch, self._temperature)
        if self._critic is not None:
            micro.old_values = token_values(self._critic, batch)

    def _take_as_old(self, micro: MicroBatch, logprobs: torch.Tensor) -> None:
        """With ``rollout_is``; ``logprobs`` are the learner's own before the update."""
        batch, config = micro.batch, self._config
        assert config.rollout_is is not None
        micro.old = logprobs.detach()
        micro.importance = importance_weights(
            micro.old, batch.sampled_logprobs, batch.mask, config.rollout_is, config.rollout_is_threshold
        )

    def _policy_step(self, mini_batch: MiniBatch, factor: float, totals: Totals) -> None:
        self._optimizer.zero_grad()
        share = sum(self._policy_share(micro, mini_batch.denominator, totals) for micro in mini_batch.micro_batches)
        loss = float(self._workers.sum(torch.tensor(share, dtype=torch.float64)))
        norm = self._optimizer.step(loss, factor, f"update {self._policy_version + 1}")
        totals.add_step(loss, norm)

    def _policy_share(self, micro: MicroBatch, denominator: float, totals: Totals) -> float:
        """Add one micro-batch's gradient; returns its share of the mini-batch's loss."""
        batch, mask = micro.batch, micro.batch.mask
        with self._autocast():
            policy, entropy = self._policy(batch, self._temperature)
        if self._config.rollout_is is not None and micro.importance is None:
            self._take_as_old(micro, policy)
        tokens = PolicyTokens(policy=policy, old=micro.old, advantages=micro.advantages, mask=mask)
        token_loss = self._algorithm.policy_loss(tokens, self._algorithm.clip)
        per_token = token_loss.per_token
        if micro.importance is not None:
            per_token = micro.importance.weights * per_token
        kl = None
        if micro.reference is not None:
            kl = kl_estimate(policy, micro.reference, mask, self._algorithm.kl_penalty)
            if not self._algorithm.kl_in_reward:
                per_token = per_token + self._config.kl_coefficient * kl
        share = (per_token * mask * micro.row_weights).sum() / denominator
        # FSDP2 averages gradients over workers; the shares are to be added.
        (share * self._workers.size).backward()  # type: ignore[no-untyped-call]
        totals.add_tokens(tokens, token_loss, entropy, kl, micro.importance)
        return float(share.detach())

    def _value_step(self, mini_batch: MiniBatch, factor: float, totals: Totals) -> None:
        self._critic_optimizer.zero_grad()
        loss = 0.0
        for micro in mini_batch.micro_batches:
            assert micro.old_values is not None
            assert micro.value_targets is not None
            with self._autocast():
                values = token_values(self._critic, micro.batch)
            per_token = value_loss(values, micro.old_values, micro.value_targets, self._config.cliprange_value)
            share = (per_token * micro.batch.mask).sum() / mini_batch.num_tokens
            (share * self._workers.size).backward()  # type: ignore[no-untyped-call]
            loss += float(share.detach())
            totals.add_values(micro.old_values, micro.value_targets, micro.batch.mask)
        loss = float(self._workers.sum(torch.tensor(loss, dtype=torch.float64)))
        norm = self._critic_optimizer.step(loss, factor, f"update {self._policy_version + 1} of the value model")
        totals.add_value_step(loss, norm)

    def _autocast(self) -> Any:
        return torch.autocast(self._workers.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """All parameters by their Hugging Face names, adapters merged, as float32 copies; on rank 0, the others get
        none."""
        weights = full_weights(self._model, self._workers)
        with deterministic(self._config.num_threads):
            return merged_weights(weights, self._model)

    def device_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The parameters themselves, on their device, whole on every worker (``sharding.device_weights``)."""
        return device_weights(self._model)

    def probe(self) -> tuple[IntArray, FloatArray]:
        """A fixed text, tokens [T] int32, and its log-probs [T - 1] float32 at temperature 1.

        The text is drawn once and for all from the vocabulary: unlikely tokens everywhere move when any weight is off.
        """
        vocabulary = self._model.get_input_embeddings().num_embeddings
        known = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), self._unknown.cpu().numpy())
        tokens = known[generator(0, "learning/weight_probe").integers(0, len(known), PROBE_TOKENS)]
        row = TrainRow(prompt_tokens=tokens[:1], response_tokens=tokens[1:])
        with torch.no_grad(), deterministic(self._config.num_threads), self._autocast():
            (batch,) = pack([(row,)], PROBE_TOKENS)
            logprobs, _ = self._policy(batch.to(self._workers.device), 1.0)
        return tokens, logprobs.cpu()[batch.mask].numpy()

    def save(self, directory: Path) -> None:
        """Write models, optimizers and counters with torch.distributed.checkpoint, each worker its own part; ``load``
        goes on bit for bit."""
        save_shards(self._state(), directory)

    def load(self, directory: Path) -> None:
        """Raises CheckpointError where the folder holds no whole checkpoint of this model."""
        state = self._state()
        load_shards(state, directory)
        for model, optimizer, prefix in self._trained():
            set_state_dict(
                model,
                optimizer.adamw,
                model_state_dict=state[f"{prefix}model"],
                optim_state_dict=state[f"{prefix}optimizer"],
                # Frozen weights are not in it; that all others are, load_shards has seen to.
                options=StateDictOptions(strict=False),
            )
        self._policy_version = int(state["policy_version"])

    def _trained(self) -> list[tuple[Any, GuardedOptimizer, str]]:
        """What is trained, with its optimizer and its place in a checkpoint. The reference policy never changes."""
        policy = (self._model, self._optimizer, "")
        return [policy] if self._critic is None else [policy, (self._critic, self._critic_optimizer, "value_")]

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"policy_version": torch.tensor(self._policy_version)}
        for model, optimizer, prefix in self._trained():
            weights, state[f"{prefix}optimizer"] = get_state_dict(model, optimizer.adamw)
            state[f"{prefix}model"] = trained_state(weights, model)
        return state

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face folder in its own dtype, with the tokenizer it came with."""
        weights = self.weights()
        if self._workers.rank:
            return
        transformers_logging.disable_progress_bar()
        # A fresh copy: config.json must name the dtype that lies beside it, and this one is whole on rank 0 only.
        policy = load_model(self._directory)
        load_weights_into(policy, weights)
        with writing(directory, SafetensorError, RuntimeError):
            policy.to(self._dtype).save_pretrained(directory)
            load_tokenizer(self._directory).save_pretrained(directory)
