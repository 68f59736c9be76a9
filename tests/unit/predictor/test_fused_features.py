"""The feature map against the kernel that it approximates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import FusedConfig
from gps_ray.predictor import fused_features
from gps_ray.predictor.fused_features import TextFeatures, build_text_features
from gps_ray.predictor.interface import PromptTable

VERBS = ("add", "double", "subtract", "compare", "square")


def make_table(num_prompts: int = 40, num_pool: int | None = None) -> PromptTable:
    rng = generator(0, "texts")
    texts = [
        f"{VERBS[rng.integers(5)]} the numbers {' and '.join(str(n) for n in rng.integers(1, 99, rng.integers(2, 6)))}"
        for _ in range(num_prompts)
    ]
    embeddings = rng.standard_normal((num_prompts, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return PromptTable(
        prompt_ids=tuple(f"p{i}" for i in range(num_prompts)),
        texts=tuple(texts),
        embeddings=embeddings.astype(np.float32),
        num_pool=num_prompts if num_pool is None else num_pool,
    )


def _only(**variances: float) -> dict[str, Any]:
    off = {f"{name}_variance": 0.0 for name in ("embedding", "words", "notation", "length")}
    return off | {f"{name}_variance": value for name, value in variances.items()}


def _rbf(values: FloatArray) -> FloatArray:
    squared = ((values[:, None] - values[None]) ** 2).sum(axis=-1)
    kernel: FloatArray = np.exp(-squared / (2 * np.median(squared[np.triu_indices(len(values), 1)])))
    return kernel


def test_all_landmarks_and_all_features_give_the_kernel_itself() -> None:
    table = make_table()
    features = build_text_features(table, FusedConfig(**_only(embedding=0.7), num_features=40))
    columns = features.columns.astype(np.float64)
    np.testing.assert_allclose(columns @ columns.T, 0.7 * _rbf(table.embeddings.astype(np.float64)), atol=1e-4)
    np.testing.assert_allclose(features.residual_variance, 0, atol=1e-4)


def test_what_few_features_leave_out_is_the_residual() -> None:
    table = make_table()
    features = build_text_features(table, FusedConfig(**_only(embedding=0.7, length=0.3), num_features=5))
    assert features.columns.shape == (40, 5)
    np.testing.assert_allclose((features.columns**2).sum(axis=1) + features.residual_variance, 1.0, atol=1e-4)
    assert features.residual_variance.mean() > 0.05
    # In order of importance.
    assert (np.diff((features.columns**2).sum(axis=0)) < 0).all()


def test_prompts_with_the_same_words_are_alike() -> None:
    table = make_table()
    columns = build_text_features(table, FusedConfig(**_only(words=1.0), num_features=40)).columns
    alike = columns @ columns.T
    same_verb = np.array([[a.split()[0] == b.split()[0] for a in table.texts] for b in table.texts])
    off_diagonal = ~np.eye(40, dtype=bool)
    assert alike[same_verb & off_diagonal].mean() > 0.1
    assert alike[~same_verb].mean() < 0


def test_many_words_take_the_sparse_road_to_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FusedConfig(**_only(words=1.0), num_features=40)
    dense = build_text_features(make_table(), config)
    monkeypatch.setattr(fused_features, "_MAX_DENSE_COLUMNS", 0)
    sparse = build_text_features(make_table(), config)
    np.testing.assert_allclose(dense.columns @ dense.columns.T, sparse.columns @ sparse.columns.T, atol=1e-5)
    np.testing.assert_allclose(dense.residual_variance, sparse.residual_variance, atol=1e-5)


def test_prompts_outside_the_pool_are_mapped_and_change_nothing_for_the_pool() -> None:
    """The words' frequencies, bandwidths and landmarks come from the pool alone."""
    config = FusedConfig(num_features=10)
    pool_only = make_table(30)
    table = make_table(40, num_pool=30)
    assert table.texts[:30] == pool_only.texts
    shared = PromptTable(
        prompt_ids=table.prompt_ids[:30], texts=table.texts[:30], embeddings=table.embeddings[:30], num_pool=30
    )
    alone, beside = build_text_features(shared, config), build_text_features(table, config)
    np.testing.assert_allclose(beside.columns[:30], alone.columns, atol=1e-5)
    np.testing.assert_allclose(beside.log_length[:30], alone.log_length, atol=1e-12)
    assert np.isfinite(beside.columns).all()
    assert np.abs(beside.columns[30:]).max() > 0.1


def test_no_kernel_and_equal_texts_are_possible() -> None:
    table = make_table()
    nothing = build_text_features(table, FusedConfig(**_only()))
    assert nothing.columns.shape == (40, 0)
    same = PromptTable(
        prompt_ids=table.prompt_ids, texts=("same",) * 40, embeddings=np.zeros((40, 8), np.float32), num_pool=40
    )
    features = build_text_features(same, FusedConfig())
    assert np.isfinite(features.columns).all()
    assert not features.log_length.any()


def one_column(table: PromptTable, config: FusedConfig) -> TextFeatures:
    column = np.arange(len(table.texts), dtype=np.float32)[:, None]
    return TextFeatures(columns=column, residual_variance=column[:, 0], log_length=column[:, 0])


def too_few_rows(table: PromptTable, config: FusedConfig) -> TextFeatures:
    empty = np.zeros((3, 1), dtype=np.float32)
    return TextFeatures(columns=empty, residual_variance=empty[:, 0], log_length=empty[:, 0])


def test_a_map_of_the_users_own() -> None:
    features = build_text_features(make_table(), FusedConfig(feature_map=f"{__name__}:one_column"))
    assert features.columns.shape == (40, 1)
    with pytest.raises(ConfigError, match=r"should return 40 rows, got 3; change selection\.fused\.feature_map"):
        build_text_features(make_table(), FusedConfig(feature_map=f"{__name__}:too_few_rows"))
