"""GRESO against hand-computed runs, skip probabilities, adaptation and batch sizes."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Selection, SelectionRequest
from gps_ray.config import GresoConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.greso import GresoSelector


def _selector(num_pool: int, config: GresoConfig | None = None, run_seed: int = 0) -> GresoSelector:
    names = tuple(f"p{i}" for i in range(num_pool))
    table = PromptTable(
        prompt_ids=names, texts=names, embeddings=np.zeros((num_pool, 4), np.float32), num_pool=num_pool
    )
    return GresoSelector(table, config or GresoConfig(), run_seed)


def _request(step: int, num_prompts: int, round_: int = 0, **more: object) -> SelectionRequest:
    fields: dict[str, object] = {"num_missing": num_prompts, **more}
    return SelectionRequest(step=step, round=round_, num_prompts=num_prompts, group_size=8, **fields)  # type: ignore[arg-type]


def _rows(selection: Selection) -> list[int]:
    return [int(prompt_id[1:]) for prompt_id in selection.prompt_ids]


def _observe(selector: GresoSelector, step: int, groups: list[tuple[int, int, int]]) -> None:
    """Groups as (row, num_right, num_tried)."""
    rows, num_right, num_tried = np.array(groups, dtype=np.int64).reshape(-1, 3).T
    selector.observe(
        OutcomeBatch(
            step=step,
            rows=rows,
            num_right=num_right.astype(np.int32),
            num_tried=num_tried.astype(np.int32),
            mean_response_length=np.full(len(rows), np.nan, np.float32),
        )
    )


def test_runs_and_skip_probabilities_equal_the_hand_computed_table() -> None:
    selector = _selector(100, GresoConfig(probability_step=0))
    history = [
        # row 0: easy three times; row 1: hard, hard, then easy (a new run); row 2: easy, then mixed (run over);
        # row 3: one response, wrong (z = 1); row 4: easy, then no verdict (unchanged); row 5: hard eight times.
        [(0, 8, 8), (1, 0, 8), (2, 8, 8), (3, 0, 1), (4, 8, 8), (5, 0, 8)],
        [(0, 8, 8), (1, 0, 8), (2, 3, 8), (4, 0, 0), (5, 0, 8)],
        [(0, 8, 8), (1, 8, 8), (5, 0, 8)],
        *[[(5, 0, 8)]] * 5,
        [],
    ]
    for step, groups in enumerate(history):
        _observe(selector, step, groups)
    assert selector.state()["run"][:7].tolist() == [3, 1, 0, -1, 1, -8, 0]
    # p_easy = p_hard = 1/2. 1 - p^z: 7/8, 1/2, 0, 1/2, 1/2; 1 - max(1/256, .01) = .99; no group yet: 0.
    np.testing.assert_allclose(selector.skip_probability()[:7], [7 / 8, 0.5, 0, 0.5, 0.5, 0.99, 0])


def test_probabilities_adapt_after_the_first_epoch_and_stay_in_bounds() -> None:
    config = GresoConfig(probability_step=0.2)
    selector = _selector(8, config)
    metrics = selector.metrics
    for step in (1, 2):  # the first epoch: two batches of four, all of them easy
        _observe(selector, step, [(row, 8, 8) for row in _rows(selector.select(_request(step, 4)))])
    assert (metrics()["epoch"], metrics()["p_easy"], metrics()["p_hard"]) == (1, 0.5, 0.5)

    # 1 easy of 4 = .25 >= .083: p_easy falls; no hard one, 0 < .167: p_hard rises.
    _observe(selector, 3, [(0, 8, 8), (1, 4, 8), (2, 4, 8), (3, 4, 8)])
    assert (metrics()["p_easy"], metrics()["p_hard"]) == (pytest.approx(0.3), pytest.approx(0.7))
    # 1 hard of 5 = .2 >= .167 (the sixth group has no verdict): p_hard falls, p_easy rises.
    _observe(selector, 4, [(4, 0, 8), (5, 4, 8), (6, 4, 8), (7, 4, 8), (0, 1, 8), (1, 0, 0)])
    assert (metrics()["p_easy"], metrics()["p_hard"]) == (pytest.approx(0.5), pytest.approx(0.5))
    # Nothing came back: nothing to adapt to.
    _observe(selector, 5, [])
    assert (metrics()["p_easy"], metrics()["p_hard"]) == (pytest.approx(0.5), pytest.approx(0.5))
    for step in range(6, 12):
        _observe(selector, step, [(2, 0, 8)])
    assert (metrics()["p_easy"], metrics()["p_hard"]) == (0.95, 0.05)


def test_the_targets_are_reached_from_the_first_equal_share_on() -> None:
    selector = _selector(12, GresoConfig(target_easy=0.25, target_hard=0.5))
    _observe(selector, 1, [(row, 4, 8) for row in _rows(selector.select(_request(1, 12)))])
    assert selector.metrics()["epoch"] == 1
    _observe(selector, 2, [(0, 8, 8), (1, 0, 8), (2, 0, 8), (3, 3, 8)])
    assert selector.metrics()["p_easy"] == pytest.approx(0.49)
    assert selector.metrics()["p_hard"] == pytest.approx(0.49)


@pytest.mark.parametrize(
    ("round_", "num_missing", "num_rolled_out", "wanted"),
    [
        (0, 32, 0, 32),  # first round: all
        (1, 4, 40, 8),  # 28 of 40 were useful: ceil(1.25 * 4 / .7) = ceil(7.14)
        (1, 4, 35, 7),  # 28 of 35 = .8: ceil(1.25 * 4 / .8) = ceil(6.25)
        (2, 30, 64, 32),  # 2 of 64: 1.25 * 30 * 32 = 1200, capped
        (1, 32, 32, 32),  # not one useful group: the ratio is 0, capped
        (3, 1, 31, 2),  # all 31 useful: ceil(1.25)
    ],
)
def test_the_next_batch_is_sized_by_what_is_missing(
    round_: int, num_missing: int, num_rolled_out: int, wanted: int
) -> None:
    selector = _selector(200)
    excluded = frozenset(f"p{i}" for i in range(num_rolled_out))
    request = _request(1, 32, round_, num_missing=num_missing, excluded=excluded)
    selection = selector.select(request)
    assert len(selection.prompt_ids) == wanted
    assert not excluded & set(selection.prompt_ids)


def test_the_first_epoch_visits_every_prompt_once_and_skips_none() -> None:
    selector = _selector(40)
    visited: list[int] = []
    for step in range(1, 6):
        rows = _rows(selector.select(_request(step, 8)))
        visited += rows
        _observe(selector, step, [(row, 0, 8) for row in rows])
    assert sorted(visited) == list(range(40))
    assert visited != list(range(40))
    assert selector.metrics()["epoch"] == 1


def test_later_epochs_skip_as_often_as_the_probability_says() -> None:
    """Every second prompt is hard once (skipped with p = 1/2), the others are mixed: none skipped."""
    selector = _selector(4000)
    rows = _rows(selector.select(_request(1, 4000)))
    _observe(selector, 1, [(row, 0 if row % 2 else 4, 8) for row in rows])
    rows = _rows(selector.select(_request(2, 2800)))
    assert len(set(rows)) == 2800
    num_hard = sum(row % 2 for row in rows)
    # Of each 3 survivors one is hard: 933 of 2800, give or take five standard errors of 25.
    assert abs(num_hard - 2800 / 3) < 125
    # Where the skipped ones are needed all the same, they come in later epochs.
    assert sorted(_rows(selector.select(_request(2, 4000)))) == list(range(4000))


def test_one_epoch_does_not_come_back_to_a_skipped_prompt() -> None:
    selector = _selector(200)
    _observe(selector, 1, [(row, 0, 8) for row in _rows(selector.select(_request(1, 200)))])
    taken: list[int] = []
    step = 2
    while selector.metrics()["epoch"] == 1:
        rows = _rows(selector.select(_request(step, 10)))
        _observe(selector, step, [(row, 4, 8) for row in rows])
        if selector.metrics()["epoch"] == 1:
            taken += rows
        step += 1
    assert len(taken) == len(set(taken))
    assert 60 < len(taken) < 140  # about half of 200 survive their coin


def test_select_changes_nothing_and_skips_are_keyed_by_the_run_seed() -> None:
    def second_epoch(run_seed: int) -> list[int]:
        selector = _selector(100, run_seed=run_seed)
        selector.select(_request(1, 100))
        _observe(selector, 1, [(row, 0, 8) for row in range(100)])
        assert selector.metrics()["epoch"] == 1
        first = _rows(selector.select(_request(2, 20)))
        assert first == _rows(selector.select(_request(2, 20)))
        return first

    assert second_epoch(0) == second_epoch(0)
    assert sorted(second_epoch(0)) != sorted(second_epoch(1))


def test_a_pool_that_is_nearly_all_skipped_still_fills_the_batch() -> None:
    selector = _selector(30, GresoConfig(min_survival=1e-9, start_probability=0.05))
    state = selector.state()
    state["next_epoch"], state["run"] = np.full(30, 3), np.full(30, -20)
    selector.load_state(state)
    assert sorted(_rows(selector.select(_request(5, 30)))) == list(range(30))


def test_outcomes_that_it_did_not_select_do_not_break_its_order() -> None:
    selector = _selector(10)
    rng = generator(0, "test")
    for step in range(30):
        rows = rng.choice(10, size=4, replace=False)
        _observe(selector, step, [(int(row), int(rng.integers(0, 3)), 2) for row in rows])
        assert len(set(_rows(selector.select(_request(step + 1, 6))))) == 6


@pytest.mark.parametrize("rates", [[0.5], [0.0, 1.0, 0.5, 0.1, 0.9], [0.0] * 4 + [0.5]])
@pytest.mark.parametrize(("num_pool", "num_prompts"), [(64, 8), (64, 24), (128, 32)])
@pytest.mark.parametrize("lag", [0, 2])
def test_no_prompt_has_two_turns_in_an_epoch(num_pool: int, num_prompts: int, rates: list[float], lag: int) -> None:
    """Two rounds a step; with a lag, the next steps' prompts are selected before the second round."""
    selector, rng = _selector(num_pool, run_seed=1), generator(1, "test/epochs")
    truth = rng.choice(rates, size=num_pool)
    in_flight: dict[int, list[int]] = {}
    turns: dict[tuple[int, int], int] = {}

    def select(step: int, round_: int = 0) -> None:
        excluded = frozenset(f"p{row}" for rows in in_flight.values() for row in rows)
        num_missing = num_prompts - round_ * (num_prompts // 2)
        rows = _rows(selector.select(_request(step, num_prompts, round_, excluded=excluded, num_missing=num_missing)))
        in_flight.setdefault(step, []).extend(rows)
        for row, epoch in zip(rows, selector.state()["picked_in"][rows].tolist(), strict=True):
            if epoch >= 0:
                turns[row, epoch] = turns.get((row, epoch), 0) + 1

    for step in range(1, lag + 1):
        select(step)
    for step in range(1, 61):
        select(step + lag)
        select(step, 1)
        rows = in_flight.pop(step)
        _observe(selector, step, [(row, int(rng.binomial(8, truth[row])), 8) for row in rows])
    assert max(turns.values()) == 1
    # Nearly all groups are useful, so nearly nobody is skipped: an epoch that is over had a turn for every prompt.
    if rates == [0.5]:
        num_turns = np.bincount([epoch for _, epoch in turns])[: int(selector.metrics()["epoch"])]
        assert len(num_turns) > 5
        assert (num_turns > 0.95 * num_pool).all()


def test_it_goes_on_in_the_middle_of_a_step_that_reached_into_the_next_epoch() -> None:
    whole = _selector(20)
    for step in (1, 2):
        _observe(whole, step, [(row, row % 3 * 4, 8) for row in _rows(whole.select(_request(step, 8)))])
    rows = _rows(whole.select(_request(3, 8)))  # four of the first epoch, four of the second
    resumed = _selector(20)
    resumed.load_state(whole.state())
    for step in range(3, 12):
        for selector in (whole, resumed):
            _observe(selector, step, [(row, row % 3 * 4, 8) for row in rows])
        rows = _rows(whole.select(_request(step + 1, 8)))
        assert rows == _rows(resumed.select(_request(step + 1, 8)))


def test_a_state_from_before_it_knew_the_epochs_is_refused() -> None:
    state = _selector(8).state()
    del state["picked_in"]
    with pytest.raises(CheckpointError, match="start the run anew"):
        _selector(8).load_state(state)


def test_a_state_of_another_pool_is_refused() -> None:
    with pytest.raises(CheckpointError, match="pool of 8 prompts, got 9"):
        _selector(8).load_state(_selector(9).state())


@pytest.mark.parametrize(("num_pool", "num_prompts"), [(64, 8), (64, 24), (100, 48)])
def test_where_nobody_is_skipped_no_prompt_is_two_turns_ahead_of_another(num_pool: int, num_prompts: int) -> None:
    selector = _selector(num_pool)
    counts = np.zeros(num_pool, dtype=np.int64)
    for step in range(1, 61):
        rows = _rows(selector.select(_request(step, num_prompts)))
        counts[rows] += 1
        assert counts.max() - counts.min() <= 1
        _observe(selector, step, [(row, 4, 8) for row in rows])
