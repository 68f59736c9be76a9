"""A chunk: the prompts that share one engine batch, from the request to the tables.

Everything a rollout worker does is here; the actor around it adds only transport.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from gps_ray.base.errors import ConfigError, RolloutError
from gps_ray.base.tables import outcomes_to_table, rollouts_to_table
from gps_ray.base.types import (
    ChunkHeader,
    FinishReason,
    GenerateRequest,
    GroupFailure,
    IntArray,
    Prompt,
    PublishedWeights,
    RolloutGroup,
    RolloutSample,
    RolloutStatus,
    Sampling,
    StatedAnswer,
)
from gps_ray.config import RolloutConfig
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, RolloutEngine
from gps_ray.rollout.scoring import score
from gps_ray.rollout.simulated_engine import SimulatedEngine, SimulatedTask
from gps_ray.rollout.verifier_pool import VerifierNotes, VerifierPool
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.tasks.interface import Task
from gps_ray.weights.interface import WeightPayload

__all__ = [
    "ChunkJudge",
    "ChunkRequest",
    "ChunkResult",
    "ChunkRunner",
    "EngineAtVersion",
    "build_engine",
    "cut_chunks",
]

ChunkResult = tuple[ChunkHeader, pa.Table, pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """Work for one worker: prompts [K], num_rollouts [K] int32. Complete in itself, so that any worker may run it.

    ``expected_tokens``: of all its responses together; it decides who runs the chunk when, and no result."""

    chunk_id: int
    step: int
    stream: str
    prompts: tuple[Prompt, ...]
    num_rollouts: IntArray
    policy_version: int
    sampling: Sampling
    num_samples_kept: int = 0
    suite: str = ""
    with_answers: bool = False
    expected_tokens: float = 0.0

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Names the chunk among all that a worker may have at a time."""
        return self.stream, self.suite, self.step, self.chunk_id


def cut_chunks(
    request: GenerateRequest, prompts_by_id: Mapping[str, Prompt], prompts_per_chunk: int
) -> list[ChunkRequest]:
    """Cut a request by position in the selection: which prompts share an engine batch is never a matter of timing.

    Chunk ids count on from ``request.first_chunk``. Readable responses are asked of the first chunks, at most one
    per prompt. Where nothing is known of the lengths to come, all responses count as much.
    """
    lengths = request.expected_lengths
    if not len(lengths):
        lengths = np.full(len(request.prompt_ids), request.sampling.max_response_tokens)
    expected_tokens = np.asarray(request.num_rollouts) * lengths
    chunks: list[ChunkRequest] = []
    samples_left = request.num_samples_kept
    for start in range(0, len(request.prompt_ids), prompts_per_chunk):
        part = slice(start, start + prompts_per_chunk)
        prompts = tuple(prompts_by_id[prompt_id] for prompt_id in request.prompt_ids[part])
        num_samples = min(samples_left, len(prompts))
        samples_left -= num_samples
        chunks.append(
            ChunkRequest(
                chunk_id=request.first_chunk + len(chunks),
                step=request.step,
                stream=request.stream,
                prompts=prompts,
                num_rollouts=np.asarray(request.num_rollouts[part], dtype=np.int32),
                policy_version=request.policy_version,
                sampling=request.sampling,
                num_samples_kept=num_samples,
                suite=request.suite,
                with_answers=request.with_answers,
                expected_tokens=float(expected_tokens[part].sum()),
            )
        )
    return chunks


def build_engine(
    rollout: RolloutConfig, model_directory: Path | None, dtype: str, chat: ChatFormat = DEFAULT_CHAT
) -> RolloutEngine:
    """The engine that ``rollout.engine`` names. Raises ModelError or ConfigError where it cannot be built."""
    if rollout.engine == "simulated":
        return SimulatedEngine(rollout.simulated)
    if model_directory is None:
        raise ConfigError(f"rollout.engine: {rollout.engine} needs a model folder, got none; set model.path")
    # Both take seconds to import, and a simulated run needs neither.
    if rollout.engine == "vllm":
        from gps_ray.rollout.vllm_engine import VllmEngine

        return VllmEngine(model_directory, rollout, dtype=dtype, chat=chat)
    from gps_ray.rollout.torch_engine import TorchEngine

    device = "cuda" if rollout.num_gpus_per_worker else "cpu"
    return TorchEngine(model_directory, dtype=dtype, num_threads=rollout.num_threads, device=device, chat=chat)


class ChunkJudge:
    """From what an engine generated for a chunk to its header and tables. May be used from several threads.

    Responses are judged by a pool of processes (``gps_ray.rollout.verifier_pool``); the simulated engine brings its own
    task. Evaluation suites with a verifier of their own have a pool of their own (``suite_tasks``), whose processes
    start with its first response.
    """

    def __init__(
        self, task: Task, rollout: RolloutConfig, suite_tasks: Mapping[str, Task] = MappingProxyType({})
    ) -> None:
        is_simulated = rollout.engine == "simulated"
        self._verifiers = VerifierPool(SimulatedTask() if is_simulated else task, rollout)
        own_tasks = {} if is_simulated else suite_tasks
        self._suite_verifiers = {name: VerifierPool(own, rollout) for name, own in own_tasks.items()}

    def finish(
        self, chunk: ChunkRequest, generated: Sequence[GeneratedGroup], spent: Callable[[], tuple[float, float]]
    ) -> ChunkResult:
        """(header, OUTCOMES, ROLLOUTS) of one chunk (``gps_ray.base.tables``), groups in the order of the request.

        ``spent`` is asked at the end for the CPU and wall seconds that the chunk took in this process.
        """
        verifiers = self._suite_verifiers.get(chunk.suite, self._verifiers)
        scored, failure_reason, answers = score(
            verifiers,
            chunk.prompts,
            generated,
            chunk.policy_version,
            truncated_is_wrong=chunk.sampling.truncated_is_wrong,
            with_answers=chunk.with_answers,
        )
        groups = [group for group in scored if isinstance(group, RolloutGroup)]
        outcomes, rollouts = outcomes_to_table([group.outcome for group in groups]), rollouts_to_table(groups)
        cpu_s, wall_s = spent()
        header = _header(
            chunk,
            groups,
            failures=tuple(group for group in scored if isinstance(group, GroupFailure)),
            samples=_samples(chunk, generated, scored),
            failure_reason=failure_reason,
            notes=self._verifiers.take_notes(),
            answers=answers,
            cpu_s=cpu_s + verifiers.take_cpu_s(),
            wall_s=wall_s,
        )
        return header, outcomes, rollouts

    def close(self) -> None:
        """End the verifiers' processes, where there are any."""
        for verifiers in (self._verifiers, *self._suite_verifiers.values()):
            verifiers.close()


class EngineAtVersion:
    """An engine that knows which policy version it serves, and is asked for no other."""

    def __init__(self, engine: RolloutEngine, rollout: RolloutConfig, run_seed: int) -> None:
        self._engine = engine
        self._config = rollout
        self._run_seed = run_seed
        self._policy_version = 0

    def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> None:
        """Serve ``published.policy_version`` from now on; ``payload`` is what its handle stands for.

        Raises RolloutError where the engine's log-probs of the probe text differ from the learner's by more than
        ``rollout.probe_tolerance`` in the mean, ModelError where the parameters do not fit.
        """
        self._engine.load_weights(published.policy_version, payload)
        if len(published.probe_tokens):
            differences = np.abs(self._engine.logprobs(published.probe_tokens) - published.probe_logprobs)
            # The mean: of bfloat16 single tokens are far off. Written so that NaN does not pass.
            if not differences.mean() <= self._config.probe_tolerance:
                raise RolloutError(
                    f"after loading policy version {published.policy_version} the engine's log-probs differ from the "
                    f"learner's by {differences.mean():.2g} in the mean ({differences.max():.2g} at most), expected a "
                    f"mean of at most rollout.probe_tolerance={self._config.probe_tolerance:g}; the weights did not "
                    "arrive whole, or raise rollout.probe_tolerance for a coarse model.dtype"
                )
        self._policy_version = published.policy_version

    def request_of(self, chunk: ChunkRequest) -> EngineRequest:
        """What the engine is asked for. Raises RolloutError where the chunk asks for another policy version than the
        engine serves."""
        if chunk.policy_version != self._policy_version:
            raise RolloutError(
                f"chunk {chunk.chunk_id} of step {chunk.step} asks for policy version {chunk.policy_version}, "
                f"this worker serves {self._policy_version}"
            )
        return EngineRequest(
            run_seed=self._run_seed,
            stream=chunk.stream,
            step=chunk.step,
            prompts=chunk.prompts,
            num_rollouts=chunk.num_rollouts,
            sampling=chunk.sampling,
        )


class ChunkRunner:
    """Generates and scores chunks one after the other, and keeps the engine at the policy version it is told."""

    def __init__(
        self,
        engine: RolloutEngine,
        task: Task,
        rollout: RolloutConfig,
        run_seed: int,
        suite_tasks: Mapping[str, Task] = MappingProxyType({}),
    ) -> None:
        self._engine = engine
        self._at_version = EngineAtVersion(engine, rollout, run_seed)
        self._judge = ChunkJudge(task, rollout, suite_tasks)

    def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> None:
        """As ``EngineAtVersion.load_weights``."""
        self._at_version.load_weights(published, payload)

    def run(self, chunk: ChunkRequest) -> ChunkResult:
        """(header, OUTCOMES, ROLLOUTS) of one chunk (``gps_ray.base.tables``), groups in the order of the request.

        Raises RolloutError where the chunk asks for another policy version than the engine serves.
        """
        request = self._at_version.request_of(chunk)
        wall, cpu = time.perf_counter(), time.process_time()
        generated = self._engine.generate(request)
        return self._judge.finish(chunk, generated, lambda: (time.process_time() - cpu, time.perf_counter() - wall))

    def close(self) -> None:
        """End the verifiers' processes, where there are any."""
        self._judge.close()


def _header(
    chunk: ChunkRequest,
    groups: Sequence[RolloutGroup],
    *,
    failures: tuple[GroupFailure, ...],
    samples: tuple[RolloutSample, ...],
    failure_reason: str,
    notes: VerifierNotes,
    answers: tuple[tuple[StatedAnswer, ...], ...],
    cpu_s: float,
    wall_s: float,
) -> ChunkHeader:
    outcomes = [group.outcome for group in groups]

    def count(status: RolloutStatus) -> IntArray:
        return np.array([np.count_nonzero(o.status == status) for o in outcomes], dtype=np.int32)

    # A failed rollout has no reward: it does not add to the sum.
    rewards = [o.rewards[o.status != RolloutStatus.FAILED] for o in outcomes]
    return ChunkHeader(
        chunk_id=chunk.chunk_id,
        step=chunk.step,
        stream=chunk.stream,
        policy_version=chunk.policy_version,
        prompt_ids=tuple(o.prompt_id for o in outcomes),
        num_right=count(RolloutStatus.RIGHT),
        num_wrong=count(RolloutStatus.WRONG),
        num_failed=count(RolloutStatus.FAILED),
        num_truncated=np.array(
            [sum(r.finish_reason is FinishReason.LENGTH for r in group.rollouts) for group in groups], dtype=np.int32
        ),
        num_response_tokens=np.array([o.response_lengths.sum() for o in outcomes], dtype=np.int32),
        reward_sum=np.array([row.sum(dtype=np.float64) for row in rewards], dtype=np.float64),
        cpu_s=cpu_s,
        wall_s=wall_s,
        failures=failures,
        samples=samples,
        failure_reason=failure_reason,
        num_verifier_notes=notes.count,
        verifier_notes=tuple(notes.kept),
        answers=answers,
    )


def _samples(
    chunk: ChunkRequest, generated: Sequence[GeneratedGroup], scored: Sequence[RolloutGroup | GroupFailure]
) -> tuple[RolloutSample, ...]:
    """The first response to each of the first ``num_samples_kept`` prompts, as text."""
    rows = zip(chunk.prompts, generated, scored, strict=True)
    return tuple(
        RolloutSample(
            prompt_id=prompt.prompt_id,
            prompt_text=prompt.text,
            response_text=group.responses[0].text,
            reward=value.rollouts[0].reward,
            status=value.rollouts[0].status,
        )
        for prompt, group, value in list(rows)[: chunk.num_samples_kept]
        if isinstance(value, RolloutGroup)
    )
