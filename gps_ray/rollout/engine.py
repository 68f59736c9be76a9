"""The engine seam: whatever can sample responses from the current policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gps_ray.base.types import FinishReason, FloatArray, IntArray, Prompt, Sampling
from gps_ray.weights.interface import WeightPayload

__all__ = ["ContinuousEngine", "EngineRequest", "GeneratedGroup", "GeneratedResponse", "RolloutEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Prompts [K] with num_rollouts [K] each. Draw r of prompt p is keyed by (run_seed, stream, step, p, r), so the
    same request gives the same responses on any worker (torch engine: bit for bit for equal chunks and threads)."""

    run_seed: int
    stream: str
    step: int
    prompts: Sequence[Prompt]
    num_rollouts: IntArray
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedResponse:
    """tokens [T] int32 (with the stop token where there is one), sampled_logprobs [T] float32 (of the distribution the
    token was drawn from, after temperature, min_p, top_k and top_p; of a greedy one, at temperature 1), text without
    special tokens, up to and with the stop string where one ended it."""

    tokens: IntArray
    sampled_logprobs: FloatArray
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedGroup:
    """All responses to one prompt: prompt_tokens [P] int32, responses [G]."""

    prompt_tokens: IntArray
    responses: Sequence[GeneratedResponse]


class RolloutEngine(Protocol):
    """One per rollout worker."""

    def generate(self, request: EngineRequest) -> list[GeneratedGroup]:
        """One group per prompt, in the order of the request."""
        ...

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        """Replace the policy's parameters by what the learner published: ``ObjectStorePayload`` (arrays by their names
        in the Hugging Face state dict), or that of another transport that names the engine (``gps_ray.weights``)."""
        ...

    def logprobs(self, tokens: IntArray) -> FloatArray:
        """[T - 1] float32: log p(token t + 1 | tokens up to t) at temperature 1, for the probe after a load."""
        ...


class ContinuousEngine(RolloutEngine, Protocol):
    """An engine with a running batch: groups enter it while others are under way, and leave it one by one.

    All its methods are called from one thread.
    """

    @property
    def num_places(self) -> int:
        """Responses that are generated side by side; more wait for a place."""
        ...

    @property
    def num_unfinished(self) -> int:
        """Responses that were submitted and have not ended, those that wait included."""
        ...

    def submit(self, request: EngineRequest) -> int:
        """Take in a request of one prompt; returns the number that its group is known by. Raises RolloutError for a
        prompt that cannot be served."""
        ...

    def step(self) -> list[tuple[int, GeneratedGroup]]:
        """One pass over the running batch; the groups that it completed, with their numbers."""
        ...

    def begun(self) -> set[int]:
        """Groups of which a response holds a place, and the next one to get one."""
        ...
