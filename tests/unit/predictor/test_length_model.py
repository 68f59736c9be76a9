"""Response lengths predicted, of families of texts whose answers differ: rank, spread, change and edges."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.config import FusedConfig
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.fused import FusedPredictor
from gps_ray.predictor.interface import OutcomeBatch, PredictsLengths, PromptTable
from gps_ray.selection.lengths import ResponseLengths

NUM_PROMPTS, NUM_POOL, GROUP_SIZE = 320, 280, 8
CONFIG = FusedConfig(num_features=64)
# What each family asks for, and the tokens that its answers take in the middle.
FAMILIES = {
    "Is {} a prime number? Answer yes or no.": 4.0,
    "Add {} and {} and write every step.": 40.0,
    "Tell a story of {} sheep and {} wolves.": 300.0,
    "List the first {} multiples of {}.": 90.0,
}


def make_table(num_prompts: int = NUM_PROMPTS, num_pool: int = NUM_POOL) -> PromptTable:
    """The families in turn; embeddings carry nothing."""
    rng = generator(0, "lengths/texts")
    forms = list(FAMILIES)
    texts = tuple(forms[row % len(forms)].format(*rng.integers(2, 999, 2)) for row in range(num_prompts))
    embeddings = np.zeros((num_prompts, 4), dtype=np.float32)
    return PromptTable(prompt_ids=texts, texts=texts, embeddings=embeddings, num_pool=num_pool)


def true_logs(num_prompts: int = NUM_PROMPTS, own_std: float = 0.3) -> FloatArray:
    """[N]: log of the middle length: the family's, and an effect of each prompt's own that no text shows."""
    family = np.log(list(FAMILIES.values()))[np.arange(num_prompts) % len(FAMILIES)]
    logs: FloatArray = family + own_std * generator(0, "lengths/own").standard_normal(num_prompts)
    return logs


def batch(step: int, rows: IntArray, lengths: FloatArray, num_tried: int = GROUP_SIZE) -> OutcomeBatch:
    return OutcomeBatch(
        step=step,
        rows=rows,
        num_right=np.full(len(rows), num_tried // 2, np.int32),
        num_tried=np.full(len(rows), num_tried, np.int32),
        mean_response_length=lengths.astype(np.float32),
    )


def drawn(step: int, rows: IntArray, logs: FloatArray, spread: float = 0.5, cap: float = np.inf) -> OutcomeBatch:
    """Mean lengths of groups: lognormal around exp(logs), cut off at ``cap``."""
    noise = generator(1, "lengths/draws", step).standard_normal((len(rows), GROUP_SIZE))
    return batch(step, rows, np.minimum(np.exp(logs[rows, None] + spread * noise), cap).mean(axis=1))


def random_rows(step: int, num_rows: int = 16, num_pool: int = NUM_POOL) -> IntArray:
    return generator(2, "lengths/rows", step).choice(num_pool, size=num_rows, replace=False)


def trained(num_steps: int = 10, own_std: float = 0.3, spread: float = 0.5) -> FusedPredictor:
    predictor = FusedPredictor(make_table(), CONFIG)
    for step in range(num_steps):
        predictor.observe(drawn(step, random_rows(step), true_logs(own_std=own_std), spread))
    return predictor


def test_unseen_prompts_are_ranked_by_what_their_family_takes() -> None:
    predictor, everything = trained(), np.arange(NUM_PROMPTS)
    expected, truth = predictor.expected_lengths(everything), true_logs()
    unseen = ~predictor.seen(everything)
    assert unseen.sum() > 150
    assert rank_correlation(expected[unseen], truth[unseen]) > 0.85
    # In tokens, not only in rank: the mean of a lognormal lies e^(spread^2 / 2) above its middle.
    ratio = expected[unseen] / np.exp(truth[unseen] + 0.5**2 / 2)
    assert 0.8 < np.exp(np.log(ratio).mean()) < 1.25


def test_a_record_adds_what_the_text_does_not_say() -> None:
    predictor = trained(own_std=0.8, spread=0.2)
    rows = np.flatnonzero(predictor.seen(np.arange(NUM_PROMPTS)))
    within = true_logs(own_std=0.8) - true_logs(own_std=0.0)
    error = np.log(predictor.expected_lengths(rows)) - true_logs(own_std=0.0)[rows]
    assert rank_correlation(error, within[rows]) > 0.9


@pytest.mark.parametrize(("own_std", "spread"), [(0.02, 0.02), (0.3, 0.5), (1.0, 0.8)])
def test_its_intervals_hold_about_what_they_say_whatever_the_spread(own_std: float, spread: float) -> None:
    """80 % intervals of the middle length of prompts never seen, where lengths are nearly fixed and where they vary
    tenfold within a family."""
    predictor = trained(12, own_std, spread)
    rows = np.flatnonzero(~predictor.seen(np.arange(NUM_PROMPTS)))
    posterior = predictor.predict_lengths(rows)
    truth = np.log1p(np.exp(true_logs(own_std=own_std)[rows] + spread**2 / 2))
    inside = np.abs(truth - posterior.mean) < 1.2816 * np.sqrt(posterior.variance)
    assert 0.6 < inside.mean() < 0.98


def test_it_follows_a_policy_whose_answers_get_longer() -> None:
    predictor, logs = FusedPredictor(make_table(), CONFIG), true_logs()
    for step in range(40):
        predictor.observe(drawn(step, random_rows(step), logs + 0.03 * step))
    expected = predictor.expected_lengths(np.arange(NUM_PROMPTS))
    late = np.exp(logs + 0.03 * 39 + 0.5**2 / 2)
    assert 0.8 < np.exp(np.log(expected / late).mean()) < 1.2
    assert 0 < predictor.metrics()["length_error"] < 0.6


def test_cut_off_responses_cost_the_limit_and_nothing_is_expected_beyond_it() -> None:
    predictor, logs = FusedPredictor(make_table(), CONFIG), true_logs()
    for step in range(10):
        predictor.observe(drawn(step, random_rows(step), logs, cap=64.0))
    expected = predictor.expected_lengths(np.arange(NUM_PROMPTS))
    stories = np.arange(2, NUM_PROMPTS, 4)
    assert expected.max() <= 64.0
    assert expected[stories].min() > 50.0
    # All of them cut off, from the first: the limit is all that is known.
    cut = FusedPredictor(make_table(), CONFIG)
    cut.observe(drawn(0, random_rows(0), np.full(NUM_PROMPTS, 20.0), cap=64.0))
    np.testing.assert_allclose(cut.expected_lengths(np.arange(NUM_PROMPTS)), 64.0)


def test_before_the_first_response_nothing_is_said_and_groups_without_one_say_nothing() -> None:
    predictor, rows = FusedPredictor(make_table(), CONFIG), np.arange(5)
    assert len(predictor.expected_lengths(rows)) == 0
    predictor.observe(batch(0, rows, np.full(5, np.nan)))
    assert len(predictor.expected_lengths(rows)) == 0
    assert "length_error" not in predictor.metrics()
    predictor.observe(batch(1, rows, np.array([10.0, np.nan, 20.0, np.nan, 30.0])))
    assert len(predictor.expected_lengths(rows)) == 5


def test_groups_without_a_verdict_have_a_length() -> None:
    predictor = FusedPredictor(make_table(), CONFIG)
    predictor.observe(batch(0, np.arange(4), np.array([4.0, 40.0, 300.0, 90.0]), num_tried=0))
    assert not predictor.seen(np.arange(4)).any()
    expected = predictor.expected_lengths(np.arange(4))
    assert np.argsort(expected).tolist() == [0, 1, 3, 2]


def test_empty_responses_one_prompt_and_two_groups_of_it_are_no_trouble() -> None:
    table = PromptTable(prompt_ids=("a",), texts=("Hi",), embeddings=np.zeros((1, 4), np.float32), num_pool=1)
    predictor = FusedPredictor(table, CONFIG)
    for step in range(30):
        predictor.observe(batch(step, np.array([0, 0]), np.zeros(2)))
        assert predictor.expected_lengths(np.array([0])).tolist() == [0.0]
    # It grows from nothing to thousands of tokens between two steps.
    for step in range(30, 40):
        predictor.observe(batch(step, np.array([0]), np.array([30_000.0])))
    assert 15_000 < predictor.expected_lengths(np.array([0]))[0] <= 30_000


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    original, resumed, everything = trained(6), FusedPredictor(make_table(), CONFIG), np.arange(NUM_PROMPTS)
    resumed.load_state({name: array.copy() for name, array in original.state().items()})
    for step in range(6, 9):
        np.testing.assert_array_equal(original.expected_lengths(everything), resumed.expected_lengths(everything))
        for predictor in (original, resumed):
            predictor.observe(drawn(step, random_rows(step), true_logs()))
    for name, array in original.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name], err_msg=name)


def test_a_checkpoint_from_before_begins_anew_and_one_of_another_pool_is_refused() -> None:
    state = trained(2).state()
    older = {name: array for name, array in state.items() if not name.startswith("lengths/")}
    resumed = FusedPredictor(make_table(), CONFIG)
    resumed.load_state(older)
    assert len(resumed.expected_lengths(np.arange(3))) == 0
    wrong = {name: array[:-1] if name == "lengths/filter/own" else array for name, array in state.items()}
    with pytest.raises(CheckpointError, match=r"response lengths \(own\).*resume with the run's own data"):
        resumed.load_state(wrong)


def test_what_lengths_teach_does_not_touch_success() -> None:
    """The same verdicts with other lengths: equal to the last bit."""
    one, other = FusedPredictor(make_table(), CONFIG), FusedPredictor(make_table(), CONFIG)
    for step in range(4):
        rows = random_rows(step)
        one.observe(drawn(step, rows, true_logs()))
        other.observe(batch(step, rows, np.full(len(rows), np.nan)))
    rows = np.arange(NUM_PROMPTS)
    np.testing.assert_array_equal(one.predict(rows, 4).mean(), other.predict(rows, 4).mean())


def test_predictor_and_record_are_both_asked_the_same_way() -> None:
    assert isinstance(FusedPredictor(make_table(), CONFIG), PredictsLengths)
    assert isinstance(ResponseLengths(3), PredictsLengths)


def test_a_text_prior_of_success_leaves_the_text_its_say_on_lengths() -> None:
    """The prior takes three quarters of the text's variance of success; lengths keep it."""
    predictor = FusedPredictor(make_table(), CONFIG, prior_logits=np.zeros(NUM_PROMPTS))
    for step in range(10):
        predictor.observe(drawn(step, random_rows(step), true_logs()))
    rows = np.flatnonzero(~predictor.seen(np.arange(NUM_PROMPTS)))
    assert rank_correlation(predictor.expected_lengths(rows), true_logs()[rows]) > 0.85
