"""A continuous engine that counts passes instead of seconds: each response takes as many as its length."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import FinishReason, FloatArray, IntArray, Prompt, Sampling
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, GeneratedResponse
from gps_ray.weights.interface import WeightPayload

SAMPLING = Sampling(temperature=1.0, max_response_tokens=99)


def prompt_of(name: str) -> Prompt:
    return Prompt(prompt_id=name, text=name, answer=name, task="t")


def group_chunk(
    name: str, num_rollouts: int, chunk_id: int = 0, version: int = 0, step: int = 1, tokens: float = 0.0
) -> ChunkRequest:
    return ChunkRequest(
        chunk_id=chunk_id,
        step=step,
        stream="rollout",
        prompts=(prompt_of(name),),
        num_rollouts=np.array([num_rollouts], np.int32),
        policy_version=version,
        sampling=SAMPLING,
        expected_tokens=tokens,
    )


class SteppedEngine:
    """``lengths`` of the responses to each prompt; responses are the prompt's name. With a ``gate`` every pass waits
    for a release of it."""

    def __init__(
        self, num_places: int, lengths: Mapping[str, list[int]], gate: threading.Semaphore | None = None
    ) -> None:
        self.num_places = num_places
        self.thread = threading.get_ident()
        self.version = 0
        self.num_passes = 0
        self.finished: list[tuple[str, int]] = []  # prompt, pass in which its group left
        self.most_running = 0
        self.fails_at: int | None = None
        self.may_load = threading.Event()
        self.may_load.set()
        self._lengths, self._gate = lengths, gate
        self._left: list[list[int]] = []  # [group, passes left] of each response, in the order of submission
        self._requests: list[EngineRequest] = []

    @property
    def num_unfinished(self) -> int:
        return len(self._left)

    def submit(self, request: EngineRequest) -> int:
        self._check_thread()
        (prompt,) = request.prompts
        if prompt.prompt_id not in self._lengths:
            raise RolloutError(f"no lengths for {prompt.prompt_id}")
        self._requests.append(request)
        number = len(self._requests)
        lengths = self._lengths[prompt.prompt_id]
        self._left += [[number, lengths[i]] for i in range(int(request.num_rollouts[0]))]
        return number

    def step(self) -> list[tuple[int, GeneratedGroup]]:
        self._check_thread()
        if self._gate is not None:
            self._gate.acquire()
        self.num_passes += 1
        if self.num_passes == self.fails_at:
            raise RolloutError("out of memory")
        running = self._left[: self.num_places]
        self.most_running = max(self.most_running, len(running))
        for response in running:
            response[1] -= 1
        ended = {number for number, left in running if left == 0}
        self._left = [response for response in self._left if response[1] > 0]
        done = sorted(ended - {number for number, _ in self._left})
        return [(number, self._group(number)) for number in done]

    def begun(self) -> set[int]:
        return {number for number, _ in self._left[: self.num_places]}

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        self._check_thread()
        assert not self._left
        self.may_load.wait(60)
        self.version = policy_version

    def logprobs(self, tokens: IntArray) -> FloatArray:
        return np.zeros(len(tokens) - 1)

    def _group(self, number: int) -> GeneratedGroup:
        request = self._requests[number - 1]
        (prompt,) = request.prompts
        self.finished.append((prompt.prompt_id, self.num_passes))
        responses = [
            GeneratedResponse(
                tokens=np.zeros(length, np.int32),
                sampled_logprobs=np.zeros(length, np.float32),
                text=prompt.prompt_id,
                finish_reason=FinishReason.STOP,
            )
            for length in self._lengths[prompt.prompt_id][: int(request.num_rollouts[0])]
        ]
        return GeneratedGroup(prompt_tokens=np.zeros(1, np.int32), responses=responses)

    def _check_thread(self) -> None:
        assert threading.get_ident() == self.thread
