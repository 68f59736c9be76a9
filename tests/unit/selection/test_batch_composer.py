"""The pruned greedy against the definition, pair by pair in float64."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.selection import batch_composer
from gps_ray.selection.batch_composer import TIE, compose, compose_batch


def _naive(scores, embeddings, num_prompts, within, recent_weight=0.0, recent=(), members=()) -> list[int]:
    """The formula read literally; ties within TIE go to the lowest index."""
    vectors = embeddings.astype(np.float64)
    batch = [np.asarray(v, np.float64) for v in members]
    picks: list[int] = []
    while len(picks) < min(num_prompts, len(scores)):
        values = {}
        for i in set(range(len(scores))) - set(picks):
            value = float(scores[i])
            if batch:
                value += within * float(np.mean([1 - vectors[i] @ v for v in batch]))
            if len(recent):
                value += recent_weight * float(np.mean([1 - vectors[i] @ np.asarray(v, np.float64) for v in recent]))
            values[i] = value
        best = max(values.values())
        picks.append(min(i for i, value in values.items() if value >= best - TIE))
        batch.append(vectors[picks[-1]])
    return picks


def _unit(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)


def _pool(kind: str, num_rows: int, seed: int) -> FloatArray:
    rng = generator(seed, "test/pool")
    centres = rng.normal(size=(5, 12))
    rows = centres[rng.integers(5, size=num_rows)]
    if kind == "clustered":
        rows = rows + 0.3 * rng.normal(size=rows.shape)
    if kind == "with zero rows":
        rows = rows + 0.3 * rng.normal(size=rows.shape)
        rows[::3] = 0
    return _unit(rows)  # "identical": every row is one of five


def _scores(kind: str, num_rows: int, seed: int) -> FloatArray:
    rng = generator(seed, "test/scores")
    means = {
        "uniform": rng.uniform(size=num_rows),
        "near half": 0.5 + 0.01 * rng.normal(size=num_rows),
        "grid": rng.integers(0, 5, size=num_rows) / 4,
        "constant": np.full(num_rows, 0.3),
    }[kind]
    return -((means - 0.5) ** 2)


@pytest.fixture
def tiny_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make a pool of 150 go through gathering, full passes and a block that overflows."""
    monkeypatch.setattr(batch_composer, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(batch_composer, "_GATHER_ROWS", 6)
    monkeypatch.setattr(batch_composer, "_MAX_BLOCK_ROWS", 12)
    monkeypatch.setattr(batch_composer, "_FEW_ROWS", 0)


@pytest.mark.usefixtures("tiny_block")
@pytest.mark.parametrize("pool", ["clustered", "identical", "with zero rows"])
@pytest.mark.parametrize("scores", ["uniform", "near half", "grid", "constant"])
@pytest.mark.parametrize("weight", [0.04, 0.4])
def test_pruned_picks_are_the_naive_picks(pool: str, scores: str, weight: float) -> None:
    embeddings, values = _pool(pool, 150, 0), _scores(scores, 150, 1)
    recent, members = _pool(pool, 9, 2), _pool(pool, 3, 3)
    composed = compose(
        values, embeddings, 14, diversity_within=weight, diversity_recent=weight / 2, recent=recent, members=members
    )
    assert composed.picks.tolist() == _naive(values, embeddings, 14, weight, weight / 2, recent, members)
    assert composed.num_full_passes >= 1


@pytest.mark.usefixtures("tiny_block")
def test_scores_that_differ_need_few_passes() -> None:
    """The bound does prune: on scores that differ a lot most picks need no pass."""
    composed = compose(_scores("uniform", 150, 1), _pool("clustered", 150, 0), 30, diversity_within=0.01)
    assert composed.num_full_passes <= 10


def test_few_candidates_are_simply_looked_at() -> None:
    embeddings, values, recent = _pool("clustered", 150, 0), _scores("near half", 150, 1), _pool("clustered", 9, 2)
    composed = compose(values, embeddings, 14, diversity_within=0.4, diversity_recent=0.2, recent=recent)
    assert composed.picks.tolist() == _naive(values, embeddings, 14, 0.4, 0.2, recent)
    assert (composed.num_full_passes, composed.num_rows_read) == (0, 150)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3)])
def test_ablations_of_either_term(weights: tuple[float, float]) -> None:
    embeddings, values, recent = _pool("clustered", 60, 4), _scores("grid", 60, 5), _pool("clustered", 8, 6)
    picks = compose_batch(
        values, embeddings, 20, diversity_within=weights[0], diversity_recent=weights[1], recent=recent
    )
    assert picks.tolist() == _naive(values, embeddings, 20, *weights, recent)


def test_greedy_reaches_half_of_the_best_batch() -> None:
    """Exhaustive search over all batches of 4 of 12 for dispersion alone (the 2-approximation of max-sum)."""
    for seed in range(5):
        embeddings = _unit(generator(seed, "test/small").normal(size=(12, 3)))

        def dispersion(batch, vectors=embeddings):
            return sum(1 - float(vectors[i] @ vectors[j]) for i, j in combinations(batch, 2))

        best = max(dispersion(batch) for batch in combinations(range(12), 4))
        picks = compose_batch(np.zeros(12), embeddings, 4, diversity_within=1.0)
        assert dispersion(picks.tolist()) >= best / 2


def test_only_available_rows_are_picked_and_only_as_many() -> None:
    embeddings, values = _pool("clustered", 40, 0), _scores("uniform", 40, 1)
    available = np.zeros(40, dtype=np.bool_)
    available[[3, 7, 20, 21, 33]] = True
    inside = np.flatnonzero(available)
    expected = inside[_naive(values[inside], embeddings[inside], 3, 0.2)]
    picked = compose_batch(values, embeddings, 3, diversity_within=0.2, available=available)
    assert picked.tolist() == expected.tolist()
    for weight in (0.0, 0.2):
        every = compose_batch(values, embeddings, 9, diversity_within=weight, available=available)
        assert sorted(every.tolist()) == inside.tolist()
    assert available.sum() == 5
    assert len(compose_batch(values[:0], embeddings[:0], 3, diversity_within=0.2)) == 0


def test_ties_within_tolerance_go_to_the_lowest_index() -> None:
    scores = np.array([0.0, 1.0 - 5e-10, 1.0, 1.0 - 5e-9])
    assert compose_batch(scores, np.zeros((4, 2), np.float32), 4, diversity_within=0.4).tolist() == [1, 2, 3, 0]
    assert compose_batch(scores, np.eye(4, dtype=np.float32), 1, diversity_within=0.4).tolist() == [1]


def test_opposite_vectors_bring_the_running_vector_back_to_zero() -> None:
    embeddings = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    scores = np.array([0.3, 0.1, 0.2, 0.0])
    picks = compose_batch(scores, embeddings, 4, diversity_within=0.5)
    assert picks.tolist() == _naive(scores, embeddings, 4, 0.5) == [0, 1, 2, 3]


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        compose_batch(np.array([0.1, np.nan]), np.eye(2, dtype=np.float32), 1, diversity_within=0.1)
