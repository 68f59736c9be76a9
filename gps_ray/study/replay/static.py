"""Predictors on recorded success rates without time: learn from some prompts, predict others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.config import FeaturesConfig, FusedConfig, SelectionConfig
from gps_ray.predictor.calibration import predictor_quality
from gps_ray.predictor.fused import FusedPredictor
from gps_ray.predictor.interface import Posterior, PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.prompt_states import stored_states
from gps_ray.predictor.recorded import RecordedOutcomes, held_out, normalised_text, teach, without_overlap
from gps_ray.predictor.text_prior import fit_text_prior
from gps_ray.selection.registry import build_predictor, resolve_selection

__all__ = ["StaticData", "static_data", "static_figures"]

_GROUP_SIZE = 8  # of the groups whose usefulness is predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticData:
    """Outcomes to learn from and held-out ones, each with the embeddings [N, E] and states [N, F] of its prompts."""

    learn: RecordedOutcomes
    test: RecordedOutcomes
    learn_embeddings: FloatArray
    test_embeddings: FloatArray
    learn_states: FloatArray | None
    test_states: FloatArray | None


def static_data(recorded: RecordedOutcomes, test: RecordedOutcomes | None, features: FeaturesConfig) -> StaticData:
    """Without ``test`` a fifth of the prompts is held out, by a hash of the normalised text; with it, prompts that
    stand in both are only tested. Raises DataError where one side is empty."""
    if test is None:
        apart = held_out([normalised_text(prompt) for prompt in recorded.prompts], "replay/held_out")
        learn, test = recorded.take(np.flatnonzero(~apart)), recorded.take(np.flatnonzero(apart))
    else:
        learn = without_overlap(recorded, test.prompts)
    if not learn.prompts or not test.prompts:
        raise DataError(
            f"--static: {len(learn.prompts)} prompts to learn from and {len(test.prompts)} held out; give more prompts"
        )
    return StaticData(
        learn=learn,
        test=test,
        learn_embeddings=embed_texts(learn.prompts, features),
        test_embeddings=embed_texts(test.prompts, features),
        learn_states=stored_states(features, learn.prompts),
        test_states=stored_states(features, test.prompts),
    )


def static_figures(data: StaticData, num_labels: int, config: SelectionConfig, seed: int) -> dict[str, float]:
    """spearman, mae, brier, ece, useful_auc and noise_ceiling on the held-out prompts, from ``num_labels``
    prompts drawn by the seed (all where there are fewer); nothing for a selector without a predictor.

    A predictor that takes a text prior is pre-trained on the labels; others observe them.
    """
    resolved = resolve_selection(config)
    if resolved.predictor is None:
        return {}
    rows = generator(seed, "replay/labels").permutation(len(data.learn.prompts))[:num_labels]
    if resolved.predictor == "fused":
        posterior = _pre_trained(data, rows, resolved.fused)
    else:
        posterior = _observed(data, rows, resolved, seed)
    mean = np.asarray(posterior.mean(), dtype=np.float64)
    return predictor_quality(mean, data.test.num_right, data.test.num_tried, _GROUP_SIZE)


def _pre_trained(data: StaticData, rows: IntArray, config: FusedConfig) -> Posterior:
    labels, states = data.learn.take(rows), None if data.learn_states is None else data.learn_states[rows]
    prior = fit_text_prior(labels.prompts, data.learn_embeddings[rows], labels.num_right, labels.num_tried, states)
    logits = prior.logits(data.test.prompts, data.test_embeddings, data.test_states)
    table = _table(data.test.prompts, data.test_embeddings, data.test_states, len(logits))
    return FusedPredictor(table, config, logits).predict(np.arange(len(logits)), 0)


def _observed(data: StaticData, rows: IntArray, config: SelectionConfig, seed: int) -> Posterior:
    labels = data.learn.take(rows)
    texts = (*labels.prompts, *data.test.prompts)
    embeddings = np.concatenate([data.learn_embeddings[rows], data.test_embeddings])
    states = None
    if data.learn_states is not None and data.test_states is not None:
        states = np.concatenate([data.learn_states[rows], data.test_states])
    table = _table(texts, embeddings, states, len(labels.prompts))
    predictor = build_predictor(config, table, _GROUP_SIZE, seed)
    num_steps = teach(predictor, labels, np.arange(len(labels.prompts)))
    return predictor.predict(np.arange(len(labels.prompts), len(texts)), num_steps)


def _table(texts: Sequence[str], embeddings: FloatArray, states: FloatArray | None, num_pool: int) -> PromptTable:
    ids = tuple(f"row-{row}" for row in range(len(texts)))
    return PromptTable(prompt_ids=ids, texts=tuple(texts), embeddings=embeddings, num_pool=num_pool, states=states)
