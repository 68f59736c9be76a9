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
from collections.abc import Mapping
from functools import partial

from gps_ray.base.concurrency import Milestone, gather_or_cancel, with_beside
from gps_ray.base.types import ObserveResult, PublishedWeights, Selection, UpdateRequest, UpdateResult
from gps_ray.config import TrainConfig
from gps_ray.loop.breaks import Break, Breaks, RunStopped
from gps_ray.loop.checkpointing import Checkpointer
from gps_ray.loop.chooser import Chooser
from gps_ray.loop.evaluator import Evaluator
from gps_ray.loop.guards import StepGuards
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.oracle import OracleLook
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.predictions import success_predictions
from gps_ray.loop.reporting import Reporter
from gps_ray.loop.rounds import roll_out
from gps_ray.loop.sampling import Sampler
from gps_ray.loop.step_record import StepRecord
from gps_ray.loop.warnings import GuardWatch, TruncationWatch, warn_of_sampling
from gps_ray.run.checkpoint import Manifest
from gps_ray.run.metrics import VAL_PASS_1
from gps_ray.selection.admission import build_admission
from gps_ray.selection.oracle import oracle_candidates
from gps_ray.selection.registry import needs_true_rates

__all__ = ["TrainingLoop"]


class TrainingLoop:
    """Runs ``config.run.num_steps`` steps, from the start or after ``resumed_from``, whose learner and selector have
    been loaded by whoever built them."""

    def __init__(self, config: TrainConfig, parts: LoopParts, resumed_from: Manifest | None = None) -> None:
        self._config, self._parts = config, parts
        self._is_new = resumed_from is None
        self._steps_done = 0 if resumed_from is None else resumed_from.num_steps_done
        self._served = Milestone(self._steps_done)  # the policy version that the pool serves
        self._breaks = Breaks(config, parts.stop)
        self._checkpointer = Checkpointer(config, parts, self._breaks)
        self._ledger = Ledger()
        self._reporter = Reporter(parts, self._ledger)
        self._guards = StepGuards(config.rollout, config.run.max_idle_steps)
        self._watches = (TruncationWatch(), GuardWatch())
        sampler = Sampler(parts.pool, self._ledger, config.rollout.max_failed_share)
        selector = parts.selector
        if needs_true_rates(config.selection):
            pool_ids = tuple(prompt.prompt_id for prompt in parts.data.pool)
            candidates = partial(oracle_candidates, config.selection, pool_ids, config.run.seed)
            sampling = config.rollout_sampling
            selector = OracleLook(
                selector, candidates, sampler, self._served, self._ledger, self._reporter.phase, sampling
            )
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
        self._reporter.phase("weights")
        await self._parts.pool.load_weights(await self._parts.learner.publish())
        if self._is_new:
            self._reporter.emit({"step": 0, **await self._evaluate(0)})
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
        self._reporter.phase("export")
        await self._parts.learner.export(self._parts.folder.unfinished_model())
        self._parts.folder.finish_model()
        if self._parts.mirror is not None:
            self._parts.mirror.hand_over_model(self._parts.folder.final_model)
        return self._reporter.last

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
        self._reporter.phase("rollout")
        with record.timing("rollout"):
            await self._roll_out(record, selection)
        async with self._rolled_out.turn(step):
            self._guards.check(step, record.headers)
        async with self._learnt.turn(step):
            record.seconds["timing_s/wait_rollouts"] = time.perf_counter() - self._learner_free_since
            record.num_steps_ahead = self._rolled_out.at - step
            self._reporter.phase("update")
            # A selection depends on the selector's state after observe, never on the new weights: it overlaps.
            updated, observed = await gather_or_cancel(self._update(record, end), self._observe(record, end))
            await self._end_step(record, updated, observed)

    async def _end_step(self, record: StepRecord, updated: UpdateResult, observed: ObserveResult) -> None:
        """What it cost and showed goes to the records, and what is due after it is done."""
        self._steps_done = step = record.step
        self._ledger.charge_step(record, updated, observed)
        metrics = self._reporter.of_step(record, updated, observed)
        for watch in self._watches:
            watch.look(step, metrics)
        if self._is_due(self._config.evaluation.every_steps, step):
            with record.timing("evaluation"):
                metrics |= await self._evaluate(step)
        self._reporter.write_responses(record)
        seconds = {**record.seconds, "timing_s/step": self._ledger.seconds_since_start()}
        self._reporter.emit(metrics | seconds, self._checkpointer.num_skipped)
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
            predictions=success_predictions(record.selections, set(record.admitted)),
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

    async def _evaluate(self, step: int) -> dict[str, float]:
        self._reporter.phase("evaluation")
        return await self._evaluator.evaluate(step, self._is_due(self._config.evaluation.probe_every_steps, step))

    async def _checkpoint(self) -> None:
        self._reporter.phase("checkpoint")
        counters, next_selection = self._ledger.counters, self._chooser[self._steps_done + 1]
        await self._checkpointer.write(self._steps_done, counters, next_selection, self._reporter.last.get(VAL_PASS_1))
