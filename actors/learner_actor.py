"""The learner on Ray: a named async actor that runs Ray Train's TorchTrainer in a thread and is its mailbox.

Ray Train gives the train workers their processes, placement and process group. It owns no checkpoint and repairs
nothing: a lost train worker ends the attempt, and the loop decides what happens then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util import get_node_ip_address
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from actors.deadlines import death, within
from actors.ray_train import first_failure, one_line, select_gpu, torch_trainer
from gps_ray.base.errors import GpsRayError, LearnerError, LostError, StorageError
from gps_ray.base.lean_imports import lean_imports
from gps_ray.base.types import PublishedWeights, UpdateRequest, UpdateResult
from gps_ray.config import LearningConfig, SimulatedConfig, TrainConfig
from gps_ray.learning.mailbox import START, Kind, Mailbox, Message
from gps_ray.weights.interface import Publisher, PublisherSettings
from gps_ray.weights.transports import load_transport

__all__ = ["LearnerActor", "LearnerSpec", "LearnerStatus", "RayLearner", "spawn_learner"]

log = logging.getLogger(__name__)

POLL_S = 20.0  # how long a train worker waits for a message before it asks again
ANSWER_S = 60.0  # how long the mailbox itself may take: longer means that it is gone
CLOSE_S = 20.0  # for the train workers to leave in peace


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """All that a learner is made of. Without a model folder it simulates the policy, as the simulated engine does.
    ``storage_directory`` is Ray Train's own folder; nothing of ours lies there. ``weight_transfer`` (rollout.vllm)
    names the transport; engines may read the last ``num_live_versions``, and are waited for ``send_deadline_s``."""

    run_name: str
    learning: LearningConfig
    model_directory: Path | None
    dtype: str
    temperature: float
    max_response_tokens: int
    num_steps: int
    simulated: SimulatedConfig
    storage_directory: Path
    weight_transfer: str = "object_store"
    num_live_versions: int = 2
    send_deadline_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStatus:
    """What train worker 0 says once all are up. ``placement_group`` is what Ray Train reserved for them; ``notes`` are
    for the user."""

    policy_version: int
    worker_pid: int
    placement_group: PlacementGroup | None
    notes: tuple[str, ...] = ()


def train_loop(settings: dict[str, Any]) -> None:
    """What Ray Train runs in each train worker: take a message, do it, say what came of it, until CLOSE.

    All ranks do the same things in the same order; rank 0 speaks for them.
    """
    from ray.train import get_context

    mailbox, attempt = settings["mailbox"], settings["attempt"]
    rank = get_context().get_world_rank()

    def complete(sequence: int, result: Any) -> None:
        if rank == 0:
            _tell(mailbox.complete.remote(attempt, sequence, result))

    try:
        learner = _build_learner(settings["spec"], settings["resume_from"])
        with contextlib.closing(_build_publisher(settings["spec"], rank)) as publisher:
            status = LearnerStatus(
                policy_version=learner.policy_version,
                worker_pid=os.getpid(),
                placement_group=get_current_placement_group(),
                notes=tuple(learner.notes),
            )
            complete(START, status)
            while True:
                message: Message = ray.get(mailbox.next_message.remote(attempt, rank), timeout=POLL_S + ANSWER_S)
                if message.kind is Kind.CLOSE:
                    return
                if message.kind is Kind.IDLE:
                    continue
                try:
                    complete(message.sequence, _serve(learner, publisher, message))
                except (
                    StorageError
                ) as error:  # in all workers: the checkpoint could not be written, and nothing changed
                    if rank == 0:
                        _tell(mailbox.refuse.remote(attempt, message.sequence, error))
    except Exception as error:
        # Said here, the caller has the reason at once; Ray Train would take its time and give a page of traceback.
        with contextlib.suppress(RayError):  # the mailbox may be what died
            _tell(mailbox.fail.remote(attempt, one_line(error)))
        raise


def _tell(reference: Any) -> None:
    ray.get(reference, timeout=ANSWER_S)


def _build_learner(spec: LearnerSpec, resume_from: Path | None) -> Any:
    if spec.learning.num_gpus_per_worker:
        select_gpu()
    learner = _simulated_learner(spec) if spec.model_directory is None else _learner(spec, spec.model_directory)
    if resume_from is not None:
        learner.load(resume_from)
    return learner


# Imported in the train worker only: the mailbox needs neither torch nor transformers.
def _simulated_learner(spec: LearnerSpec) -> Any:
    from gps_ray.learning.simulated_learner import SimulatedLearner

    return SimulatedLearner(spec.simulated)


def _learner(spec: LearnerSpec, model_directory: Path) -> Any:
    with lean_imports():
        from gps_ray.learning.learner import Learner

    return Learner(
        model_directory,
        spec.learning,
        dtype=spec.dtype,
        temperature=spec.temperature,
        max_response_tokens=spec.max_response_tokens,
        num_steps=spec.num_steps,
    )


def _build_publisher(spec: LearnerSpec, rank: int) -> Publisher:
    return load_transport(spec.weight_transfer).publisher(
        PublisherSettings(
            rank=rank,
            dtype=spec.dtype,
            num_live_versions=spec.num_live_versions,
            deadline_s=spec.send_deadline_s,
            host=get_node_ip_address(),
        )
    )


def _serve(learner: Any, publisher: Publisher, message: Message) -> Any:
    if message.kind is Kind.UPDATE:
        request: UpdateRequest = message.payload
        return learner.update(ray.get(list(request.rollouts)), request.admitted, request.predictions)
    if message.kind is Kind.PUBLISH:
        tokens, logprobs = learner.probe()
        return PublishedWeights(
            policy_version=learner.policy_version,
            payload=publisher.publish(learner),
            probe_tokens=tokens,
            probe_logprobs=logprobs,
        )
    if message.kind is Kind.SAVE:
        return learner.save(message.payload)
    return learner.export(message.payload)


class LearnerActor:
    """The mailbox with Ray Train in a thread behind it. ``update`` .. ``export`` are for the loop, ``next_message`` ..
    ``fail`` for the train workers."""

    def __init__(self, spec: LearnerSpec) -> None:
        self._spec = spec
        self._mailbox = Mailbox()
        self._fit: threading.Thread | None = None

    async def start(self, resume_from: Path | None = None) -> LearnerStatus:
        """Begin an attempt, from the model folder or from what ``save`` wrote, and wait until its worker is up."""
        await self._join()
        if self._fit is not None and self._fit.is_alive():
            raise LearnerError("the learner's last attempt still holds its train worker; start another learner actor")
        attempt = self._mailbox.open(self._spec.learning.num_workers)
        settings = {
            "mailbox": ray.get_runtime_context().current_actor,
            "attempt": attempt,
            "spec": self._spec,
            "resume_from": resume_from,
        }
        learning = self._spec.learning
        trainer = torch_trainer(
            train_loop,
            settings,
            name=f"{self._spec.run_name}-{attempt}",
            storage_directory=self._spec.storage_directory,
            num_workers=learning.num_workers,
            num_cpus=learning.num_cpus_per_worker,
            num_gpus=learning.num_gpus_per_worker,
        )
        loop = asyncio.get_running_loop()
        # A daemon: a fit() that hangs must not keep the actor's process alive.
        self._fit = threading.Thread(target=self._run_fit, args=(trainer, attempt, loop), daemon=True)
        self._fit.start()
        status: LearnerStatus = await self._mailbox.ready(learning.start_deadline_s, "learning.start_deadline_s")
        return status

    def _run_fit(self, trainer: Any, attempt: int, loop: asyncio.AbstractEventLoop) -> None:
        reason = "its train worker left"
        try:
            trainer.fit()
        except Exception as error:
            reason = one_line(first_failure(error))
        reason = f"the train worker was lost ({reason}); --resume goes on from the last checkpoint"
        loop.call_soon_threadsafe(self._mailbox.fail, attempt, reason, LostError)

    async def _ask(self, kind: Kind, payload: Any = None) -> Any:
        return await self._mailbox.ask(
            kind, payload, self._spec.learning.update_deadline_s, "learning.update_deadline_s"
        )

    async def update(self, request: UpdateRequest) -> UpdateResult:
        result: UpdateResult = await self._ask(Kind.UPDATE, request)
        return result

    async def publish(self) -> tuple[PublishedWeights, Any]:
        """To be called with ``num_returns=2``: the payload is an object of its own, which belongs to the caller and
        outlives this actor's and the train worker's call."""
        published: PublishedWeights = await self._ask(Kind.PUBLISH)
        return replace(published, payload=None), published.payload

    async def save(self, directory: Path) -> None:
        await self._ask(Kind.SAVE, directory)

    async def export(self, directory: Path) -> None:
        await self._ask(Kind.EXPORT, directory)

    async def close(self) -> None:
        """Let the train workers leave their loop. Whoever is still there afterwards dies with this actor."""
        self._mailbox.close()
        await self._join()

    async def _join(self) -> None:
        """Ray Train takes some seconds to notice that its workers have left."""
        if self._fit is not None:
            await asyncio.to_thread(self._fit.join, CLOSE_S)

    async def next_message(self, attempt: int, rank: int) -> Message:
        return await self._mailbox.next_message(attempt, POLL_S, rank)

    async def complete(self, attempt: int, sequence: int, result: Any) -> bool:
        return self._mailbox.complete(attempt, sequence, result)

    async def refuse(self, attempt: int, sequence: int, error: GpsRayError) -> bool:
        return self._mailbox.refuse(attempt, sequence, error)

    async def fail(self, attempt: int, reason: str) -> bool:
        return self._mailbox.fail(attempt, reason)


class RayLearner:
    """The loop's learner port: remote calls, each with a deadline a little beyond the mailbox's own."""

    def __init__(self, actor: Any, config: LearningConfig) -> None:
        self._actor = actor
        self._config = config
        self._placement_group: PlacementGroup | None = None

    async def _wait(self, reference: Any, what: str, deadline_s: float, key: str) -> Any:
        try:
            return await within(deadline_s + ANSWER_S, reference, what, key)
        except RayActorError as error:
            raise LostError(
                f"{what}: the learner actor died ({death(error)}); --resume goes on from the last checkpoint"
            ) from error

    async def _call(self, method: str, *args: Any) -> Any:
        reference = getattr(self._actor, method).remote(*args)
        return await self._wait(
            reference, f"learner.{method}", self._config.update_deadline_s, "learning.update_deadline_s"
        )

    async def start(self, resume_from: Path | None = None) -> LearnerStatus:
        resume_from = None if resume_from is None else resume_from.absolute()
        status: LearnerStatus = await self._wait(
            self._actor.start.remote(resume_from),
            "learner.start",
            self._config.start_deadline_s,
            "learning.start_deadline_s",
        )
        self._placement_group = status.placement_group
        for note in status.notes:
            log.warning(note)
        return status

    async def update(self, request: UpdateRequest) -> UpdateResult:
        result: UpdateResult = await self._call("update", request)
        return result

    async def publish(self) -> PublishedWeights:
        header, payload = self._actor.publish.options(num_returns=2).remote()
        published: PublishedWeights = await self._wait(
            header, "learner.publish", self._config.update_deadline_s, "learning.update_deadline_s"
        )
        return replace(published, payload=payload)

    async def save(self, directory: Path) -> None:
        await self._call("save", directory.absolute())

    async def export(self, directory: Path) -> None:
        await self._call("export", directory.absolute())

    async def close(self) -> None:
        """End the train workers and the actor. Never raises for an actor that is already gone."""
        with contextlib.suppress(RayActorError, GpsRayError):
            await within(CLOSE_S + ANSWER_S, self._actor.close.remote(), "learner.close", "learning.update_deadline_s")
        ray.kill(self._actor)
        # Where the actor was killed, so was Ray Train's controller, and its reservation would stand until the job ends.
        if self._placement_group is not None:
            remove_placement_group(self._placement_group)


def spawn_learner(name: str, config: TrainConfig, model_directory: Path | None, storage_directory: Path) -> RayLearner:
    """Start the actor under a readable name; it only waits and reserves no CPU."""
    spec = LearnerSpec(
        run_name=name.replace("/", "-"),
        learning=config.learning,
        model_directory=None if model_directory is None else model_directory.absolute(),
        dtype=config.model.dtype,
        temperature=config.rollout.temperature,
        max_response_tokens=config.rollout.max_response_tokens,
        num_steps=config.run.num_steps,
        simulated=config.rollout.simulated,
        storage_directory=storage_directory.absolute(),
        weight_transfer=config.rollout.vllm.weight_transfer,
        num_live_versions=config.run.num_live_versions,
        send_deadline_s=config.rollout.start_deadline_s,
    )
    actor = ray.remote(LearnerActor).options(name=name, num_cpus=0).remote(spec)
    return RayLearner(actor, config.learning)
