"""A mini-batch on its way: packed, scored by the models as they are before the update, given advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gps_ray.learning.advantages.batch_normalised import batch_normalised
from gps_ray.learning.advantages.gae import generalised_advantages
from gps_ray.learning.advantages.returns import discounted_returns
from gps_ray.learning.aggregation import AggregationMode, denominator, row_weight
from gps_ray.learning.algorithms import Algorithm
from gps_ray.learning.groups import TrainGroup
from gps_ray.learning.importance import ImportanceWeights
from gps_ray.learning.losses.kl import kl_estimate
from gps_ray.learning.packing import PackedBatch, blank_batch, lines_of, pack, split_lines
from gps_ray.learning.train_workers import TrainWorkers

__all__ = ["MicroBatch", "MiniBatch", "RewardKl", "fill_advantages", "make_minibatch"]


@dataclass(slots=True, kw_only=True)
class MicroBatch:
    """One forward pass. All [M, T] on its device, as the models saw it before the update: ``old`` are the old policy's
    log-probs; ``reference``, ``importance`` and ``old_values`` are there where the algorithm asks for them.
    ``row_weights`` [M, 1] of the aggregation; ``advantages`` and ``value_targets`` come last."""

    batch: PackedBatch
    row_weights: Tensor
    old: Tensor
    reference: Tensor | None = None
    importance: ImportanceWeights | None = None
    old_values: Tensor | None = None
    advantages: Tensor
    value_targets: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """What one optimizer step takes: this worker's micro-batches (equally many on every one), the divisor of the policy
    loss, and the response tokens that are trained on, over all workers."""

    micro_batches: list[MicroBatch]
    denominator: float
    num_tokens: int


def make_minibatch(
    groups: Sequence[TrainGroup],
    trained: Sequence[TrainGroup],
    *,
    mode: AggregationMode,
    max_response_tokens: int,
    max_tokens: int,
    max_shared_tokens: int,
    by_prompt: bool,
    workers: TrainWorkers,
) -> MiniBatch | None:
    """Of ``groups``, all of which count in the divisor, those ``trained`` are packed into micro-batches of at most
    ``max_tokens`` tokens (``pack``), their prompts shared in lines of at most ``max_shared_tokens``. Every worker
    computes all shares, so nothing is sent. None where there is nothing to train."""
    rows = [row for group in trained for row in group.rows if len(row.response_tokens)]
    if not rows:
        return None
    lines = lines_of(rows, max_shared_tokens)
    shares = [pack(share, max_tokens, by_prompt=by_prompt) for share in split_lines(lines, workers.size)]
    own = shares[workers.rank]
    own += [blank_batch(lines[0])] * (max(map(len, shares)) - len(own))
    return MiniBatch(
        micro_batches=[_micro_batch(batch.to(workers.device), mode) for batch in own],
        denominator=denominator([n for group in groups for n in group.lengths], mode, max_response_tokens),
        num_tokens=sum(len(row.response_tokens) for row in rows),
    )


def _micro_batch(batch: PackedBatch, mode: AggregationMode) -> MicroBatch:
    weights = [row_weight(max(1, length), mode) for length in batch.mask.sum(1).tolist()]
    return MicroBatch(
        batch=batch,
        row_weights=torch.tensor(weights, dtype=torch.float32, device=batch.mask.device).unsqueeze(1),
        old=batch.sampled_logprobs,
        advantages=torch.zeros_like(batch.sampled_logprobs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardKl:
    """The KL that is taken off the reward, per token of a micro-batch: coefficient * estimate."""

    coefficient: float
    algorithm: Algorithm

    def __call__(self, micro: MicroBatch) -> Tensor:
        if not self.coefficient or not self.algorithm.kl_in_reward or micro.reference is None:
            return torch.zeros_like(micro.old)
        estimate = kl_estimate(micro.old, micro.reference, micro.batch.mask, self.algorithm.kl_penalty)
        return self.coefficient * estimate


def fill_advantages(
    groups: Sequence[TrainGroup],
    micro_batches: Sequence[MicroBatch],
    *,
    algorithm: Algorithm,
    reward_kl: RewardKl,
    gamma: float,
    lam: float,
    workers: TrainWorkers,
) -> None:
    """Set ``advantages`` (and ``value_targets``) of all micro-batches of an update; rows of ``groups`` are numbered."""
    over_response = algorithm.over_tokens == "response"
    scores = _row_scores(groups, micro_batches, algorithm, reward_kl if over_response else None, workers)
    for micro in micro_batches:
        mask = micro.batch.mask
        score = scores[micro.batch.numbers.cpu()].to(mask.device).unsqueeze(1)
        if over_response:
            micro.advantages = score.expand(mask.shape)
            continue
        # The reward stands on the last response token.
        is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        rewards = torch.where(is_last, score, 0.0) - reward_kl(micro)
        if micro.old_values is None:
            micro.advantages = discounted_returns(rewards, mask, gamma)
        else:
            micro.advantages, micro.value_targets = generalised_advantages(
                rewards, micro.old_values, mask, gamma=gamma, lam=lam
            )
    if algorithm.normalises_batch:
        masks = [micro.batch.mask for micro in micro_batches]
        normalised = batch_normalised([micro.advantages for micro in micro_batches], masks, workers.sum)
        for micro, advantages in zip(micro_batches, normalised, strict=True):
            micro.advantages = advantages


def _row_scores(
    groups: Sequence[TrainGroup],
    micro_batches: Sequence[MicroBatch],
    algorithm: Algorithm,
    reward_kl: RewardKl | None,
    workers: TrainWorkers,
) -> Tensor:
    """The advantage of each row [rows] float32, or its reward where the algorithm has no baseline of the group."""
    num_rows = sum(len(group.rows) for group in groups)
    kl = torch.zeros(num_rows, dtype=torch.float64)
    if reward_kl is not None and reward_kl.coefficient and algorithm.kl_in_reward:
        for micro in micro_batches:
            kl.index_add_(0, micro.batch.numbers.cpu(), reward_kl(micro).sum(1).double().cpu())
        kl = workers.sum(kl)
    scores = torch.zeros(num_rows, dtype=torch.float32)
    for group in (group for group in groups if group.rows):
        numbers = [row.number for row in group.rows]
        rewards = group.rewards - kl[numbers].numpy()
        scores[numbers] = torch.tensor(algorithm.advantages(rewards, group.prediction), dtype=torch.float32)
    return scores
