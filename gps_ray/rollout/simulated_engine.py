"""An engine without a model: success rates that are known and drift with the policy version.

For tests of the loop, for oracles (the true rates can be asked for) and for runs at scale. Its responses are the
words "right" and "wrong", judged by ``SimulatedTask``; its tokens and log-probs mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from gps_ray.base.keyed_random import generator, uniforms
from gps_ray.base.types import FinishReason, FloatArray, IntArray, Prompt, RolloutStatus
from gps_ray.config import SimulatedConfig
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, GeneratedResponse
from gps_ray.tasks.interface import Verdict
from gps_ray.weights.interface import WeightPayload
from gps_ray.weights.object_store import ObjectStorePayload
from gps_ray.weights.simulated_skill import SKILL, in_trap

__all__ = ["SimulatedEngine", "SimulatedPolicy", "SimulatedTask", "success_rates"]

_RIGHT, _WRONG = "right", "wrong"


class SimulatedTask:
    """Judges the simulated engine's responses."""

    name = "simulated"
    bounds_its_own_work = True

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return (1.0, RolloutStatus.RIGHT) if response == _RIGHT else (0.0, RolloutStatus.WRONG)


class SimulatedPolicy:
    """The true success rates (``SimulatedConfig`` has the formula). Words and prompts are drawn once and remembered."""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self._words: dict[str, float] = {}
        self._prompts: dict[str, tuple[float, float]] = {}
        self._traps: dict[str, bool] = {}

    def success_rates(self, prompts: Sequence[Prompt], policy_version: int, skill: float = 0.0) -> FloatArray:
        """[N] float64 in (0, 1); ``skill`` is the learner's, where there is a trap."""
        config = self._config
        draws = np.array([self._draws(prompt) for prompt in prompts]).reshape(len(prompts), 2)
        logits = config.initial_logit_mean + config.initial_logit_std * draws[:, 0]
        logits += (config.drift_per_version + config.drift_std * draws[:, 1]) * policy_version
        if config.trap_share:
            logits = np.where([self._in_trap(prompt.prompt_id) for prompt in prompts], 0.0, logits + skill)
        return np.asarray(expit(logits), dtype=np.float64)

    def _in_trap(self, prompt_id: str) -> bool:
        if prompt_id not in self._traps:
            self._traps[prompt_id] = in_trap(self._config, prompt_id)
        return self._traps[prompt_id]

    def _draws(self, prompt: Prompt) -> tuple[float, float]:
        """The prompt's x and y, both standard normal over prompts with different words."""
        if prompt.prompt_id not in self._prompts:
            own, drift = generator(self._config.seed, "simulated/prompt", prompt=prompt.prompt_id).standard_normal(2)
            # Sorted: a set has another order in every process, and a sum of floats depends on it.
            words = sorted(set(prompt.text.split()))
            text = sum(self._word(word) for word in words) / max(len(words), 1) ** 0.5
            share = self._config.text_share if words else 0.0
            self._prompts[prompt.prompt_id] = (share**0.5 * text + (1 - share) ** 0.5 * float(own), float(drift))
        return self._prompts[prompt.prompt_id]

    def _word(self, word: str) -> float:
        if word not in self._words:
            self._words[word] = float(generator(self._config.seed, "simulated/word", prompt=word).standard_normal())
        return self._words[word]


def success_rates(prompts: Sequence[Prompt], config: SimulatedConfig, policy_version: int) -> FloatArray:
    """True success rates [N] float64 of the simulated policy at ``policy_version``."""
    return SimulatedPolicy(config).success_rates(prompts, policy_version)


class SimulatedEngine:
    """A ``RolloutEngine`` (``gps_ray.rollout.engine``): each response is right with its prompt's true success rate."""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self._policy = SimulatedPolicy(config)
        self._policy_version = 0
        self._skill = 0.0

    def generate(self, request: EngineRequest) -> list[GeneratedGroup]:
        if self._config.latency_s:
            time.sleep(self._config.latency_s)
        rates = self._policy.success_rates(request.prompts, self._policy_version, self._skill)
        groups = []
        for prompt, rate, num in zip(request.prompts, rates, request.num_rollouts, strict=True):
            keys = [(prompt.prompt_id, rollout) for rollout in range(int(num))]
            draws = uniforms(request.run_seed, request.stream, request.step, keys, 1)[:, 0]
            responses = [self._response(_RIGHT if draw < rate else _WRONG) for draw in draws]
            groups.append(GeneratedGroup(prompt_tokens=np.zeros(1, dtype=np.int32), responses=responses))
        return groups

    def _response(self, text: str) -> GeneratedResponse:
        num_tokens = self._config.response_tokens
        return GeneratedResponse(
            tokens=np.zeros(num_tokens, dtype=np.int32),
            sampled_logprobs=np.zeros(num_tokens, dtype=np.float32),
            text=text,
            finish_reason=FinishReason.STOP,
        )

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        """The success rates drift with the version; without a trap nothing else of it counts."""
        self._policy_version = policy_version
        if isinstance(payload, ObjectStorePayload) and SKILL in payload.arrays:
            self._skill = float(payload.arrays[SKILL][0])

    def logprobs(self, tokens: IntArray) -> FloatArray:
        return np.zeros(max(len(tokens) - 1, 0), dtype=np.float32)
