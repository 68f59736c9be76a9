"""The networks of the prompt predictive model (GPS, arXiv 2602.01970).

q_phi(z | H_t), p_eta(z | H_{t-1})   set Transformers over tokens Linear([e_i, s_i]), mean-pooled to a Gaussian
gamma_psi(tau, z)                    sigmoid(MLP([e, z]))
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gps_ray.config import PpmConfig

__all__ = ["Gaussian", "PpmNetwork", "SetEncoder", "build_network"]

# Largest working set of the decoder's hidden layer (elements): small enough to stay in a core's cache.
_HIDDEN_ELEMENTS = 1 << 18


class Gaussian(NamedTuple):
    """Diagonal Gaussians: mean [..., Z], std [..., Z]."""

    mean: Tensor
    std: Tensor

    def kl_to(self, other: Gaussian) -> Tensor:
        """KL(self || other) [...], in closed form, summed over Z."""
        ratio = self.std / other.std
        shift = (self.mean - other.mean) / other.std
        return (0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()).sum(-1)


class _Block(nn.Module):
    """Pre-norm self-attention over a set, then a position-wise MLP."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [R, K, d], mask [R, K] bool (True = a real token; at least one per row)."""
        rows, tokens, dim = x.shape
        heads = self.qkv(self.norm_attention(x)).view(rows, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(attended.transpose(1, 2).reshape(rows, tokens, dim))
        mixed: Tensor = x + self.down(functional.relu(self.up(self.norm_mlp(x))))
        return mixed


class SetEncoder(nn.Module):
    """A set of (prompt, success rate) -> diagonal Gaussian over z; the order of the set does not matter."""

    def __init__(self, feature_dim: int, config: PpmConfig) -> None:
        super().__init__()
        # The features are E standardised numbers, the success rate is one: unscaled it is drowned, and z learns nothing
        # of how hard the step was (measured by the swap test; see PpmConfig.rate_scale).
        self.rate_scale = math.sqrt(feature_dim) if config.rate_scale is None else config.rate_scale
        self.min_std = config.min_latent_std
        self.embed = nn.Linear(feature_dim + 1, config.model_dim)
        self.blocks = nn.ModuleList(_Block(config.model_dim, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.model_dim)
        self.head = nn.Linear(config.model_dim, 2 * config.latent_dim)

    def forward(self, features: Tensor, rate: Tensor, mask: Tensor) -> Gaussian:
        """features [R, K, E], rate [R, K] in [0, 1], mask [R, K] bool -> Gaussian over [R, Z].

        sigma = 0.1 + 0.9 * sigmoid(.) keeps away from 0 (0.1: ``min_latent_std``) and from more than N(0, 1) has.
        """
        x = self.embed(torch.cat([features, self.rate_scale * (rate - 0.5).unsqueeze(-1)], dim=-1))
        for block in self.blocks:
            x = block(x, mask)
        weight = mask.to(x.dtype).unsqueeze(-1)
        pooled = (self.norm(x) * weight).sum(1) / weight.sum(1)
        mean, raw = self.head(pooled).chunk(2, dim=-1)
        return Gaussian(mean, self.min_std + (1.0 - self.min_std) * torch.sigmoid(raw))


class PpmNetwork(nn.Module):
    """Encoder q, prior p (separate weights) and decoder."""

    def __init__(self, feature_dim: int, config: PpmConfig) -> None:
        super().__init__()
        self.encoder = SetEncoder(feature_dim, config)
        self.prior = SetEncoder(feature_dim, config)
        # The decoder's first layer acts on [e, z]; its two halves are kept apart so that M draws of z share the first.
        self.from_features = nn.Linear(feature_dim, config.decoder_hidden)
        self.from_latent = nn.Linear(config.latent_dim, config.decoder_hidden, bias=False)
        self.to_logit = nn.Linear(config.decoder_hidden, 1)

    def logits(self, features: Tensor, z: Tensor) -> Tensor:
        """features [R, K, E], z [R, M, Z] -> logits [R, M, K] (differentiable)."""
        hidden = self.from_features(features).unsqueeze(1) + self.from_latent(z).unsqueeze(2)
        logits: Tensor = self.to_logit(functional.relu(hidden)).squeeze(-1)
        return logits

    @torch.no_grad()
    def success_rates(self, features: Tensor, z: Tensor) -> Tensor:
        """features [N, E], z [M, Z] -> gamma [M, N]; in blocks that stay in cache, so N may be the whole pool."""
        num_draws, num_rows = len(z), len(features)
        from_latent = self.from_latent(z)
        weight, bias = self.to_logit.weight[0], self.to_logit.bias
        logits = torch.empty(num_draws, num_rows)
        block = max(1, _HIDDEN_ELEMENTS // self.to_logit.in_features)
        for start in range(0, num_rows, block):
            shared = self.from_features(features[start : start + block])
            hidden = torch.empty_like(shared)
            for draw in range(num_draws):
                torch.add(shared, from_latent[draw], out=hidden)
                torch.mv(hidden.relu_(), weight, out=logits[draw, start : start + block])
        return torch.sigmoid_(logits.add_(bias))


def build_network(feature_dim: int, config: PpmConfig, seed: int) -> PpmNetwork:
    """A network on CPU with weights drawn from ``seed`` alone (torch's global generator is neither read nor moved)."""
    with torch.device("meta"):
        network = PpmNetwork(feature_dim, config)
    network.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = math.sqrt(3.0 / module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=rng)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
