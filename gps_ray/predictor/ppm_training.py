"""How the prompt predictive model learns (GPS, arXiv 2602.01970).

    maximise  E_{q(z | H_t)} [ sum_i log Binomial(k_i | n_i, gamma(tau_i, z)) ]
              - beta * KL( q(z | H_t) || p(z | H_{t-1}) )

for every pair (H_{t-1}, H_t) of a replay of the last steps; the pair of the very first step has the prior N(0, I).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gps_ray.base.types import IntArray
from gps_ray.config import PpmConfig
from gps_ray.predictor.interface import OutcomeBatch
from gps_ray.predictor.ppm_network import Gaussian, PpmNetwork

__all__ = ["GroupSet", "Pair", "elbo_terms", "group_sets", "prior_of", "replay_pairs", "train_on_pairs"]

# The context H_{t-1} and the outcomes H_t that it should have foreseen.
Pair = tuple[OutcomeBatch | None, OutcomeBatch]
Features = Callable[[IntArray], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSet:
    """R sets of up to K groups, padded: features [R, K, E], num_right [R, K], num_tried [R, K] (float; 0 in padding).

    A row may be all padding: a context that does not exist.
    """

    features: Tensor
    num_right: Tensor
    num_tried: Tensor

    @property
    def mask(self) -> Tensor:
        return self.num_tried > 0

    @property
    def rate(self) -> Tensor:
        return self.num_right / self.num_tried.clamp(min=1)


def group_sets(batches: Sequence[OutcomeBatch | None], features: Features) -> GroupSet:
    """Pad batches to one shape. Groups without a verdict (num_tried = 0) are left out: they say nothing."""
    kept = [np.zeros(0, np.int64) if b is None else np.flatnonzero(b.num_tried > 0) for b in batches]
    width = max(1, max(len(rows) for rows in kept))
    rows = np.zeros((len(batches), width), dtype=np.int64)
    counts = np.zeros((2, len(batches), width), dtype=np.float32)
    for i, (batch, index) in enumerate(zip(batches, kept, strict=True)):
        if batch is not None:
            rows[i, : len(index)] = batch.rows[index]
            counts[0, i, : len(index)] = batch.num_right[index]
            counts[1, i, : len(index)] = batch.num_tried[index]
    num_right, num_tried = torch.from_numpy(counts)
    padded = features(rows.ravel()).view(len(batches), width, -1)
    return GroupSet(features=padded, num_right=num_right, num_tried=num_tried)


def replay_pairs(batches: Sequence[OutcomeBatch], first_has_context: bool, replay_steps: int) -> list[Pair]:
    """The last ``replay_steps`` pairs of consecutive batches, oldest first; each keeps its own preceding batch.

    The oldest batch has no pair of its own where it is only the context of the next (``first_has_context``: a batch
    before it has left the window).
    """
    pairs: list[Pair] = [] if first_has_context or not batches else [(None, batches[0])]
    pairs.extend(pairwise(batches))
    return pairs[-replay_steps:]


def prior_of(network: PpmNetwork, context: GroupSet, config: PpmConfig) -> Gaussian:
    """p(z | context) [R, Z]; N(0, I) for rows without a context and for ``prior: standard``."""
    shape = (len(context.num_tried), config.latent_dim)
    standard = Gaussian(torch.zeros(shape), torch.ones(shape))
    known = context.mask.any(dim=1)
    if config.prior == "standard" or not bool(known.any()):
        return standard
    # An empty row gets one blank token, so that its attention stays finite; its result is then replaced.
    mask = context.mask.clone()
    mask[~known, 0] = True
    mean, std = network.prior(context.features, context.rate, mask)
    return Gaussian(
        torch.where(known[:, None], mean, standard.mean),
        torch.where(known[:, None], std, standard.std),
    )


def elbo_terms(
    network: PpmNetwork, context: GroupSet, target: GroupSet, noise: Tensor, config: PpmConfig
) -> tuple[Tensor, Tensor]:
    """(expected log-likelihood [R], KL [R]) in nats; noise [R, M, Z] standard normal.

    The expectation is the mean over M reparametrised draws of q(z | target). ``use_latent: False`` puts z = 0, KL = 0.
    """
    if config.use_latent:
        posterior = network.encoder(target.features, target.rate, target.mask)
        kl = posterior.kl_to(prior_of(network, context, config))
        z = posterior.mean[:, None] + posterior.std[:, None] * noise
    else:
        kl = torch.zeros(len(target.num_tried))
        z = torch.zeros(len(target.num_tried), 1, config.latent_dim)
    logits = network.logits(target.features, z)
    right, tried = target.num_right[:, None], target.num_tried[:, None]
    log_choose = torch.lgamma(tried + 1) - torch.lgamma(right + 1) - torch.lgamma(tried - right + 1)
    log_likelihood = (
        right * functional.logsigmoid(logits) + (tried - right) * functional.logsigmoid(-logits) + log_choose
    )
    # Padding has k = n = 0 and so a log-likelihood of exactly 0.
    return log_likelihood.sum(-1).mean(-1), kl


def train_on_pairs(
    network: PpmNetwork,
    optimizer: torch.optim.Optimizer,
    pairs: Sequence[Pair],
    features: Features,
    config: PpmConfig,
    rng: torch.Generator,
) -> dict[str, float]:
    """``config.updates_per_step`` passes over the pairs, each in a fresh random order, ``config.pairs_per_update``
    pairs to one gradient step of Adam on -ELBO per group. Returns means over the last pass, in nats per group."""
    context = group_sets([pair[0] for pair in pairs], features)
    target = group_sets([pair[1] for pair in pairs], features)
    total = dict.fromkeys(("log_likelihood", "kl"), 0.0)
    for _ in range(config.updates_per_step):
        total = dict.fromkeys(total, 0.0)
        for index in torch.split(torch.randperm(len(pairs), generator=rng), config.pairs_per_update):
            noise = torch.randn(len(index), config.num_latent_draws, config.latent_dim, generator=rng)
            part = [_rows(groups, index) for groups in (context, target)]
            log_likelihood, kl = elbo_terms(network, part[0], part[1], noise, config)
            num_groups = int(part[1].mask.sum())
            loss = -(log_likelihood - config.kl_weight * kl).sum() / num_groups
            optimizer.zero_grad(set_to_none=False)
            torch.autograd.backward(loss)
            optimizer.step()
            total["log_likelihood"] += float(log_likelihood.detach().sum())
            total["kl"] += float(kl.detach().sum())
    num_groups = int(target.mask.sum())
    metrics = {name: value / num_groups for name, value in total.items()}
    return {**metrics, "elbo": metrics["log_likelihood"] - config.kl_weight * metrics["kl"]}


def _rows(groups: GroupSet, index: Tensor) -> GroupSet:
    return GroupSet(
        features=groups.features[index], num_right=groups.num_right[index], num_tried=groups.num_tried[index]
    )
