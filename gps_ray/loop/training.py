"""One RL step, then the run. Knows the three ports and the run folder, nothing of Ray.

Steps count from 1: step s ends with policy version s. Its rollouts are made with version s - 1, or, where the run may
run ahead by a lag of L, with version s - 1 - L while the learner still trains on the steps before. After every step
with an evaluation or a checkpoint the learner is waited for, so that neither has anything under way. Everything that
could change a result (which prompts share an engine batch, the order of reduction, every draw, which weights made a
rollout and which outcomes a selection knew of) is a function of the config, never of timing: chunks are cut by position
in the selection and sorted by it before anyone learns from them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gps_ray.base.concurrency import Milestone, gather_or_cancel, with_beside
from gps_ray.base.errors import StorageError
from gps_ray.base.types import ObserveResult, PublishedWeights, Selection, UpdateRequest, UpdateResult
from gps_ray.config import TrainConfig
from gps_ray.loop.breaks import Break, Breaks, RunStopped, StopRequest
from gps_ray.loop.chooser import Chooser
from gps_ray.loop.evaluator import Evaluator
from gps_ray.loop.guards import StepGuards
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.oracle import OracleLook
from gps_ray.loop.ports import LearnerPort, ProgressSink, RolloutPool, SelectorPort
from gps_ray.loop.rounds import roll_out
from gps_ray.loop.sampling import Sampler
from gps_ray.loop.skips import SkippedCheckpoints
from gps_ray.loop.step_record import StepRecord
from gps_ray.loop.warnings import TruncationWatch, warn_of_sampling
from gps_ray.run.checkpoint import CheckpointStore, Manifest, SelectionRecord
from gps_ray.run.folder import RunFolder
from gps_ray.run.identity import Identity
from gps_ray.run.metrics import NUM_SKIPPED, NUM_TOKENS, VAL_PASS_1, rollouts_saved, step_metrics
from gps_ray.run.mirror import Mirror
from gps_ray.selection.admission import build_admission
from gps_ray.selection.oracle import oracle_candidates
from gps_ray.selection.registry import needs_true_rates
from gps_ray.tasks.dataset import DataSets

__all__ = ["LoopParts", "TrainingLoop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """What a run is made of. ``sinks`` are told of every phase and every finished step, ``stop`` is where somebody may
    ask the run to end, ``mirror`` takes what was committed to another place."""

    selector: SelectorPort
    pool: RolloutPool
    learner: LearnerPort
    data: DataSets
    folder: RunFolder
    store: CheckpointStore
    identity: Identity
    sinks: Sequence[ProgressSink] = ()
    stop: StopRequest = field(default_factory=StopRequest)
    mirror: Mirror | None = None


class TrainingLoop:
    """Runs ``config.run.num_steps`` steps, from the start or after ``resumed_from``, whose learner and selector have
    been loaded by whoever built them."""

    def __init__(self, config: TrainConfig, parts: LoopParts, resumed_from: Manifest | None = None) -> None:
        self._config, self._parts = config, parts
        self._is_new = resumed_from is None
        self._steps_done = 0 if resumed_from is None else resumed_from.num_steps_done
        self._served = Milestone(self._steps_done)  # the policy version that the pool serves
        self._breaks = Breaks(config, parts.stop)
        self._skipped = SkippedCheckpoints(config.checkpoint.max_skipped)
        self._ledger = Ledger()
        self._guards = StepGuards(config.rollout, config.run.max_idle_steps)
        self._truncation = TruncationWatch()
        sampler = Sampler(parts.pool, self._ledger, config.rollout.max_failed_share)
        selector = parts.selector
        if needs_true_rates(config.selection):
            pool_ids = tuple(prompt.prompt_id for prompt in parts.data.pool)
            candidates = partial(oracle_candidates, config.selection, pool_ids, config.run.seed)
            sampling = config.rollout_sampling
            selector = OracleLook(selector, candidates, sampler, self._served, self._ledger, self._phase, sampling)
        self._chooser = Chooser(
            selector,
            num_prompts=config.selection.num_prompts,
            group_size=config.rollout.group_size,
            max_policy_lag=config.run.max_policy_lag,
            num_steps_done=self._steps_done,
        )
        self._evaluator = Evaluator(config, parts.data, sampler, selector, parts.folder, self._ledger)
        self._begun, self._rolled_out, self._published, self._learnt = (Milestone(self._steps_done) for _ in range(4))
        self._runs_ahead = config.run.max_policy_lag > 0
        self._weights: dict[int, PublishedWeights] = {}  # by version, until the pool has loaded them
        self._learner_free_since = 0.0
        self._last_metrics: Mapping[str, float] = {}
        if resumed_from is not None:
            self._restore(resumed_from)

    def _restore(self, manifest: Manifest) -> None:
        self._ledger.restore(manifest.counters)
        if manifest.next_selection is not None:
            self._chooser.keep(manifest.next_selection.selection())

    async def run(self) -> Mapping[str, float]:
        """All steps that are left, the final evaluation and the export; returns the last step's metrics.

        Raises RunStopped where it was asked to end before.
        """
        warn_of_sampling(self._config)
        self._phase("weights")
        await self._parts.pool.load_weights(await self._parts.learner.publish())
        if self._is_new:
            self._emit({"step": 0, **await self._evaluate(0)})
            # A kill at any moment from here on leaves something to resume.
            await self._chooser.choose_ahead(0, 0)
            await self._checkpoint()
        while self._steps_done < self._config.run.num_steps:
            begin, end = self._steps_done, self._next_stop()
            await self._chooser.choose_ahead(begin, end)
            self._ledger.start_clock()
            self._learner_free_since = time.perf_counter()
            with contextlib.suppress(Break):
                await gather_or_cancel(*(self.step(step, begin, end) for step in range(begin + 1, end + 1)))
            await self._take_break()
        self._phase("export")
        await self._parts.learner.export(self._parts.folder.unfinished_model())
        self._parts.folder.finish_model()
        if self._parts.mirror is not None:
            self._parts.mirror.hand_over_model(self._parts.folder.final_model)
        return self._last_metrics

    async def step(self, step: int, begin: int, end: int) -> None:
        """One RL step of those after ``begin`` up to ``end``, all of which are under way at once: rollouts wait for
        their weights and for their prompts, and begin in the order of the steps; learning waits for the step before."""
        lag = self._config.run.max_policy_lag
        record = StepRecord(step, policy_version=max(begin, step - 1 - lag), num_followers=min(lag, end - step))
        async with self._begun.turn(step):
            with record.timing("wait_learner"):
                await self._published.reached(record.policy_version)
                if not self._runs_ahead:
                    await self._load(record, record.policy_version)
                if self._breaks.may_come():
                    await self._learnt.reached(step - 1)
                    raise Break
                selection = await self._chooser.selection(step)
        self._phase("rollout")
        with record.timing("rollout"):
            await self._roll_out(record, selection)
        async with self._rolled_out.turn(step):
            self._guards.check(step, record.headers)
        async with self._learnt.turn(step):
            record.seconds["timing_s/wait_rollouts"] = time.perf_counter() - self._learner_free_since
            record.num_steps_ahead = self._rolled_out.at - step
            self._phase("update")
            # A selection depends on the selector's state after observe, never on the new weights: it overlaps.
            updated, observed = await gather_or_cancel(self._update(record, end), self._observe(record, end))
            self._steps_done = step
            self._ledger.charge_step(record, updated, observed)
            metrics = self._step_metrics(record, updated, observed)
            self._truncation.look(step, metrics)
            if self._is_due(self._config.evaluation.every_steps, step):
                with record.timing("evaluation"):
                    metrics |= await self._evaluate(step)
            self._parts.folder.write_samples(step, [sample for header in record.headers for sample in header.samples])
            self._parts.folder.write_verifier_notes(
                step, [note for header in record.headers for note in header.verifier_notes]
            )
            self._emit({**metrics, **record.seconds, "timing_s/step": self._ledger.seconds_since_start()})
            if self._is_due(self._config.checkpoint.every_steps, step):
                await self._checkpoint()
            self._ledger.start_clock()
            self._learner_free_since = time.perf_counter()
            self._breaks.step_done()

    async def _take_break(self) -> None:
        """Nothing is under way: write the checkpoint whose time has come, and end where that is asked for."""
        is_last = self._steps_done == self._config.run.num_steps
        if self._breaks.is_wanted() and self._breaks.has_news:
            await self._checkpoint()
        if self._breaks.reason and not is_last:
            how = "without one, which could not be written; --resume goes on from the last that was"
            if not self._breaks.has_news:
                how = "with a checkpoint; --resume goes on from it"
            raise RunStopped(self._breaks.reason, f"stopped after step {self._steps_done} {how}")

    def _next_stop(self) -> int:
        """The next step after which nothing may be under way: what is evaluated or checkpointed is one version."""
        stops = (self._config.evaluation.every_steps, self._config.checkpoint.every_steps)
        step = self._steps_done + 1
        while not any(self._is_due(every, step) for every in stops):
            step += 1
        return step

    def _is_due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self._config.run.num_steps

    async def _roll_out(self, record: StepRecord, selection: Selection) -> None:
        """A run that runs ahead does not wait until all engines have the weights: each begins when it has them, while
        others still finish rollouts of older ones. A further round waits for the step before, as two at a time would
        ask the selector in an order of their own."""
        before = partial(self._rolled_out.reached, record.step - 1)
        rollouts = roll_out(record, selection, self._config, self._parts.pool, self._chooser, before)
        if self._runs_ahead:
            await with_beside(rollouts, self._load(record, record.policy_version))
        else:
            await rollouts

    async def _load(self, record: StepRecord, version: int) -> None:
        """Give the pool a version, unless it has it already."""
        if version in self._weights:
            with record.timing("weights"):
                await self._parts.pool.load_weights(self._weights.pop(version))
            self._served.advance(max(version, self._served.at))

    async def _update(self, record: StepRecord, end: int) -> UpdateResult:
        """Train, and publish the new version; after the last step of all that are under way the pool loads it here."""
        request = UpdateRequest(
            step=record.step,
            rollouts=tuple(chunk.rollouts for chunk in record.chunks),
            admitted=record.admitted,
        )
        with record.timing("update"):
            updated = await self._parts.learner.update(request)
        self._weights[record.step] = await self._parts.learner.publish()
        self._published.advance(record.step)
        if record.step == end:
            await self._load(record, record.step)
            self._weights.clear()  # what comes begins with this version
        return updated

    async def _observe(self, record: StepRecord, end: int) -> ObserveResult:
        """Tell the selector everything of the step, then select for the step whose time has come. Steps that were
        selected before and may want a further round have to come first: what that knows must not depend on timing."""
        if self._runs_ahead and build_admission(self._config.selection).max_rounds > 1:
            await self._rolled_out.reached(min(record.step + self._config.run.max_policy_lag, end))
        with record.timing("select"):
            # Two drivers of one folder would append to the same file of outcomes.
            self._parts.folder.fence()
            observed = await self._parts.selector.observe(record.step, record.chunks, record.selections)
            self._chooser.release(record.step)
            await self._chooser.choose_ahead(record.step, end)
        return observed

    def _step_metrics(self, record: StepRecord, updated: UpdateResult, observed: ObserveResult) -> dict[str, float]:
        metrics = step_metrics(record.headers, record.selections, record.admitted)
        return {
            "step": record.step,
            **metrics,
            "rollout/policy_lag": float(record.step - 1 - record.policy_version),
            "rollout/num_steps_ahead": float(record.num_steps_ahead),
            "rollout/tokens_per_s": metrics[NUM_TOKENS] / record.seconds["timing_s/rollout"],
            **updated.metrics,
            **observed.metrics,
            **rollouts_saved(self._ledger.counters),
            **self._parts.pool.metrics(),
        }

    async def _evaluate(self, step: int) -> dict[str, float]:
        self._phase("evaluation")
        return await self._evaluator.evaluate(step, self._is_due(self._config.evaluation.probe_every_steps, step))

    async def _checkpoint(self) -> None:
        """Write one, or go on without where there is no room for it, as far as the config allows."""
        self._phase("checkpoint")
        began = self._breaks.now()
        try:
            await self._write_checkpoint()
        except StorageError as error:
            if not self._parts.store.has_any() or not self._parts.folder.root.exists():
                raise  # there would be nothing to go on from
            self._skipped.skipped(self._steps_done, error)
            self._breaks.skipped()
        else:
            self._skipped.written()
            self._breaks.saved(began)

    async def _write_checkpoint(self) -> None:
        """All parts write side by side; the manifest makes them one. What is left of one that fails makes room."""
        parts = self._parts
        path = parts.store.begin(self._steps_done)
        try:
            await _all_saved(parts.learner.save(path / "learner"), parts.selector.save(path / "selector"))
            self._commit(path)
        except StorageError:
            parts.store.discard(path)
            raise

    def _commit(self, path: Path) -> None:
        parts = self._parts
        manifest = Manifest(
            num_steps_done=self._steps_done,
            counters=self._ledger.counters,
            next_selection=SelectionRecord.of(self._chooser[self._steps_done + 1]),
            config=self._config.model_dump(mode="json"),
            pool_fingerprint=parts.identity.pool,
            **parts.identity.model_dump(exclude={"pool"}),
            pass_at_1=self._last_metrics.get(VAL_PASS_1),
            **dict(parts.folder.position()),
        )
        manifest = parts.store.commit(path, manifest)
        if parts.mirror is not None:
            parts.mirror.hand_over(path, manifest)

    def _phase(self, name: str) -> None:
        for sink in self._parts.sinks:
            sink.phase(name)

    def _emit(self, metrics: Mapping[str, float]) -> None:
        mirror = {} if self._parts.mirror is None else self._parts.mirror.metrics(self._steps_done)
        skipped = {NUM_SKIPPED: float(self._skipped.num)} if self._skipped.num else {}
        row = {**metrics, **mirror, **skipped, **self._ledger.counters}
        self._parts.folder.metrics.append(row)
        self._last_metrics = row
        for sink in self._parts.sinks:
            sink.step(int(row["step"]), row)


async def _all_saved(*saves: Coroutine[Any, Any, None]) -> None:
    """Where one has no room the others end all the same: their files are about to be deleted."""

    async def attempt(save: Coroutine[Any, Any, None]) -> StorageError | None:
        try:
            await save
        except StorageError as error:
            return error
        return None

    for error in await gather_or_cancel(*map(attempt, saves)):
        if error is not None:
            raise error
