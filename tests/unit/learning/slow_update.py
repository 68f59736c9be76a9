"""The whole update of every algorithm, written out: one response at a time in float64, python numbers wherever no
gradient flows, no padding, no skipping, no micro-batches. Reads the papers' formulas, not the learner."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gps_ray.base.types import Rollout, RolloutGroup, RolloutStatus, SuccessPrediction
from gps_ray.config import LearningConfig
from tests.unit.learning.rollouts import MAX_RESPONSE_TOKENS, TEMPERATURE

CLIP = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (1.0, 4.0)}
KL = {"rloo": "k1", "reinforce_pp": "k1", "ppo": "k1", "reinforce_pp_baseline": "k2"}
AGGREGATION = {"dr_grpo": "norm", "rloo": "sequence", "gspo": "sequence"}


@dataclass
class Response:
    rollout: Rollout
    reward: float
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    targets: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # importance weights
    advantages: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.rollout.response_tokens)


def _tokens(rollout: Rollout) -> Tensor:
    return torch.tensor([[*rollout.prompt_tokens.tolist(), *rollout.response_tokens.tolist()]])


def _logprobs(model: Any, rollout: Rollout) -> Tensor:
    first = len(rollout.prompt_tokens) - 1
    steps = torch.log_softmax(model(input_ids=_tokens(rollout)).logits[0, first:-1] / TEMPERATURE, dim=-1)
    return steps[torch.arange(len(rollout.response_tokens)), torch.tensor(rollout.response_tokens.tolist())]


class SlowValueModel(torch.nn.Module):
    def __init__(self, start: Any) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(start.model).double()
        self.weight = torch.nn.Parameter(torch.zeros(1, self.backbone.config.hidden_size, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def of(self, rollout: Rollout) -> Tensor:
        hidden = self.backbone(input_ids=_tokens(rollout)).last_hidden_state[0]
        return (hidden @ self.weight.T + self.bias)[len(rollout.prompt_tokens) - 1 : -1, 0]


def _kl(kind: str, gap: Any, exp: Any) -> Any:
    """Of policy - reference. Below -20 k3 stands still."""
    bounded = max(gap, -20.0) if isinstance(gap, float) else gap.clamp(min=-20)
    return {"k1": gap, "k2": gap * gap / 2, "k3": exp(-bounded) + bounded - 1}[kind]


def _ratio(log_ratio: Tensor) -> Tensor:
    """exp, but a log-ratio beyond 20 counts as 20 and has no gradient."""
    return log_ratio.clamp(-20, 20).exp()


class SlowLearner:
    """``start`` is the policy that the run begins with; it is left alone."""

    def __init__(self, start: Any, config: LearningConfig) -> None:
        self.config = config
        self.model, self.reference = copy.deepcopy(start).double(), copy.deepcopy(start).double()
        self.critic = SlowValueModel(start)
        self.optimizer, self.critic_optimizer = (
            torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=config.weight_decay)
            for model, rate in ((self.model, config.learning_rate), (self.critic, config.value_learning_rate))
        )
        self.kl_kind = config.kl_penalty or KL.get(config.loss, "k3")
        in_reward = config.loss in ("rloo", "reinforce_pp", "ppo")
        self.kl_in_reward = in_reward if config.use_kl_in_reward is None else config.use_kl_in_reward

    def update(
        self, groups: Sequence[RolloutGroup], predictions: Mapping[str, SuccessPrediction]
    ) -> tuple[list[float], list[float]]:
        """Policy losses and value losses of the mini-batches."""
        responses = [[self._read(r) for r in g.rollouts if r.status != RolloutStatus.FAILED] for g in groups]
        self._set_advantages(responses, [predictions[g.outcome.prompt_id] for g in groups])
        parts = [responses[part :: self.config.num_minibatches] for part in range(self.config.num_minibatches)]
        policy_losses, value_losses = [], []
        for part in parts:
            rows = [response for group in part for response in group]
            policy_losses.append(self._step(self.optimizer, self.model, self._policy_loss(rows)))
            if self.config.loss == "ppo":
                value_losses.append(self._step(self.critic_optimizer, self.critic, self._value_loss(rows)))
        return policy_losses, value_losses

    def _step(self, optimizer: torch.optim.Optimizer, model: torch.nn.Module, loss: Tensor) -> float:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
        optimizer.step()
        return float(loss.detach())

    def _read(self, rollout: Rollout) -> Response:
        config, length = self.config, len(rollout.response_tokens)
        reward = rollout.reward
        buffer = config.overlong_buffer_tokens
        if buffer is None and config.loss == "dapo":
            buffer = round(MAX_RESPONSE_TOKENS / 5)
        if buffer:
            if length > MAX_RESPONSE_TOKENS:
                reward -= config.overlong_penalty_factor
            elif length > MAX_RESPONSE_TOKENS - buffer:
                reward += config.overlong_penalty_factor * (MAX_RESPONSE_TOKENS - buffer - length) / buffer
        response = Response(rollout=rollout, reward=reward, old=[float(x) for x in rollout.sampled_logprobs])
        response.weights = [1.0] * length
        with torch.no_grad():
            if config.rollout_is:
                before = _logprobs(self.model, rollout).tolist()
                gaps = [b - s for b, s in zip(before, response.old, strict=True)]
                if config.rollout_is == "sequence":
                    gaps = [sum(gaps)] * length
                response.weights = [min(math.exp(gap), config.rollout_is_threshold) for gap in gaps]
                response.old = before
            if config.kl_coefficient:
                response.reference = _logprobs(self.reference, rollout).tolist()
            if config.loss == "ppo":
                response.values = self.critic.of(rollout).tolist()
        return response

    def _reward_kl(self, response: Response) -> list[float]:
        if not self.kl_in_reward or not self.config.kl_coefficient:
            return [0.0] * response.length
        pairs = zip(response.old, response.reference, strict=True)
        return [self.config.kl_coefficient * _kl(self.kl_kind, old - ref, math.exp) for old, ref in pairs]

    def _set_advantages(
        self, responses: Sequence[Sequence[Response]], predictions: Sequence[SuccessPrediction]
    ) -> None:
        name = self.config.loss
        per_token = name in ("reinforce_pp", "reinforce_pp_baseline", "ppo")
        for group, prediction in zip(responses, predictions, strict=True):
            rewards = [r.reward - (0.0 if per_token else sum(self._reward_kl(r))) for r in group]
            mean = sum(rewards) / len(rewards)
            for i, response in enumerate(group):
                if name == "rloo":
                    others = [reward for j, reward in enumerate(rewards) if j != i]
                    score = rewards[i] - sum(others) / len(others) if others else 0.0
                elif name == "posterior_baseline":
                    # The mean of the Beta posterior after the others, from that with the predicted mean and variance.
                    count = prediction.mean * (1 - prediction.mean) / prediction.std**2 - 1
                    others = [reward for j, reward in enumerate(rewards) if j != i]
                    baseline = (count * prediction.mean + sum(others)) / (count + len(others))
                    score = rewards[i] - baseline
                elif name in ("dr_grpo", "reinforce_pp_baseline"):
                    score = rewards[i] - mean
                elif name in ("reinforce_pp", "ppo"):
                    score = rewards[i]
                else:
                    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
                    score = (rewards[i] - mean) / (max(std, self.config.min_reward_std) + 1e-6)
                if per_token:
                    self._spread(response, score)
                else:
                    response.advantages = [score] * response.length
        if per_token or name == "posterior_baseline":
            everything = [a for group in responses for response in group for a in response.advantages]
            mean = sum(everything) / len(everything)
            std = math.sqrt(sum((a - mean) ** 2 for a in everything) / len(everything))
            for response in (response for group in responses for response in group):
                response.advantages = [(a - mean) / (std + 1e-6) for a in response.advantages]

    def _spread(self, response: Response, score: float) -> None:
        gamma, lam = self.config.gamma, self.config.lam
        rewards = [-kl for kl in self._reward_kl(response)]
        rewards[-1] += score
        later = range(response.length)
        if self.config.loss != "ppo":
            response.advantages = [sum(gamma ** (j - t) * rewards[j] for j in later if j >= t) for t in later]
            return
        values = [*response.values, 0.0]
        deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in later]
        response.advantages = [sum((gamma * lam) ** (j - t) * deltas[j] for j in later if j >= t) for t in later]
        response.targets = [a + v for a, v in zip(response.advantages, response.values, strict=True)]

    def _policy_loss(self, rows: Sequence[Response]) -> Tensor:
        low, high = CLIP.get(self.config.loss, (0.2, 0.2))
        per_response = []
        for row in rows:
            policy, old = _logprobs(self.model, row.rollout), torch.tensor(row.old, dtype=torch.float64)
            advantages = torch.tensor(row.advantages, dtype=torch.float64)
            ratio = _ratio(policy - old)
            if self.config.loss == "gspo":
                ratio = _ratio((policy - old).mean()).expand(row.length)
            if self.config.loss == "rloo":
                ratio = _ratio((policy - old).sum()).expand(row.length)
            bounded = ratio.clamp(1 - low, 1 + high)
            if self.config.loss == "cispo":
                tokens = -bounded.detach() * advantages * policy
            else:
                tokens = -torch.minimum(ratio * advantages, bounded * advantages)
            tokens = tokens * torch.tensor(row.weights, dtype=torch.float64)
            if self.config.kl_coefficient and not self.kl_in_reward:
                gap = policy - torch.tensor(row.reference, dtype=torch.float64)
                tokens = tokens + self.config.kl_coefficient * _kl(self.kl_kind, gap, torch.exp)
            per_response.append(tokens)
        how = AGGREGATION.get(self.config.loss, "token")
        if how == "sequence":
            return torch.stack([tokens.mean() for tokens in per_response]).mean()
        if how == "norm":
            return torch.stack([tokens.sum() / MAX_RESPONSE_TOKENS for tokens in per_response]).mean()
        return torch.cat(per_response).mean()

    def _value_loss(self, rows: Sequence[Response]) -> Tensor:
        tokens = []
        for row in rows:
            values = self.critic.of(row.rollout)
            for t in range(row.length):
                near = values[t].clamp(
                    row.values[t] - self.config.cliprange_value, row.values[t] + self.config.cliprange_value
                )
                tokens.append(torch.maximum((values[t] - row.targets[t]) ** 2, (near - row.targets[t]) ** 2) / 2)
        return torch.stack(tokens).mean()
