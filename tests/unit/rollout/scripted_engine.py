"""An engine that says what a test wrote down for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gps_ray.base.types import FinishReason, FloatArray, IntArray
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, GeneratedResponse
from gps_ray.weights.interface import WeightPayload, payload_of
from gps_ray.weights.object_store import ObjectStorePayload


class ScriptedEngine:
    """Answers prompt i with the texts that the test wrote down for it."""

    def __init__(self, script: Mapping[str, list[str]]) -> None:
        self.script = script
        self.requests: list[EngineRequest] = []
        self.offset = 0.0

    def generate(self, request: EngineRequest) -> list[GeneratedGroup]:
        self.requests.append(request)
        return [
            GeneratedGroup(
                prompt_tokens=np.array([1, 2], np.int32),
                responses=[
                    GeneratedResponse(
                        tokens=np.zeros(len(text), np.int32),
                        sampled_logprobs=np.zeros(len(text), np.float32),
                        text=text,
                        finish_reason=FinishReason.STOP,
                    )
                    for text in self.script[prompt.prompt_id]
                ],
            )
            for prompt in request.prompts
        ]

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        self.offset = float(payload_of(ObjectStorePayload, payload).arrays["offset"])

    def logprobs(self, tokens: IntArray) -> FloatArray:
        return np.full(len(tokens) - 1, -1.0 + self.offset, dtype=np.float32)
