"""The selector of parts, with a predictor whose posteriors are set by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import BoolArray, FloatArray, IntArray, SelectionRequest, SlotKind, State
from gps_ray.base.useful import useful_probability
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.selection.acquisition import nearest_half
from gps_ray.selection.batch_composer import compose_batch
from gps_ray.selection.selector import PredictiveSelector, random_share

NUM_POOL, GROUP_SIZE = 120, 4


def _embeddings(num_rows: int) -> FloatArray:
    rows = generator(0, "test/embeddings").normal(size=(num_rows, 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# The last five rows are probes.
TABLE = PromptTable(
    prompt_ids=tuple(f"p{i}" for i in range(NUM_POOL + 5)),
    texts=("",) * (NUM_POOL + 5),
    embeddings=_embeddings(NUM_POOL + 5),
    num_pool=NUM_POOL,
)
RATES = generator(0, "test/rates").uniform(size=NUM_POOL + 5)


class FixedPredictor:
    def __init__(self) -> None:
        self.num_observed = 0

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> PointPosterior:
        return PointPosterior(RATES[rows])

    def observe(self, batch: OutcomeBatch) -> None:
        self.num_observed += len(batch.rows)

    def seen(self, rows: IntArray) -> BoolArray:
        return rows < 3

    def metrics(self) -> dict[str, float]:
        return {"loss": 2.0}

    def state(self) -> State:
        return {"num_observed": np.array(self.num_observed)}

    def load_state(self, state: State) -> None:
        self.num_observed = int(state["num_observed"])


class PretrainedPredictor(FixedPredictor):
    def informed(self) -> bool:
        return True


def _selector(predictor: FixedPredictor | None = None, **settings: object) -> PredictiveSelector:
    defaults = {"num_prompts": 8, "candidate_multiple": None, "diversity_within": 0.1, "diversity_recent": 0.2}
    config = SelectionConfig(**{**defaults, **settings})
    return PredictiveSelector(predictor or FixedPredictor(), nearest_half, TABLE, config, GROUP_SIZE, 0)


def _request(step: int = 5, round_: int = 0, num_prompts: int = 8, excluded: frozenset[str] = frozenset()):
    return SelectionRequest(step=step, round=round_, num_prompts=num_prompts, group_size=GROUP_SIZE, excluded=excluded)


def _batch(step: int, rows: list[int]) -> OutcomeBatch:
    return OutcomeBatch(
        step=step,
        rows=np.array(rows, np.int64),
        num_right=np.ones(len(rows), np.int32),
        num_tried=np.full(len(rows), GROUP_SIZE, np.int32),
        mean_response_length=np.ones(len(rows), np.float32),
    )


def _rows(prompt_ids: tuple[str, ...]) -> list[int]:
    return [int(prompt_id[1:]) for prompt_id in prompt_ids]


def test_the_first_batch_is_uniform_unless_the_predictor_knows_something() -> None:
    selection = _selector().select(_request(step=0))
    assert np.isnan(selection.predicted_mean).all()
    assert (selection.slot_kind == SlotKind.RANDOM).all()
    assert len(set(selection.prompt_ids)) == 8
    drawn = {p for step in range(60) for p in _selector().select(_request(step=step)).prompt_ids}
    assert len(drawn) > 0.9 * NUM_POOL
    assert drawn <= set(TABLE.prompt_ids[:NUM_POOL])
    informed = _selector(PretrainedPredictor()).select(_request(step=0))
    assert (informed.slot_kind == SlotKind.CHOSEN).all()


def test_picks_are_predict_then_acquire_then_compose() -> None:
    selector = _selector(num_recent_batches=2)
    for step, rows in enumerate([[1, 2], [3], [4, 5, 6]]):
        selector.observe(_batch(step, rows))
    selection = selector.select(_request())
    expected = compose_batch(
        -((RATES[:NUM_POOL] - 0.5) ** 2),
        TABLE.embeddings[:NUM_POOL],
        8,
        diversity_within=0.1,
        diversity_recent=0.2,
        recent=TABLE.embeddings[[3, 4, 5, 6]],
    )
    assert _rows(selection.prompt_ids) == expected.tolist()
    np.testing.assert_array_equal(selection.predicted_mean, RATES[expected])
    assert selection.predicted_std.tolist() == [0.0] * 8
    assert selection.num_candidates == NUM_POOL
    without_memory = _selector(num_recent_batches=0)
    without_memory.observe(_batch(0, [1]))
    assert without_memory.select(_request()).prompt_ids != selection.prompt_ids


class TextReader(FixedPredictor):
    def predict_from_text(self, rows: IntArray, step: int) -> PointPosterior:
        return PointPosterior(RATES[rows] / 2)


def test_a_selection_says_why_without_that_changing_it() -> None:
    plain, reader = (_selector(predictor, random_share=0.25) for predictor in (FixedPredictor(), TextReader()))
    for selector in (plain, reader):
        selector.observe(_batch(0, [1]))
    selection = reader.select(_request())
    rates = RATES[_rows(selection.prompt_ids)]
    np.testing.assert_allclose(selection.expected_useful, useful_probability(rates, GROUP_SIZE))
    np.testing.assert_array_equal(selection.text_mean, rates / 2)
    assert plain.select(_request()).prompt_ids == selection.prompt_ids
    assert plain.select(_request()).text_mean is None
    assert _selector().select(_request(step=0)).expected_useful is None  # the first batch is not chosen by anything


def test_candidates_are_a_random_multiple_keyed_by_step_and_round() -> None:
    selector = _selector(candidate_multiple=3, diversity_within=0, diversity_recent=0)
    selector.observe(_batch(0, [1]))
    selections = [selector.select(_request(step, round_)) for step in range(20) for round_ in range(2)]
    assert {s.num_candidates for s in selections} == {24}
    assert len({frozenset(s.prompt_ids) for s in selections}) == 40
    best = np.argsort(np.abs(RATES[:NUM_POOL] - 0.5))
    # The best 8 of 24 random ones of 120: never far down, never only the best 8.
    ranks = [np.flatnonzero(best == row)[0] for s in selections for row in _rows(s.prompt_ids)]
    assert 10 < np.mean(ranks) < 35


def test_random_slots_are_an_even_look_at_the_pool() -> None:
    selector = _selector(random_share=0.25, candidate_multiple=2)
    selector.observe(_batch(0, [1]))
    random_rows: list[int] = []
    for step in range(1, 201):
        selection = selector.select(_request(step))
        rows = np.array(_rows(selection.prompt_ids))
        assert len(set(rows)) == 8
        assert selection.slot_kind.tolist() == [SlotKind.RANDOM] * 2 + [SlotKind.CHOSEN] * 6
        np.testing.assert_array_equal(selection.predicted_mean, RATES[rows])
        random_rows += rows[selection.slot_kind == SlotKind.RANDOM].tolist()
    assert RATES[random_rows].mean() == pytest.approx(RATES[:NUM_POOL].mean(), abs=0.05)
    assert len(set(random_rows)) > 0.9 * NUM_POOL


def test_excluded_prompts_and_probes_are_never_picked_and_a_small_pool_gives_fewer() -> None:
    for share in (0.0, 0.5):
        selector = _selector(random_share=share)
        selector.observe(_batch(0, [1]))
        excluded = frozenset(TABLE.prompt_ids[: NUM_POOL - 3])
        left = selector.select(_request(excluded=excluded))
        assert sorted(_rows(left.prompt_ids)) == [NUM_POOL - 3, NUM_POOL - 2, NUM_POOL - 1]
        assert selector.select(_request(excluded=frozenset(TABLE.prompt_ids))).prompt_ids == ()


def test_metrics_count_reuse_beside_the_predictors_own() -> None:
    selector = _selector()
    selector.observe(_batch(0, [1, 2]))
    selector.observe(_batch(1, [2, 3]))
    metrics = selector.metrics()
    assert metrics["num_unique_prompts"] == 3
    assert metrics["groups_per_unique_prompt"] == pytest.approx(4 / 3)
    assert metrics["share_seen_before"] == 0.5
    assert metrics["predictor/loss"] == 2.0
    assert selector.seen(np.array([0, 1, 4])).tolist() == [True, True, False]


def test_state_covers_predictor_memory_and_reuse() -> None:
    whole, resumed = _selector(candidate_multiple=3), _selector(candidate_multiple=3)
    for step, rows in enumerate([[1, 2], [2, 3, 4], [], [5]]):
        whole.observe(_batch(step, rows))
    resumed.load_state(whole.state())
    assert resumed.metrics() == whole.metrics()
    assert {key: array.tolist() for key, array in resumed.state().items()} == {
        key: array.tolist() for key, array in whole.state().items()
    }
    assert resumed.state()["predictor/num_observed"] == 6
    for step in (4, 5):
        assert resumed.select(_request(step)).prompt_ids == whole.select(_request(step)).prompt_ids


def test_the_first_steps_are_random_and_give_way() -> None:
    config = SelectionConfig(random_share=0.25, warm_up_steps=4)
    assert [random_share(config, step) for step in (0, 1, 2, 3, 4, 5, 9)] == [1, 1, 0.75, 0.5, 0.25, 0.25, 0.25]
    assert random_share(SelectionConfig(random_share=0.25), 1) == 0.25
    selector = _selector(random_share=0.25, warm_up_steps=4)
    selector.observe(_batch(0, [1]))
    kinds = [selector.select(_request(step)).slot_kind for step in (1, 3, 9)]
    shares = [float((kind == SlotKind.RANDOM).mean()) for kind in kinds]
    assert shares == pytest.approx([1.0, 0.5, 0.25], abs=0.1)
