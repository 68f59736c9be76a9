"""One RL step, then the run. Knows the three ports and the run folder, nothing of Ray.

Steps count from 1: step s ends with policy version s. Its rollouts are made with version s - 1, or, where the run may
run ahead by a lag of L, with version s - 1 - L while the learner still trains on the steps before. After every step
with an evaluation or a checkpoint the learner is waited for, so that neither has anything under way. Everything that
could change a result (which prompts share an engine batch, the order of reduction, every draw, which weights made a
rollout and which outcomes a selection knew of) is a function of the config, never of timing: chunks are cut by position
in the selection and sorted by it before anyone learns from them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gps_ray.base.concurrency import gather_or_cancel
from gps_ray.base.types import (
    Chunk,
    GenerateRequest,
    IntArray,
    ObserveResult,
    Prompt,
    Selection,
    SelectionRequest,
    UpdateRequest,
    UpdateResult,
)
from gps_ray.config import TrainConfig
from gps_ray.loop.evaluation import Counts, collect_counts, evaluation_metrics, probe_metrics
from gps_ray.loop.pipeline import StepRecord, Stopwatch, Stretch
from gps_ray.loop.ports import LearnerPort, RolloutPool, SelectorPort
from gps_ray.run.checkpoint import CheckpointStore, Manifest, SelectionRecord
from gps_ray.run.folder import RunFolder
from gps_ray.run.metrics import NUM_TOKENS, OTHER_PHASES, TRAINING_PHASES, step_metrics
from gps_ray.selection.admission import build_admission
from gps_ray.selection.registry import needs_true_rates
from gps_ray.tasks.dataset import DataSets

__all__ = ["LoopParts", "ProgressSink", "TrainingLoop"]


class ProgressSink(Protocol):
    """Who watches the run: a terminal display, a log, the cluster's metrics."""

    def phase(self, name: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """What a run is made of. ``sinks`` are told of every phase and every finished step."""

    selector: SelectorPort
    pool: RolloutPool
    learner: LearnerPort
    data: DataSets
    folder: RunFolder
    store: CheckpointStore
    pool_fingerprint: str
    sinks: Sequence[ProgressSink] = ()


class TrainingLoop:
    """Runs ``config.run.num_steps`` steps, from the start or from a manifest."""

    def __init__(self, config: TrainConfig, parts: LoopParts) -> None:
        self._config = config
        self._parts = parts
        self._counters: dict[str, float] = {}
        self._next: Selection | None = None
        self._needs_rates = needs_true_rates(config.selection)
        self._max_lag = config.run.max_policy_lag
        # Prompts by step that were selected and whose outcomes the selector has not seen.
        self._in_flight: dict[int, set[str]] = {}
        self._mark = 0.0
        self._steps_done = 0
        self._last_metrics: Mapping[str, float] = {}

    def restore(self, manifest: Manifest) -> None:
        """Go on from a manifest; the learner and the selector have been loaded by whoever built them."""
        folder = self._parts.folder
        folder.metrics.truncate(manifest.metrics_num_bytes)
        folder.samples.truncate(manifest.samples_num_bytes)
        folder.discard_unlisted(list(manifest.run_files))
        self._counters = dict(manifest.counters)
        self._next = None if manifest.next_selection is None else manifest.next_selection.selection()
        self._steps_done = manifest.num_steps_done

    async def run(self) -> Mapping[str, float]:
        """All steps that are left, the final evaluation and the export; returns the last step's metrics."""
        self._phase("weights")
        await self._parts.pool.load_weights(await self._parts.learner.publish())
        if self._steps_done == 0:
            self._emit({"step": 0, **await self._evaluate()})
            self._next = await self._select(1)
        while self._steps_done < self._config.run.num_steps:
            ahead = Stretch(self._steps_done, self._end_of_stretch())
            self._mark = time.perf_counter()
            await gather_or_cancel(self._roll_out_stretch(ahead), self._learn_stretch(ahead))
        self._phase("export")
        await self._parts.learner.export(self._parts.folder.final_model)
        return self._last_metrics

    def _end_of_stretch(self) -> int:
        """The next step after which nothing may be under way: what is evaluated or checkpointed is one version. The
        oracle stops after every step, to see what the new weights can do."""
        step = self._steps_done + 1
        while not (self._needs_rates or self._is_due(step)):
            step += 1
        return step

    def _is_due(self, step: int) -> bool:
        """Is there an evaluation or a checkpoint after this step?"""
        return self._due(self._config.evaluation.every_steps, step) or self._due(
            self._config.checkpoint.every_steps, step
        )

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self._config.run.num_steps

    async def _roll_out_stretch(self, ahead: Stretch) -> None:
        """Roll out step by step, each as soon as its prompts and its weights are there."""
        for step in ahead.steps:
            record = StepRecord(step=step, policy_version=max(ahead.begin, step - 1 - self._max_lag), selections=[])
            with Stopwatch(record.seconds, "timing_s/wait_learner"):
                if record.policy_version > ahead.begin:
                    published = await ahead.weights.get()
                    with Stopwatch(record.seconds, "timing_s/weights"):
                        await self._parts.pool.load_weights(published)
                record.selections.append(await ahead.selections.get())
            self._phase("rollout")
            with Stopwatch(record.seconds, "timing_s/rollout"):
                await self._roll_out(record)
            ahead.rolled_out.put_nowait(record)

    async def _learn_stretch(self, ahead: Stretch) -> None:
        """Learn step by step. Prompts are selected as far ahead as rollouts may run: which outcomes the selector has
        seen by then depends on the step alone, never on timing."""
        assert self._next is not None
        self._put_selection(ahead, ahead.begin + 1, self._next)
        for step in ahead.steps[1 : 1 + self._max_lag]:
            self._put_selection(ahead, step, await self._select(step))
        for _ in ahead.steps:
            start = time.perf_counter()
            record = await ahead.rolled_out.get()
            record.seconds["timing_s/wait_rollouts"] = time.perf_counter() - start
            record.num_steps_ahead = ahead.rolled_out.qsize()
            await self._finish(record, ahead)

    def _put_selection(self, ahead: Stretch, step: int, selection: Selection) -> None:
        self._in_flight[step] = set(selection.prompt_ids)
        ahead.selections.put_nowait(selection)

    async def _finish(self, record: StepRecord, ahead: Stretch) -> None:
        """Learn from the step's rollouts, tell the selector, write everything down."""
        self._phase("update")
        # A selection depends on the selector's state after observe, never on the new weights: it overlaps.
        updated, observed = await gather_or_cancel(self._learn(record, ahead), self._observe(record, ahead))
        self._steps_done = record.step
        now = time.perf_counter()
        self._add("cost/wall_s", now - self._mark)
        if record.step == ahead.end and self._needs_rates:
            self._next = await self._select(record.step + 1)
        metrics = self._account(record, updated, observed)
        if self._due(self._config.evaluation.every_steps, record.step):
            with Stopwatch(record.seconds, "timing_s/evaluation"):
                metrics |= await self._evaluate()
        metrics |= record.seconds
        metrics["timing_s/step"] = time.perf_counter() - self._mark
        self._mark = time.perf_counter()
        self._emit(metrics)
        if self._due(self._config.checkpoint.every_steps, record.step):
            await self._checkpoint()
            self._mark = time.perf_counter()

    async def _select(self, step: int, round_: int = 0, num_missing: int | None = None) -> Selection:
        """Prompts for a round of a step; those in flight are excluded, its own earlier rounds among them."""
        num_prompts = self._config.selection.num_prompts
        request = SelectionRequest(
            step=step,
            round=round_,
            num_prompts=num_prompts,
            group_size=self._config.rollout.group_size,
            excluded=frozenset().union(*self._in_flight.values()),
            num_missing=num_prompts if num_missing is None else num_missing,
        )
        if self._needs_rates:
            await self._reveal(request)
        return await self._parts.selector.select(request)

    async def _reveal(self, request: SelectionRequest) -> None:
        """Tell the oracle what its candidates' success rates are: rolled out once, thrown away, charged apart."""
        self._phase("oracle")
        prompt_ids = await self._parts.selector.candidates(request)
        counts = await self._count("oracle", prompt_ids, request.group_size, self._config.rollout.temperature)
        rates = counts.num_right / np.maximum(counts.num_tried, 1)
        await self._parts.selector.reveal(prompt_ids, np.where(counts.num_tried > 0, rates, 0.5))

    async def _roll_out(self, record: StepRecord) -> None:
        """Rounds, until admission is full, the rounds are used up or the pool has nothing left."""
        config = self._config
        admission = build_admission(config.selection)
        admission.begin(config.selection.num_prompts)
        while True:
            selection = record.selections[-1]
            for chunk in await self._generate(
                "rollout",
                selection.prompt_ids,
                selection.num_rollouts,
                config.rollout.temperature,
                step=record.step,
                policy_version=record.policy_version,
                first_chunk=len(record.chunks),
                num_samples_kept=4 if self._samples_due(record.step) else 0,
            ):
                record.chunks.append(chunk)
                admission.offer(chunk.header.prompt_ids, chunk.header.useful)
            if not admission.wants_more(len(record.selections)):
                break
            following = await self._select(record.step, len(record.selections), admission.num_missing)
            if not following.prompt_ids:
                break
            self._in_flight[record.step].update(following.prompt_ids)
            record.selections.append(following)
        record.admitted = admission.admitted

    def _samples_due(self, step: int) -> bool:
        return (step - 1) % self._config.run.sample_every_steps == 0 or step == self._config.run.num_steps

    async def _generate(
        self,
        stream: str,
        prompt_ids: tuple[str, ...],
        num_rollouts: IntArray,
        temperature: float,
        step: int,
        policy_version: int,
        first_chunk: int = 0,
        num_samples_kept: int = 0,
    ) -> list[Chunk]:
        request = GenerateRequest(
            step=step,
            stream=stream,
            prompt_ids=prompt_ids,
            num_rollouts=num_rollouts,
            policy_version=policy_version,
            temperature=temperature,
            first_chunk=first_chunk,
            num_samples_kept=num_samples_kept,
        )
        chunks = [chunk async for chunk in self._parts.pool.generate(request)]
        return sorted(chunks, key=lambda chunk: chunk.header.chunk_id)

    async def _learn(self, record: StepRecord, ahead: Stretch) -> UpdateResult:
        with Stopwatch(record.seconds, "timing_s/update"):
            updated = await self._parts.learner.update(
                UpdateRequest(
                    step=record.step,
                    rollouts=tuple(chunk.rollouts for chunk in record.chunks),
                    admitted=record.admitted,
                )
            )
        published = await self._parts.learner.publish()
        if record.step < ahead.end:
            ahead.weights.put_nowait(published)
        else:
            with Stopwatch(record.seconds, "timing_s/weights"):
                await self._parts.pool.load_weights(published)
        return updated

    async def _observe(self, record: StepRecord, ahead: Stretch) -> ObserveResult:
        with Stopwatch(record.seconds, "timing_s/select"):
            observed = await self._parts.selector.observe(record.step, record.chunks, record.selections)
            del self._in_flight[record.step]
            following = record.step + 1 + self._max_lag
            if following <= ahead.end:
                self._put_selection(ahead, following, await self._select(following))
            elif record.step == ahead.end and not self._needs_rates:
                self._next = await self._select(record.step + 1)
        return observed

    def _charge(self, name: str, num_rollouts: int, num_tokens: int, cpu_s: float) -> None:
        """Every rollout and token is charged, kept or dropped; what does not serve training has counters of its own."""
        suffix = "" if name == "rollout" else f"_{name}"
        for key, value in (
            (f"cost/num_rollouts{suffix}", num_rollouts),
            (f"cost/num_tokens{suffix}", num_tokens),
            (f"cost/cpu_s_{name}", cpu_s),
        ):
            self._add(key, value)

    def _add(self, counter: str, value: float) -> None:
        self._counters[counter] = self._counters.get(counter, 0.0) + value

    def _account(self, record: StepRecord, updated: UpdateResult, observed: ObserveResult) -> dict[str, float]:
        headers = [chunk.header for chunk in record.chunks]
        self._charge(
            "rollout",
            sum(int((h.num_right + h.num_wrong + h.num_failed).sum()) for h in headers),
            sum(int(h.num_response_tokens.sum()) for h in headers),
            sum(h.cpu_s for h in headers),
        )
        select_cpu_s = observed.cpu_s + sum(s.cpu_s for s in record.selections)
        self._add("cost/cpu_s_update", updated.cpu_s)
        self._add("cost/cpu_s_selector", select_cpu_s)
        self._counters["cost/cpu_s"] = sum(self._counters[f"cost/cpu_s_{phase}"] for phase in TRAINING_PHASES)
        self._parts.folder.write_samples(record.step, [s for h in headers for s in h.samples])
        metrics = step_metrics(headers, record.selections, record.admitted)
        return {
            "step": record.step,
            **metrics,
            "rollout/policy_lag": float(record.step - 1 - record.policy_version),
            "rollout/num_steps_ahead": float(record.num_steps_ahead),
            "rollout/tokens_per_s": metrics[NUM_TOKENS] / record.seconds["timing_s/rollout"],
            **updated.metrics,
            **observed.metrics,
            **self._parts.pool.metrics(),
        }

    async def _count(self, stream: str, prompt_ids: tuple[str, ...], num_rollouts: int, temperature: float) -> Counts:
        """Counts for some prompts under the current policy; they enter neither history nor training, and are charged
        apart: to the oracle, the evaluation, or (every other stream) the probes."""
        each = np.full(len(prompt_ids), num_rollouts, dtype=np.int32)
        done = self._steps_done
        chunks = await self._generate(stream, prompt_ids, each, temperature, step=done + 1, policy_version=done)
        counts = collect_counts(prompt_ids, [chunk.header for chunk in chunks])
        name = stream if stream in OTHER_PHASES else "probe"
        self._charge(name, counts.num_rollouts, counts.num_tokens, counts.cpu_s)
        return counts

    async def _measure(self, stream: str, prompts: Sequence[Prompt], num_rollouts: int) -> Counts:
        ids = tuple(prompt.prompt_id for prompt in prompts)
        return await self._count(stream, ids, num_rollouts, self._config.evaluation.temperature)

    async def _evaluate(self) -> dict[str, float]:
        """The evaluation set, and the probes where they are due; metrics for the current number of steps."""
        self._phase("evaluation")
        config, data = self._config.evaluation, self._parts.data
        seen = await self._measure("evaluation", data.evaluation, config.rollouts_per_prompt)
        metrics = evaluation_metrics(seen.num_right, seen.num_tried, [p.level for p in data.evaluation])
        if self._due(config.probe_every_steps, self._steps_done):
            for name, prompts in (("pool_probe", data.pool_probe), ("heldout_probe", data.heldout_probe)):
                metrics |= await self._probe(name, prompts)
        return metrics

    async def _probe(self, name: str, prompts: Sequence[Prompt]) -> dict[str, float]:
        if not prompts:
            return {}
        # Predicted first, from the state that the next selection is made with, then measured.
        prediction = await self._parts.selector.predict([p.prompt_id for p in prompts])
        seen = await self._measure(name, prompts, self._config.evaluation.probe_rollouts)
        self._parts.folder.write_probe(self._steps_done, name, prompts, prediction, seen.num_right, seen.num_tried)
        if prediction is None:
            return {}
        self._add("cost/cpu_s_probe", prediction.cpu_s)
        return probe_metrics(name, prediction, seen.num_right, seen.num_tried, self._config.rollout.group_size)

    async def _checkpoint(self) -> None:
        """All parts write side by side; the manifest makes them one."""
        self._phase("checkpoint")
        parts = self._parts
        path = parts.store.begin(self._steps_done)
        await gather_or_cancel(parts.learner.save(path / "learner"), parts.selector.save(path / "selector"))
        manifest = Manifest(
            num_steps_done=self._steps_done,
            counters=self._counters,
            next_selection=None if self._next is None else SelectionRecord.of(self._next),
            config=self._config.model_dump(mode="json"),
            pool_fingerprint=parts.pool_fingerprint,
            metrics_num_bytes=parts.folder.metrics.num_bytes,
            samples_num_bytes=parts.folder.samples.num_bytes,
        )
        parts.store.commit(path, manifest, parts.folder.data_files())

    def _phase(self, name: str) -> None:
        for sink in self._parts.sinks:
            sink.phase(name)

    def _emit(self, metrics: dict[str, float]) -> None:
        row = {**metrics, **self._counters}
        self._parts.folder.metrics.append(row)
        self._last_metrics = row
        for sink in self._parts.sinks:
            sink.step(int(row["step"]), row)
