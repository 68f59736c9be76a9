"""Small models and random rollouts for the learner's tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from gps_ray.base.tables import rollouts_to_table
from gps_ray.base.types import FinishReason, GroupOutcome, Rollout, RolloutGroup, RolloutStatus, SuccessPrediction
from gps_ray.config import EmbeddedModelConfig, LearningConfig
from gps_ray.learning.learner import Learner
from gps_ray.model import make_embedded_model

WORDS = [*map(str, range(20)), "+", "-"]
VOCABULARY = len(WORDS) + 3
TEMPERATURE = 0.8
MAX_RESPONSE_TOKENS = 8

# What happened to each rollout of a group: r right, w wrong, f failed.
MIXED, ALL_RIGHT, ALL_WRONG, WITH_FAILURE, ONE_LEFT = "rwwr", "rrrr", "wwww", "rfw", "rff"


def make_model(directory: Path, family: Literal["llama", "qwen3"] = "llama", num_layers: int = 2) -> Path:
    config = EmbeddedModelConfig(
        family=family, hidden_size=32, num_layers=num_layers, num_heads=2, intermediate_size=48
    )
    make_embedded_model(config, WORDS, directory)
    return directory


def make_learner(directory: Path, config: LearningConfig, dtype: str = "float32") -> Learner:
    return Learner(
        directory,
        config,
        dtype=dtype,
        temperature=TEMPERATURE,
        max_response_tokens=MAX_RESPONSE_TOKENS,
        num_steps=10,
    )


def make_group(prompt_id: str, results: str, seed: int) -> RolloutGroup:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(3, VOCABULARY, rng.integers(2, 7)).astype(np.int32)
    rollouts = []
    for result in results:
        length = int(rng.integers(1, 8))
        rollouts.append(
            Rollout(
                prompt_tokens=prompt,
                response_tokens=rng.integers(1, VOCABULARY, length).astype(np.int32),
                # Around the log-prob of an untrained model, so that some ratios are clipped and some are not.
                sampled_logprobs=rng.normal(-np.log(VOCABULARY), 0.2, length).astype(np.float32),
                reward=float(result == "r"),
                status={"r": RolloutStatus.RIGHT, "w": RolloutStatus.WRONG, "f": RolloutStatus.FAILED}[result],
                finish_reason=FinishReason.STOP,
                policy_version=0,
            )
        )
    outcome = GroupOutcome(
        prompt_id=prompt_id,
        policy_version=0,
        rewards=np.array([r.reward for r in rollouts], dtype=np.float32),
        status=np.array([r.status for r in rollouts], dtype=np.int8),
        response_lengths=np.array([len(r.response_tokens) for r in rollouts], dtype=np.int32),
    )
    return RolloutGroup(outcome=outcome, rollouts=tuple(rollouts))


def make_groups(results: Sequence[str], seed: int = 0) -> list[RolloutGroup]:
    return [make_group(f"p{i}", result, 1000 * seed + i) for i, result in enumerate(results)]


def make_tables(groups: Sequence[RolloutGroup], groups_per_table: int = 3) -> list[pa.Table]:
    return [rollouts_to_table(groups[i : i + groups_per_table]) for i in range(0, len(groups), groups_per_table)]


def ids(groups: Sequence[RolloutGroup]) -> tuple[str, ...]:
    return tuple(group.outcome.prompt_id for group in groups)


def make_predictions(groups: Sequence[RolloutGroup]) -> dict[str, SuccessPrediction]:
    """Some of each kind: sure and unsure, of easy and of hard prompts."""
    moments = [(0.3, 0.1), (0.8, 0.25), (0.5, 12**-0.5), (0.1, 0.05), (0.6, 0.02)]
    return {
        group.outcome.prompt_id: SuccessPrediction(mean=mean, std=std)
        for i, group in enumerate(groups)
        for mean, std in [moments[i % len(moments)]]
    }
