"""The guard by itself: its test against scipy's, its false alarms, what it leaves out, and the slots that it draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.types import IntArray, Selection, SelectionRequest, SlotKind
from gps_ray.config import GuardConfig, SelectionConfig
from gps_ray.predictor.recorded import outcome_batch
from gps_ray.selection.guard import ForgettingGuard, Window, fall
from gps_ray.selection.guarded import GuardedSelector
from gps_ray.selection.registry import build_selector, resolve_selection
from tests.unit.predictor.test_fused_features import make_table

GROUP_SIZE = 8
TABLE = make_table(200)
NOBODY = np.zeros(0, dtype=np.int64)


def _window(right: list[int], tried: int = GROUP_SIZE, first_step: int = 1) -> Window:
    counts = np.array(right)
    return Window(
        first_step=first_step, rows=np.arange(len(right)), num_right=counts, num_tried=np.full(len(right), tried)
    )


def test_the_interval_is_welchs() -> None:
    rng = np.random.default_rng(3)
    before, after = (_window(rng.binomial(GROUP_SIZE, rng.beta(a, 1, 40)).tolist()) for a in (3, 2))
    found = fall(before, after, 0.95)
    expected = ttest_ind(before.num_right / 8, after.num_right / 8, equal_var=False, alternative="greater")
    assert found.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    # All right, then all wrong but one, is a fall; one group less than perfect after perfect ones is not.
    assert fall(_window([8] * 20), _window([0] * 19 + [1]), 0.99).low > 0.5
    assert fall(_window([8] * 20), _window([8] * 19 + [7]), 0.99).low < 0


def _observe(guard: ForgettingGuard, step: int, rates: np.ndarray, rng: np.random.Generator, num: int = 8) -> None:
    rows = rng.choice(len(rates), num, replace=False)
    right = rng.binomial(GROUP_SIZE, rates[rows])
    even = Window(first_step=step, rows=rows, num_right=right, num_tried=np.full(num, GROUP_SIZE))
    guard.observe(step, even, NOBODY)


def test_a_policy_that_stays_where_it_is_gives_few_alarms_and_one_that_falls_is_found() -> None:
    rng = np.random.default_rng(0)
    config = GuardConfig(window_groups=32, confidence=0.95)
    alarms = []
    for _ in range(60):
        rates = rng.beta(0.7, 0.7, 1000)
        guard = ForgettingGuard(config, 1000)
        for step in range(1, 41):
            _observe(guard, step, rates, rng)
        alarms.append(guard.is_fallen)
        for step in range(41, 53):
            _observe(guard, step, 0.4 * rates, rng)
        assert guard.is_fallen or alarms[-1], guard.metrics()
    # The last of ten windows: 5 % of 60 are 3; more than 9 have a chance of one in a thousand.
    assert sum(alarms) <= 9


def test_the_share_doubles_while_it_is_fallen_and_goes_back_when_it_is_not() -> None:
    guard = ForgettingGuard(GuardConfig(window_groups=16, min_share=0.2, max_share=0.7), 100)
    shares = []
    for step, right in enumerate([7, 7, 2, 2, 2, 4, 6, 7, 7], start=1):
        counts = np.full(16, right) + np.arange(16) % 2
        even = Window(first_step=step, rows=np.arange(16), num_right=counts, num_tried=np.full(16, GROUP_SIZE))
        guard.observe(step, even, NOBODY)
        shares.append(guard.share)
    # At 4 of 8 less than half of what was lost is back; at 6 more is, but a fall is still shown.
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.4, 0.7, 0.7, 0.7, 0.7, 0.5, 0.3])


def test_prompts_that_the_score_picked_since_are_left_out() -> None:
    """Half of the pool falls, and it is the half that is picked: nothing is said of what is not selected."""

    def last(scored: IntArray) -> ForgettingGuard:
        guard = ForgettingGuard(GuardConfig(window_groups=16), 32)
        for step, low in enumerate((8, 8, 0), start=1):
            counts = np.r_[np.full(16, low), np.full(16, 8)]
            even = Window(first_step=step, rows=np.arange(32), num_right=counts, num_tried=np.full(32, GROUP_SIZE))
            guard.observe(step, even, scored)
        return guard

    assert last(NOBODY).is_fallen
    assert not last(np.arange(16)).is_fallen
    assert last(np.arange(16)).metrics()["guard_fall"] == 0
    # Where hardly any is left, nothing is said at all.
    assert "guard_fall" not in last(np.arange(28)).metrics()


def test_a_saved_guard_goes_on_alike() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(2, 1, 150)
    config = GuardConfig(window_groups=16)
    guard = ForgettingGuard(config, 150)
    for step in range(1, 30):
        _observe(guard, step, rates if step < 20 else 0.2 * rates, rng, 5)
        other = ForgettingGuard(config, 150)
        other.load_state(guard.state())
        draws = rng.bit_generator.state
        for each in (guard, other):
            rng.bit_generator.state = draws
            _observe(each, step, rates, rng, 5)
        assert other.metrics() == guard.metrics()
        np.testing.assert_equal(other.state(), guard.state())
    with pytest.raises(CheckpointError, match="pool of 151"):
        ForgettingGuard(config, 151).load_state(guard.state())


def _request(step: int, num_prompts: int = 16) -> SelectionRequest:
    return SelectionRequest(
        step=step, round=0, num_prompts=num_prompts, group_size=GROUP_SIZE, excluded=frozenset(TABLE.prompt_ids[:20])
    )


def _build(selector: str, **guard: float) -> tuple[GuardedSelector, SelectionConfig]:
    config = SelectionConfig(selector=selector, num_prompts=16, guard=GuardConfig(enabled=True, **guard))
    built = build_selector(config, TABLE, GROUP_SIZE, 7)
    assert isinstance(built, GuardedSelector)
    return built, config


def _run(selector: GuardedSelector, num_steps: int, first: int = 1) -> list[Selection]:
    selections = []
    for step in range(first, first + num_steps):
        selection = selector.select(_request(step))
        rows = np.array([TABLE.prompt_ids.index(prompt_id) for prompt_id in selection.prompt_ids])
        selector.observe(outcome_batch(step, rows, rows % 9, np.full(len(rows), GROUP_SIZE)))
        selections.append(selection)
    return selections


@pytest.mark.parametrize("name", ["beta_mean", "sec", "greso", "mopps"])
def test_the_last_picks_by_score_give_way_to_even_ones(name: str) -> None:
    guarded, config = _build(name, min_share=0.5)
    plain = build_selector(config.model_copy(update={"guard": GuardConfig()}), TABLE, GROUP_SIZE, 7)
    for step in range(1, 4):
        selection, own = guarded.select(_request(step)), plain.select(_request(step))
        again = guarded.select(_request(step))
        assert (again.prompt_ids, again.slot_kind.tolist()) == (selection.prompt_ids, selection.slot_kind.tolist())
        assert len(set(selection.prompt_ids)) == 16
        assert not set(selection.prompt_ids) & _request(step).excluded
        even = selection.slot_kind == SlotKind.RANDOM
        own_even = own.slot_kind == SlotKind.RANDOM
        assert even.sum() == max(8, own_even.sum())
        kept = [i for i in range(16) if not even[i] or own_even[i]]
        assert [selection.prompt_ids[i] for i in kept] == [own.prompt_ids[i] for i in kept]
        assert kept == list(range(len(kept)))
        np.testing.assert_array_equal(selection.num_rollouts, own.num_rollouts)
        assert np.isfinite(selection.predicted_mean[even]).all() == np.isfinite(own.predicted_mean).all()
        rows = np.array([TABLE.prompt_ids.index(prompt_id) for prompt_id in selection.prompt_ids])
        for each in (guarded, plain):
            each.observe(outcome_batch(step, rows, rows % 9, np.full(16, GROUP_SIZE)))


def test_random_slots_of_the_selectors_own_are_enough() -> None:
    """gps_fused has an eighth of them, uniform nothing else: a quiet guard changes nothing."""
    for name in ("gps_fused", "uniform"):
        guarded, config = _build(name)
        plain = build_selector(config.model_copy(update={"guard": GuardConfig()}), TABLE, GROUP_SIZE, 7)
        for selection in _run(guarded, 3):
            own = plain.select(_request(selection.step))
            assert selection.prompt_ids == own.prompt_ids
            np.testing.assert_equal(selection.predicted_mean, own.predicted_mean)
            rows = np.array([TABLE.prompt_ids.index(prompt_id) for prompt_id in own.prompt_ids])
            plain.observe(outcome_batch(selection.step, rows, rows % 9, np.full(16, GROUP_SIZE)))
        assert guarded.metrics()["guard_share"] == 0.125


def test_even_slots_are_even_over_what_the_batch_does_not_hold() -> None:
    guarded, _ = _build("beta_mean", min_share=1.0)
    counts = np.zeros(200)
    for step in range(1, 400):
        rows = [TABLE.prompt_ids.index(prompt_id) for prompt_id in guarded.select(_request(step)).prompt_ids]
        counts[rows] += 1
    free = counts[20:]
    assert counts[:20].sum() == 0
    # 399 * 16 draws over 180 prompts: a chi-square of 179 degrees of freedom, thinned as none comes twice in a batch.
    assert ((free - free.mean()) ** 2 / free.mean()).sum() < 240


def test_a_guarded_selector_goes_on_from_its_state() -> None:
    whole, _ = _build("beta_mean", window_groups=16, min_share=0.25)
    _run(whole, 6)
    last = whole.select(_request(7))
    resumed, _ = _build("beta_mean", window_groups=16, min_share=0.25)
    resumed.load_state(whole.state())
    rows = np.array([TABLE.prompt_ids.index(prompt_id) for prompt_id in last.prompt_ids])
    for each in (whole, resumed):
        each.observe(outcome_batch(7, rows, rows % 9, np.full(16, GROUP_SIZE)))
    assert resumed.metrics() == whole.metrics()
    assert [s.prompt_ids for s in _run(resumed, 6, 8)] == [s.prompt_ids for s in _run(whole, 6, 8)]
    plain = build_selector(SelectionConfig(selector="beta_mean"), TABLE, GROUP_SIZE, 7)
    with pytest.raises(CheckpointError, match=r"selection\.guard\.enabled=false"):
        resumed.load_state(plain.state())


def test_what_cannot_be_guarded_is_said() -> None:
    with pytest.raises(ConfigError, match=r"selection\.guard\.enabled: selector 'oracle'"):
        resolve_selection(SelectionConfig(selector="oracle", guard=GuardConfig(enabled=True)))
    with pytest.raises(ValueError, match=r"max_share: expected at least min_share=0\.5"):
        GuardConfig(min_share=0.5, max_share=0.2)
