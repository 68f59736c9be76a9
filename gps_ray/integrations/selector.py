"""The library's front: prompts in, rows out, outcomes back.

    selector = gps_ray.Selector(prompts, "gps_fused")
    rows = selector.next(32)
    selector.update(rows, num_right, num_tried)

Plain and synchronous, in the caller's process. A selector is a function of its prompts, settings, seed and of the calls
made so far: the same calls give the same choices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gps_ray.base.errors import CheckpointError, UsageError, one_line
from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, load_state_file, nested, save_state_file
from gps_ray.base.types import BoolArray, FloatArray, IntArray, SelectionRequest, State
from gps_ray.config import SelectionConfig, parse_config
from gps_ray.integrations.prompts import (
    PromptLike,
    as_rows,
    counts,
    fingerprint,
    mean_lengths,
    prompt_text,
    whole_number,
)
from gps_ray.predictor.history import OutcomeWindow
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PredictsLengths, PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.prompt_states import stored_states
from gps_ray.selection.acquisition import NEEDS_LENGTHS
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import SELECTORS, build_selector, needs_true_rates, resolve_selection

__all__ = ["Prediction", "Selector", "selector_names"]

# What a selector is told elsewhere when it is used as a library: a setting that did nothing would mislead.
_NO_SETTINGS = {
    "num_prompts": "say it in next(num_prompts)",
    "group_size_range": "share rollouts out with gps_ray.group_sizes",
    "admission": "which groups are trained on is your trainer's choice",
    "max_rounds": "call next again for another round",
    "num_threads": "use torch.set_num_threads",
    "deadline_s": "the library has no deadlines",
}


def selector_names() -> tuple[str, ...]:
    """The selectors that ``Selector`` knows by name."""
    return tuple(name for name, row in SELECTORS.items() if not row.needs_true_rates and name != "ds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is expected of N prompts before their next outcomes.

    ``mean`` and ``std`` of the success rate, ``useful``: the probability that a group of the selector's ``group_size``
    is useful, all [N] float64; ``seen`` [N] bool: the prompt has outcomes of its own. ``posterior`` is the whole of it.
    """

    mean: FloatArray
    std: FloatArray
    useful: FloatArray
    seen: BoolArray
    posterior: Posterior


class Selector:
    """Chooses which of ``prompts`` are worth the next rollouts, and learns from how those went.

    A prompt is a text or a chat (a sequence of mappings with ``role`` and ``content``); from then on it is known by its
    row, its place in ``prompts``. ``selector``: one of ``selector_names()`` or an import path
    ``package.module:name``. ``group_size``: rollouts that a prompt usually gets. ``embeddings`` [N, E]: features of
    your own in place of WordLlama's word vectors. ``settings`` are keys of the config section ``selection``, sections
    within it as mappings: ``random_share=0.2, fused={"num_features": 128}``. ``gps_ray.explain("selection")`` lists
    them.

    Raises UsageError or ConfigError in one line.
    """

    def __init__(
        self,
        prompts: Sequence[PromptLike],
        selector: str = "gps_fused",
        *,
        group_size: int = 8,
        seed: int = 0,
        embeddings: ArrayLike | None = None,
        **settings: Any,
    ) -> None:
        self._config = _config(selector, settings)
        self._texts = _texts(prompts)
        self._group_size, self._seed = whole_number(group_size, "group_size"), whole_number(seed, "seed")
        if group_size < 1:
            raise UsageError(f"group_size: expected at least 1 rollout per prompt, got {group_size}")
        own = None if embeddings is None else _unit_rows(embeddings, len(self._texts))
        self._own_embeddings = own
        features = self._config.features
        embedded = embed_texts(self._texts, features) if own is None else own
        table = _table(self._texts, embedded, stored_states(features, self._texts))
        self._fingerprint = fingerprint(table.texts, table.embeddings if own is not None else None)
        self._selector = build_selector(self._config, table, self._group_size, self._seed)
        priced = resolve_selection(self._config).acquisition in NEEDS_LENGTHS
        self._needs_lengths = priced and isinstance(self._selector, PredictsLengths)
        self._row_of = {text: row for row, text in reversed(list(enumerate(self._texts)))}
        self._history = OutcomeWindow(None)
        self._in_flight: set[int] = set()
        self._num_choices = 0

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts, by row."""
        return self._texts

    @property
    def group_size(self) -> int:
        """Rollouts that a prompt usually gets, as given."""
        return self._group_size

    @property
    def in_flight(self) -> IntArray:
        """Rows that ``next`` has given and ``update`` has not heard of, rising; ``next`` leaves them out."""
        return np.array(sorted(self._in_flight), dtype=np.int64)

    @property
    def num_updates(self) -> int:
        """How often ``update`` was called."""
        return len(self._history.batches)

    def next(self, num_prompts: int) -> IntArray:
        """[num_prompts] int64: the rows to roll out next, all different and none of them in flight.

        Ask for the whole batch of a training step at once: diversity and random slots are shares of what is asked for.
        May be called again before ``update``, where rollouts run ahead of training. Raises UsageError where too few
        prompts are left.
        """
        num_prompts = whole_number(num_prompts, "next")
        free = len(self._texts) - len(self._in_flight)
        if not 1 <= num_prompts <= free:
            raise UsageError(
                f"next: expected 1 to {free} prompts ({len(self._texts)} in the pool, {len(self._in_flight)} in "
                f"flight), got {num_prompts}; ask for fewer, or tell update of those in flight, with num_tried=0 where "
                "a group was dropped"
            )
        request = SelectionRequest(
            step=self._num_choices + 1,
            round=0,
            num_prompts=num_prompts,
            group_size=self._group_size,
            excluded=frozenset(map(str, self._in_flight)),
            num_missing=num_prompts,
        )
        rows = np.array([int(name) for name in self._selector.select(request).prompt_ids], dtype=np.int64)
        self._num_choices += 1
        self._in_flight.update(rows.tolist())
        return rows

    def update(
        self,
        rows: ArrayLike,
        num_right: ArrayLike,
        num_tried: ArrayLike,
        response_lengths: ArrayLike | None = None,
    ) -> None:
        """Learn that of ``num_tried`` rollouts of each row ``num_right`` solved the prompt.

        ``response_lengths``: mean tokens of each row's responses (NaN: unknown); the acquisition useful_per_token needs
        them, ``expected_lengths`` learns from them. All [K], or a number for all rows. Count success, not reward.
        Rollouts without a verdict (a time-out) are not tried ones; ``num_tried=0`` says that a group was dropped. Rows
        need not come from ``next``. One call per training step. Raises UsageError for a row that is not there and
        numbers that cannot be, and learns nothing then.
        """
        where = as_rows(rows, len(self._texts), "update: rows")
        right, tried = counts(num_right, num_tried, len(where))
        if response_lengths is None and self._needs_lengths:
            raise UsageError(
                "update: response_lengths: useful_per_token needs the mean tokens of each row's responses, got none; "
                "give them, or make the selector with acquisition='useful_group'"
            )
        lengths = np.nan if response_lengths is None else mean_lengths(response_lengths, len(where))
        batch = OutcomeBatch(
            step=self.num_updates + 1,
            rows=where,
            num_right=right,
            num_tried=tried,
            mean_response_length=np.full(len(where), lengths, dtype=np.float32),
        )
        self._selector.observe(batch)
        self._history.append(batch)
        self._in_flight.difference_update(where.tolist())

    def predict(self, prompts: Sequence[PromptLike] | ArrayLike | None = None) -> Prediction:
        """What is expected of ``prompts``: rows, or texts and chats; None: every prompt of the pool.

        Texts that are not in the pool are predicted too, by a fresh selector that is shown all outcomes so far: that
        takes as long as learning them did. Raises UsageError where the selector predicts nothing, or has
        ``embeddings`` of your own and none of these texts.
        """
        num_pool = len(self._texts)
        if prompts is None:
            return self._prediction(self._selector, np.arange(num_pool))
        given: Any = prompts
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            raise UsageError(f"predict: prompts: expected a list of rows or of texts, got {given!r:.80}; put it in one")
        if isinstance(given, np.ndarray) or all(isinstance(prompt, (int, np.integer)) for prompt in given):
            return self._prediction(self._selector, as_rows(given, num_pool, "predict: prompts"))
        texts = [prompt_text(prompt) for prompt in given]
        new = tuple(dict.fromkeys(text for text in texts if text not in self._row_of))
        row_of = self._row_of | {text: num_pool + place for place, text in enumerate(new)}
        rows = np.array([row_of[text] for text in texts], dtype=np.int64)
        return self._prediction(self._extended(new) if new else self._selector, rows)

    def expected_lengths(self, rows: ArrayLike | None = None) -> FloatArray:
        """[K] float64 tokens that a response to each row is expected to have; None: every prompt of the pool.

        NaN before the first ``update`` with ``response_lengths``. Raises UsageError where the selector keeps none.
        """
        if not isinstance(self._selector, PredictsLengths):
            raise UsageError(f"expected_lengths: selector {self._config.selector!r} keeps no lengths; use gps_fused")
        num_pool = len(self._texts)
        where = np.arange(num_pool) if rows is None else as_rows(rows, num_pool, "expected_lengths: rows")
        lengths = self._selector.expected_lengths(where)
        return lengths if len(lengths) else np.full(len(where), np.nan)

    def _prediction(self, selector: PromptSelector, rows: IntArray) -> Prediction:
        step = self.num_updates + 1
        posterior = selector.predict(rows, step)
        if posterior is None:
            raise UsageError(f"predict: selector {self._config.selector!r} predicts nothing; use gps_fused")
        useful = np.zeros(len(rows))
        if self._group_size > 1:
            useful = posterior.expected_useful([self._group_size], generator(self._seed, "library/useful", step))[0]
        return Prediction(
            mean=np.asarray(posterior.mean(), dtype=np.float64),
            std=np.sqrt(np.asarray(posterior.variance(), dtype=np.float64)),
            useful=useful,
            seen=selector.seen(rows),
            posterior=posterior,
        )

    def _extended(self, new: tuple[str, ...]) -> PromptSelector:
        """A selector like this one that also knows texts outside the pool, with the same outcomes learnt."""
        if self._own_embeddings is not None:
            raise UsageError(
                f"predict: {len(new)} texts are not in the pool, and have no embeddings; give rows instead"
            )
        texts = (*self._texts, *new)
        features = self._config.features
        table = _table(texts, embed_texts(texts, features), stored_states(features, texts), len(self._texts))
        selector = build_selector(self._config, table, self._group_size, self._seed)
        for batch in self._history.batches:
            selector.observe(batch)
        return selector

    def metrics(self) -> dict[str, float]:
        """Diagnostics of the last ``update``, for a log: distinct prompts so far, the predictor's own."""
        return self._selector.metrics()

    def state(self) -> State:
        """All that later choices depend on but prompts and embeddings, as named numeric arrays for a checkpoint of your
        own. Costs a few numbers per prompt, and three per group learnt from."""
        return {
            **nested("selector", self._selector.state()),
            **nested("history", self._history.state()),
            "in_flight": self.in_flight,
            "num_choices": np.array(self._num_choices),
            "prompts": np.frombuffer(self._fingerprint, dtype=np.uint8),
            "made_with": np.frombuffer(json.dumps(self._made_with()).encode(), dtype=np.uint8),
        }

    def load_state(self, state: State) -> None:
        """Go on from a ``state``. Raises CheckpointError where it is that of other prompts or settings."""
        made_with = _made_with(state)
        if made_with != self._made_with():
            raise CheckpointError(
                f"selector state: it was made with {made_with}, this selector with {self._made_with()}; make the "
                "selector with the same arguments"
            )
        if state["prompts"].tobytes() != self._fingerprint:
            raise CheckpointError(
                f"selector state: it belongs to other prompts or embeddings than these {len(self._texts)}; give the "
                "same ones in the same order"
            )
        missing = sorted({"in_flight", "num_choices"} - state.keys())
        if missing:
            raise CheckpointError(f"selector state: it has no {', '.join(missing)}; load all that state() gave")
        self._selector.load_state(below("selector", state))
        self._history.load_state(below("history", state))
        self._in_flight = set(state["in_flight"].tolist())
        self._num_choices = int(state["num_choices"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``state`` to one file (safetensors, no pickle). One that was there is replaced whole or not at all."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        save_state_file(self.state(), partial)
        partial.replace(file)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], prompts: Sequence[PromptLike], *, embeddings: ArrayLike | None = None
    ) -> Selector:
        """The selector that ``save`` wrote, with its settings; ``prompts`` (and ``embeddings``) as they were then.

        Its later choices are those of the one that was saved. Raises CheckpointError where the file is not whole, or
        the prompts are others.
        """
        state = load_state_file(Path(path))
        made_with = _made_with(state)
        settings = dict(made_with["settings"])
        selector = cls(
            prompts,
            settings.pop("selector"),
            group_size=made_with["group_size"],
            seed=made_with["seed"],
            embeddings=embeddings,
            **settings,
        )
        selector.load_state(state)
        return selector

    def _made_with(self) -> dict[str, Any]:
        settings = self._config.model_dump(mode="json", exclude_unset=True)
        # Where the features are kept does not change them.
        settings["features"].pop("cache_directory")
        return {"group_size": self._group_size, "seed": self._seed, "settings": settings}


def _config(selector: str, settings: Mapping[str, Any]) -> SelectionConfig:
    for name in settings:
        if name in _NO_SETTINGS:
            raise UsageError(f"{name}: no setting of a library's selector; {_NO_SETTINGS[name]}")
    if selector == "ds":
        raise UsageError("selector: 'ds' is uniform selection and a filter of your trainer's; use 'uniform'")
    features = settings.get("features", {})
    if not isinstance(features, Mapping):
        raise UsageError(f"features: expected a mapping of keys of selection.features, got {features!r:.80}")
    # A library leaves nothing in the folder it happens to run in.
    tree = {**settings, "selector": selector, "features": {"cache_directory": None, **dict(features)}}
    config = parse_config(SelectionConfig, tree)
    if needs_true_rates(config):
        raise UsageError(f"selector: {selector!r} must be told success rates before it chooses; use gps_fused")
    return config


def _texts(prompts: Sequence[PromptLike]) -> tuple[str, ...]:
    if isinstance(prompts, (str, bytes)):
        raise UsageError("prompts: expected a sequence of texts or chats, got one text")
    if isinstance(prompts, Mapping):
        raise UsageError("prompts: expected a sequence of texts or chats, got a mapping; give its values as a list")
    texts = tuple(prompt_text(prompt) for prompt in prompts)
    if not texts:
        raise UsageError("prompts: expected at least one, got none")
    return texts


def _table(
    texts: tuple[str, ...], embeddings: FloatArray, states: FloatArray | None, num_pool: int | None = None
) -> PromptTable:
    return PromptTable(
        prompt_ids=tuple(map(str, range(len(texts)))),
        texts=texts,
        embeddings=embeddings,
        num_pool=num_pool or len(texts),
        states=states,
    )


def _unit_rows(embeddings: ArrayLike, num_prompts: int) -> FloatArray:
    try:
        values = np.asarray(embeddings, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"embeddings: expected finite numbers [{num_prompts}, E], got {one_line(error)}") from error
    if values.ndim != 2 or len(values) != num_prompts or not values.shape[1] or not np.isfinite(values).all():
        raise UsageError(f"embeddings: expected finite numbers [{num_prompts}, E], got shape {values.shape}")
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit: FloatArray = np.divide(values, norm, out=np.zeros_like(values), where=norm > 0).astype(np.float32)
    return unit


def _made_with(state: State) -> dict[str, Any]:
    try:
        made_with: dict[str, Any] = json.loads(state["made_with"].tobytes())
    except (KeyError, ValueError) as error:
        raise CheckpointError("selector state: it was not written by gps_ray.Selector; use its own save") from error
    return made_with
