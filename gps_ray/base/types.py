"""Every value that crosses a process boundary.

Legend of axes, used in all docstrings of the project:

====  =================================  ====  ===========================
B     prompts of one batch               M     responses in a pass
N     candidates (or rows of a table)    L     tokens of a line
G     rollouts of one group              S     draws
P     prompt tokens                      E     features of a prompt
T     response tokens                    Z     latent dimensions
K     groups of one chunk
====  =================================  ====  ===========================

Log-probs say whose they are: ``sampled_`` (engine), ``policy_`` (learner), ``reference_``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BoolArray",
    "Chunk",
    "ChunkHeader",
    "FinishReason",
    "FloatArray",
    "GenerateRequest",
    "GroupFailure",
    "GroupOutcome",
    "Handle",
    "IntArray",
    "Message",
    "ObserveResult",
    "PosteriorMoments",
    "Prompt",
    "PublishedWeights",
    "Rollout",
    "RolloutGroup",
    "RolloutSample",
    "RolloutStatus",
    "Sampling",
    "Selection",
    "SelectionRequest",
    "SlotKind",
    "State",
    "StatedAnswer",
    "SuccessPrediction",
    "UpdateRequest",
    "UpdateResult",
]

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]

# What a component needs to go on after a kill: named numeric arrays only (saved as safetensors, never pickled).
# Scalars are 0-d arrays; prompts are row numbers of the prompt table, whose fingerprint the manifest checks.
State = dict[str, NDArray[Any]]

# What a response says the answer is, and its RolloutStatus: what a majority vote needs.
StatedAnswer = tuple[str | None, int]

# Opaque to the loop: an object-store reference on Ray, the value itself in process.
Handle = Any


class RolloutStatus(IntEnum):
    """What the verifier said of one response. FAILED (time-out, dead engine) is never counted as WRONG."""

    WRONG = 0
    RIGHT = 1
    FAILED = 2


class FinishReason(IntEnum):
    """Why a response ended."""

    STOP = 0
    LENGTH = 1
    ABORTED = 2


class SlotKind(IntEnum):
    """How a prompt came into the batch: by its score, or by a random slot that keeps the predictor honest."""

    CHOSEN = 0
    RANDOM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat: ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One verifiable problem.

    ``prompt_id`` is a hash of the content (``gps_ray.tasks.dataset.prompt_id``), the same on every machine.
    ``text`` is what predictors and people read, ``chat`` what the policy reads: ``messages``, or where those are empty
    one user turn of ``text``. ``answer`` is the ground truth in the task's own notation (JSON where it has parts);
    ``level`` a label of the data set for reports only, never read by a selector. ``extra_info`` is what the data set
    says besides (plain values), for the verifier alone; it is no part of the prompt's identity.
    """

    prompt_id: str
    text: str
    answer: str
    task: str
    level: str = ""
    messages: tuple[Message, ...] = ()
    extra_info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def chat(self) -> tuple[Message, ...]:
        return self.messages or (Message(role="user", content=self.text),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRequest:
    """Ask for ``num_prompts`` prompts with ``group_size`` rollouts each.

    ``round`` counts the requests of one step from 0. ``excluded`` are prompts in flight or already rolled out in
    this step. ``num_missing`` is how many useful groups the step still lacks (equals ``num_prompts`` in round 0).
    ``success_rates``: what the oracle alone is told, by prompt.
    """

    step: int
    round: int
    num_prompts: int
    group_size: int
    excluded: frozenset[str] = frozenset()
    num_missing: int = 0
    success_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The prompts of one round, in the order in which they were picked.

    prompt_ids [B], num_rollouts [B] int32, predicted_mean [B] and predicted_std [B] float64 (NaN where the
    selector predicts nothing), slot_kind [B] int8 (``SlotKind``). ``cpu_s`` is what making it cost.
    ``expected_lengths`` [B] float64: tokens that a response to each is expected to have, or [0] where none is known.

    Why each was picked, for people and never read by the loop: expected_useful [B] the probability of a useful group,
    text_mean [B] the success rate as the text alone predicts it (NaN where unknown; None where the selector says
    nothing of it); ``num_steps_observed``: steps whose outcomes the selector knew.
    """

    step: int
    round: int
    prompt_ids: tuple[str, ...]
    num_rollouts: IntArray
    predicted_mean: FloatArray
    predicted_std: FloatArray
    slot_kind: IntArray
    num_candidates: int
    cpu_s: float = 0.0
    expected_useful: FloatArray | None = None
    text_mean: FloatArray | None = None
    num_steps_observed: int | None = None
    expected_lengths: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One response. prompt_tokens [P] int32, response_tokens [T] int32, sampled_logprobs [T] float32."""

    prompt_tokens: IntArray
    response_tokens: IntArray
    sampled_logprobs: FloatArray
    reward: float
    status: RolloutStatus
    finish_reason: FinishReason
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """What a selector learns of one group: rewards [G] float32, status [G] int8, response_lengths [G] int32 (tokens).

    Success is not reward: the predictor counts ``status`` (num_tried = right + wrong), the learner uses ``rewards``.
    """

    prompt_id: str
    policy_version: int
    rewards: FloatArray
    status: IntArray
    response_lengths: IntArray

    @property
    def num_right(self) -> int:
        return int(np.count_nonzero(self.status == RolloutStatus.RIGHT))

    @property
    def num_tried(self) -> int:
        """Responses with a verdict: right + wrong."""
        return int(np.count_nonzero(self.status != RolloutStatus.FAILED))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFailure:
    """A group that could not be made, as a value, so that counts always close."""

    prompt_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """All rollouts of one prompt, beside what the selector sees of them."""

    outcome: GroupOutcome
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How responses are drawn, where they end, and what one is worth that had to be cut off.

    A token is drawn from softmax(logits / temperature), after which min_p, top_k and top_p take tokens away, in this
    order, and the rest is normalised: those less likely than ``min_p`` times the likeliest, all but the ``top_k``
    likeliest (0: none), and those beyond the likeliest that together reach ``top_p``. Temperature 0 is greedy: always
    the likeliest token. A response ends with a stop token, with one of the texts in ``stop``, or after
    ``max_response_tokens``; cut off so, it is judged by its text, or counts as wrong with ``truncated_is_wrong``.
    """

    temperature: float
    max_response_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    truncated_is_wrong: bool = False

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def takes_tokens_away(self) -> bool:
        """Are some tokens never drawn that the policy gives a probability?"""
        return self.is_greedy or self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Work for the rollout pool: prompt_ids [B], num_rollouts [B] int32.

    ``stream`` keeps draws apart ("rollout", "evaluation", "pool_probe", ...); ``num_samples_kept`` asks for that
    many readable responses in the headers. ``suite`` names the evaluation suite whose prompts and verifier are meant,
    "" the run's own; ``with_answers`` asks for the answer that each response states. ``expected_lengths`` [B] as in a
    ``Selection``, and ``num_followers``, the steps after this one that may be under way beside it, decide who does
    what when, and change no result.
    """

    step: int
    stream: str
    prompt_ids: tuple[str, ...]
    num_rollouts: IntArray
    policy_version: int
    sampling: Sampling
    first_chunk: int = 0
    num_samples_kept: int = 0
    suite: str = ""
    with_answers: bool = False
    expected_lengths: FloatArray = field(default_factory=lambda: np.zeros(0))
    num_followers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSample:
    """One response as text, for people."""

    prompt_id: str
    prompt_text: str
    response_text: str
    reward: float
    status: RolloutStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkHeader:
    """All that the driver fetches of one chunk (the unit of dispatch): ids and counts, no rewards, no tokens.

    prompt_ids [K]; num_right, num_wrong, num_failed [K] int32, num_truncated [K] int32 of them cut off at the limit of
    tokens; num_response_tokens [K] int32; ``failures`` are groups that could not be made at all (not among the K);
    ``failure_reason`` is the most frequent reason for a missing verdict, "" where none is missing; ``verifier_notes``
    are the first (JSON values) of ``num_verifier_notes`` notes of the verifiers (``Task.take_notes``). ``answers`` [K],
    where they were asked for: per response the answer that it states ("" for none, None where the verifier does not
    say) and its ``RolloutStatus``. Seconds are the worker's own.
    """

    chunk_id: int
    step: int
    stream: str
    policy_version: int
    prompt_ids: tuple[str, ...]
    num_right: IntArray
    num_wrong: IntArray
    num_failed: IntArray
    num_truncated: IntArray
    num_response_tokens: IntArray
    reward_sum: FloatArray
    cpu_s: float
    wall_s: float
    failures: tuple[GroupFailure, ...] = ()
    samples: tuple[RolloutSample, ...] = ()
    failure_reason: str = ""
    num_verifier_notes: int = 0
    verifier_notes: tuple[Any, ...] = ()
    answers: tuple[tuple[StatedAnswer, ...], ...] = ()

    @property
    def num_tried(self) -> IntArray:
        """[K]: responses with a verdict."""
        return self.num_right + self.num_wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One finished chunk: the header by value, the tables (``gps_ray.base.tables``) by handle."""

    header: ChunkHeader
    outcomes: Handle
    rollouts: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveResult:
    """What the selector reports after learning from a step: ``metrics`` and the outcome file it wrote."""

    metrics: Mapping[str, float]
    cpu_s: float
    outcome_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorMoments:
    """Predicted success rates: mean [N], std [N] float64; seen [N] bool: the prompt has outcomes of its own."""

    mean: FloatArray
    std: FloatArray
    seen: BoolArray
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessPrediction:
    """Mean and standard deviation of the posterior of one prompt's success rate, before its rollouts."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """One optimizer step: rollout tables in the order of the selection, and the prompts that admission kept [B], with
    what the selector had predicted of them, by id (none of those it predicted nothing of)."""

    step: int
    rollouts: tuple[Handle, ...]
    admitted: tuple[str, ...]
    predictions: Mapping[str, SuccessPrediction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """``policy_version`` after the update (= number of updates done), with the learner's metrics."""

    policy_version: int
    metrics: Mapping[str, float]
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """Weights of one version by handle (``gps_ray.weights.interface.WeightPayload``), with the learner's own
    log-probs of a fixed text: probe_tokens [T] int32, probe_logprobs [T - 1] float32. Engines compare after loading.
    """

    policy_version: int
    payload: Handle
    probe_tokens: IntArray = field(default_factory=lambda: np.zeros(0, np.int32))
    probe_logprobs: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
