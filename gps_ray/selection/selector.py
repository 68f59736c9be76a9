"""The selector made of parts: predictor + acquisition + batch composer."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.config import SelectionConfig
from gps_ray.predictor.history import OutcomeWindow, PromptIndex, ReuseCounter, concatenate_batches
from gps_ray.predictor.interface import OutcomeBatch, Posterior, Predictor, PromptTable, ReadsText
from gps_ray.selection.acquisition import Acquisition
from gps_ray.selection.batch_composer import compose_batch
from gps_ray.selection.costed import Costed
from gps_ray.selection.group_sizes import group_sizes
from gps_ray.selection.lengths import KnownLengths

__all__ = ["PredictiveSelector", "looked_at", "random_share"]


def _scatter(values: FloatArray, rows: IntArray, num_rows: int) -> FloatArray:
    scattered = np.zeros(num_rows)
    scattered[rows] = values
    return scattered


class _Stateful(Protocol):
    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


def _draw(run_seed: int, stream: str, request: SelectionRequest, rows: IntArray, num_drawn: int) -> IntArray:
    return generator(run_seed, stream, request.step, rollout=request.round).choice(rows, size=num_drawn, replace=False)


def random_share(config: SelectionConfig, step: int) -> float:
    """Share of the slots of ``step`` (from 1) that are random: ``config.random_share``, and in the first
    ``config.warm_up_steps`` steps a share that falls to it from 1, because nobody knows anything yet."""
    if config.warm_up_steps == 0:
        return config.random_share
    return max(config.random_share, 1.0 - max(step - 1, 0) / config.warm_up_steps)


def looked_at(
    config: SelectionConfig, run_seed: int, request: SelectionRequest, free: IntArray
) -> tuple[IntArray, IntArray]:
    """The rows of the random slots, and those that the other slots are chosen from, of the ``free`` rows of the pool.

    Keyed by run seed, step and round alone, so that whoever knows the config can say what a selector will look at.
    """
    num_random = round(random_share(config, request.step) * min(request.num_prompts, len(free)))
    random_rows = _draw(run_seed, "selector/random", request, free, num_random)
    rest = np.setdiff1d(free, random_rows, assume_unique=True)
    if config.candidate_multiple is None:
        return random_rows, rest
    num_candidates = min(config.candidate_multiple * request.num_prompts, len(rest))
    # Sorted: the composer breaks ties by the lowest row.
    return random_rows, np.sort(_draw(run_seed, "selector/candidates", request, rest, num_candidates))


class PredictiveSelector:
    """Predict the candidates, score them, compose a diverse batch (GPS, arXiv 2602.01970).

    Candidates are the pool without ``request.excluded``: all of it, or ``config.candidate_multiple`` times the batch,
    drawn by (run_seed, "selector/candidates", step, round). ``random_share`` of the slots are drawn first,
    evenly from the pool, so that they are an unbiased look at it; the diversity terms count them as members. The very
    first batch is uniform unless the predictor is ``informed``. With ``config.group_size_range`` the rollouts of the
    batch are shared out where they are worth most. Acquisitions see the posterior with what responses are expected to
    cost: by the predictor where it says so, else by a record of what was seen.

    ``select`` changes nothing: recent batches, reuse counts and the predictor all move in ``observe``.
    """

    def __init__(
        self,
        predictor: Predictor,
        acquisition: Acquisition,
        table: PromptTable,
        config: SelectionConfig,
        group_size: int,
        run_seed: int,
    ) -> None:
        self._predictor = predictor
        self._acquisition = acquisition
        self._table = table
        self._config = config
        self._group_size = group_size
        self._run_seed = run_seed
        self._index = PromptIndex(table)
        self._recent = OutcomeWindow(config.num_recent_batches)
        self._reuse = ReuseCounter(table.num_pool)
        self._lengths = KnownLengths(predictor, len(table.prompt_ids))

    def select(self, request: SelectionRequest) -> Selection:
        free = np.flatnonzero(self._index.free(request.excluded))
        num_prompts = min(request.num_prompts, len(free))
        if not (self._predictor.informed() or self._reuse.counts.any()):
            rows = _draw(self._run_seed, "selector/first", request, free, num_prompts)
            unknown = np.full(num_prompts, np.nan)
            equal = np.full(num_prompts, request.group_size, dtype=np.int32)
            return self._selection(request, rows, equal, num_prompts, unknown, unknown, len(free))

        random_rows, candidates = looked_at(self._config, self._run_seed, request, free)
        num_random = len(random_rows)
        # One posterior of both kinds, so that they share its draws; acquisitions see all rows, the composer candidates.
        rows = np.concatenate([random_rows, candidates])
        posterior = self._predictor.predict(rows, request.step)
        rng = generator(self._run_seed, "selector/acquisition", request.step, rollout=request.round)
        scores = self._acquisition(Costed(posterior, lambda: self._tokens(rows)), request.group_size, rng)
        chosen = num_random + self._compose(scores[num_random:], candidates, random_rows, num_prompts - num_random)
        picks = np.concatenate([np.arange(num_random), chosen])
        selection = self._selection(
            request,
            rows[picks],
            self._group_sizes(request, rows[picks]),
            num_random,
            np.asarray(posterior.mean(), dtype=np.float64)[picks],
            np.sqrt(np.asarray(posterior.variance(), dtype=np.float64)[picks]),
            len(candidates),
        )
        return self._with_reasons(selection, request, rows[picks])

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """[N] float64 tokens per response for prompts rows [N]; [0] before the first outcome."""
        return self._lengths.expected_lengths(rows)

    def _tokens(self, rows: IntArray) -> FloatArray:
        """What a response to each is expected to cost: one token at least, the one that ends it."""
        return np.maximum(self.expected_lengths(rows), 1.0) + self._config.overhead_tokens

    def _with_reasons(self, selection: Selection, request: SelectionRequest, rows: IntArray) -> Selection:
        """What the predictor says of the picks, for people: asked of the picks alone, with draws of their own, so that
        it costs next to nothing and changes no choice."""
        rng = generator(self._run_seed, "selector/reasons", request.step, rollout=request.round)
        useful = self._predictor.predict(rows, request.step).expected_useful((request.group_size,), rng)[0]
        text = None
        if isinstance(self._predictor, ReadsText):
            text = np.asarray(self._predictor.predict_from_text(rows, request.step).mean(), dtype=np.float64)
        return replace(selection, expected_useful=np.asarray(useful, dtype=np.float64), text_mean=text)

    def _group_sizes(self, request: SelectionRequest, rows: IntArray) -> IntArray:
        """Rollouts of every prompt of the batch; request.group_size on average, whatever is worth more."""
        bounds = self._config.group_size_range
        if bounds is None:
            return np.full(len(rows), request.group_size, dtype=np.int32)
        rng = generator(self._run_seed, "selector/group_sizes", request.step, rollout=request.round)
        return group_sizes(self._predictor.predict(rows, request.step), len(rows) * request.group_size, *bounds, rng)

    def _compose(self, scores: FloatArray, candidates: IntArray, members: IntArray, num_prompts: int) -> IntArray:
        """Places among ``candidates``, in the order of picking."""
        embeddings = self._table.embeddings
        num_pool = self._table.num_pool
        spread = 2 * len(candidates) > num_pool
        if spread:  # most of the pool: a mask costs less than a copy of the embeddings
            available = np.zeros(num_pool, dtype=np.bool_)
            available[candidates] = True
            scores = _scatter(scores, candidates, num_pool)
        picks = compose_batch(
            scores,
            embeddings[:num_pool] if spread else embeddings[candidates],
            num_prompts,
            diversity_within=self._config.diversity_within,
            diversity_recent=self._config.diversity_recent,
            recent=embeddings[concatenate_batches(self._recent.batches).rows],
            members=embeddings[members],
            available=available if spread else None,
        )
        return np.searchsorted(candidates, picks) if spread else picks

    def _selection(
        self,
        request: SelectionRequest,
        rows: IntArray,
        num_rollouts: IntArray,
        num_random: int,
        mean: FloatArray,
        std: FloatArray,
        num_candidates: int,
    ) -> Selection:
        slot_kind = np.full(len(rows), SlotKind.CHOSEN, dtype=np.int8)
        slot_kind[:num_random] = SlotKind.RANDOM
        return Selection(
            step=request.step,
            round=request.round,
            prompt_ids=tuple(self._table.prompt_ids[row] for row in rows),
            num_rollouts=num_rollouts,
            predicted_mean=mean,
            predicted_std=std,
            slot_kind=slot_kind,
            num_candidates=num_candidates,
        )

    def observe(self, batch: OutcomeBatch) -> None:
        self._predictor.observe(batch)
        self._recent.append(batch)
        self._reuse.observe(batch.rows)
        self._lengths.observe(batch)

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        return self._predictor.predict(rows, step)

    def seen(self, rows: IntArray) -> BoolArray:
        return self._predictor.seen(rows)

    def metrics(self) -> dict[str, float]:
        predictor = {f"predictor/{name}": value for name, value in self._predictor.metrics().items()}
        return {**self._reuse.metrics(), **predictor}

    def _parts(self) -> dict[str, _Stateful]:
        return {
            "predictor": self._predictor,
            "recent": self._recent,
            "reuse": self._reuse,
            "lengths": self._lengths,
        }

    def state(self) -> State:
        state: State = {}
        for name, part in self._parts().items():
            state |= nested(name, part.state())
        return state

    def load_state(self, state: State) -> None:
        for name, part in self._parts().items():
            part.load_state(below(name, state))
