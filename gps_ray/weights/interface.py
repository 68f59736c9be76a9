"""The seam between the learner and the engines: what a transport of weights is made of.

The learner is a ``WeightSource``. A ``Publisher`` makes the transport's own ``WeightPayload`` of it, which travels by
way of the loop to every engine; whoever carries it knows nothing of what is in it. A ``Receiver`` says what vLLM's
weight-transfer backend is told of it. All three stand side by side in the transport's file, tied together by a
``Transport``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from numpy.typing import NDArray

from gps_ray.base.errors import RolloutError

if TYPE_CHECKING:
    from torch import Tensor  # the driver reads the table of transports without torch

__all__ = [
    "KEY",
    "REMEDY",
    "Publisher",
    "PublisherSettings",
    "Receiver",
    "ReceiverSettings",
    "Transport",
    "VllmBackend",
    "VllmUpdate",
    "WeightPayload",
    "WeightSource",
    "payload_of",
]

KEY = "rollout.vllm.weight_transfer"
REMEDY = f"set {KEY}=object_store"


class WeightSource(Protocol):
    """Whoever has the newest parameters. Train workers that share a model make the same calls in the same order."""

    @property
    def policy_version(self) -> int: ...

    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Float32 copies by Hugging Face names, adapters merged; on rank 0, the other ranks get none."""
        ...

    def device_weights(self) -> Iterable[tuple[str, Tensor]]:
        """The parameters themselves, on their device, whole on every rank; to be gone through to the end."""
        ...


class WeightPayload:
    """What a publish hands to every engine. A transport's own is a frozen dataclass of values that Ray can pickle."""

    __slots__ = ()


P = TypeVar("P", bound=WeightPayload)


def payload_of(kind: type[P], payload: WeightPayload) -> P:
    """``payload``, which must be of this kind. Raises RolloutError where another transport made it."""
    if not isinstance(payload, kind):
        raise RolloutError(
            f"{KEY}: this engine expected {kind.__name__} from the learner, got {type(payload).__name__}; {REMEDY}"
        )
    return payload


class Publisher(Protocol):
    """The learner's end, one in each train worker."""

    def publish(self, source: WeightSource) -> WeightPayload | None:
        """The source's version for all engines; what ranks other than 0 return is not used."""
        ...

    def close(self) -> None:
        """Give back what was opened: memory, sockets, threads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """``dtype`` is the engines'; ``num_live_versions`` of the policy may still be read when one is published
    (``RunConfig.num_live_versions``); ``deadline_s`` is how long an engine is waited for; ``host`` this node's address.
    """

    rank: int
    dtype: str
    num_live_versions: int
    deadline_s: float
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmUpdate:
    """What vLLM's backend is told of one version: ``init_info`` first, where it has to be set up anew."""

    update_info: Mapping[str, Any]
    init_info: Mapping[str, Any] | None = None


class Receiver(Protocol):
    """An engine's end, one in each rollout worker."""

    def receiving(self, policy_version: int, payload: WeightPayload) -> AbstractContextManager[VllmUpdate]:
        """What it yields is good within the block, in which vLLM loads. Raises RolloutError where it cannot be had."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings:
    """``num_ranks`` of this engine share the model; the learner is waited for ``deadline_s`` seconds."""

    num_ranks: int
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBackend:
    """vLLM's side: the name of its backend, the class whose import makes one of our own known to every rank
    (``worker_extension_cls``), and what it is told when the engine starts, None where it is set up by a load."""

    name: str
    worker_extension: str = ""
    init_info: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """One way for weights. ``engines`` that can read its payload, None: all.

    ``gpus``: "any" works with and without; "shared" needs the learner and all engines, of one rank each, on one GPU;
    "own" needs a GPU for each train worker and each rank. The last two read the learner's own parameters: no adapters.
    """

    backend: VllmBackend
    publisher: Callable[[PublisherSettings], Publisher]
    receiver: Callable[[ReceiverSettings], Receiver]
    engines: tuple[str, ...] | None = ("vllm",)
    gpus: Literal["any", "shared", "own"] = "any"
