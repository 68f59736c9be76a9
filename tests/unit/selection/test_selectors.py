"""What every selector promises, by name: the port's contract, and a state that goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.keyed_random import generator
from gps_ray.base.states import load_state_file, save_state_file
from gps_ray.base.types import FloatArray, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.admission import build_admission
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.oracle import OracleSelector
from gps_ray.selection.registry import SELECTORS, build_selector

NUM_POOL, NUM_ROWS, NUM_PROMPTS, GROUP_SIZE = 90, 100, 6, 4
# gps_paper is gps with 20M parameters: the same code, too slow here.
NAMES = sorted(set(SELECTORS) - {"gps_paper"})


def _rates(step: int) -> FloatArray:
    logits = generator(7, "test/rates").normal(scale=2.0, size=NUM_ROWS) + 0.02 * step
    rates: FloatArray = 1 / (1 + np.exp(-logits))
    return rates


def _table() -> PromptTable:
    embeddings = generator(7, "test/embeddings").normal(size=(NUM_ROWS, 16)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return PromptTable(
        prompt_ids=tuple(f"p{i}" for i in range(NUM_ROWS)),
        texts=tuple(f"add {i} and {i * i}" for i in range(NUM_ROWS)),
        embeddings=embeddings,
        num_pool=NUM_POOL,
    )


def _build(name: str, run_seed: int = 0) -> PromptSelector:
    selector = build_selector(SelectionConfig(selector=name, num_prompts=NUM_PROMPTS), _table(), GROUP_SIZE, run_seed)
    if isinstance(selector, OracleSelector):
        selector.follow(_rates)
    return selector


def _request(step: int, round_: int = 0, excluded: frozenset[str] = frozenset(), missing: int = NUM_PROMPTS):
    return SelectionRequest(
        step=step,
        round=round_,
        num_prompts=NUM_PROMPTS,
        group_size=GROUP_SIZE,
        excluded=excluded,
        num_missing=missing,
    )


def _outcomes(selection: Selection) -> OutcomeBatch:
    rows = np.array([int(prompt_id[1:]) for prompt_id in selection.prompt_ids], dtype=np.int64)
    rng = generator(7, "test/outcomes", selection.step)
    num_tried = np.full(len(rows), GROUP_SIZE, dtype=np.int32)
    num_tried[: min(2, len(rows))] = (0, 1)[: min(2, len(rows))]  # a group without a verdict, and one of n = 1
    return OutcomeBatch(
        step=selection.step,
        rows=rows,
        num_right=rng.binomial(num_tried, _rates(selection.step)[rows]).astype(np.int32),
        num_tried=num_tried,
        mean_response_length=rng.uniform(4, 12, size=len(rows)).astype(np.float32),
    )


def _empty(step: int) -> OutcomeBatch:
    none = np.zeros(0, np.int32)
    return OutcomeBatch(
        step=step,
        rows=none.astype(np.int64),
        num_right=none,
        num_tried=none,
        mean_response_length=none.astype(np.float32),
    )


def _run(selector: PromptSelector, steps: range) -> list[tuple[str, ...]]:
    """Select and observe; step 3 comes back empty."""
    chosen = []
    for step in steps:
        selection = selector.select(_request(step))
        chosen.append(selection.prompt_ids)
        selector.observe(_empty(step) if step == 3 else _outcomes(selection))
    return chosen


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_makes_the_same_next_selections(name: str, tmp_path: Path) -> None:
    whole = _build(name)
    _run(whole, range(1, 8))
    save_state_file(whole.state(), tmp_path / "state.safetensors")
    resumed = _build(name)
    resumed.load_state(load_state_file(tmp_path / "state.safetensors"))
    assert resumed.metrics() == pytest.approx(whole.metrics(), nan_ok=True)
    assert _run(whole, range(8, 14)) == _run(resumed, range(8, 14))
    for key, array in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[key], array, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_selections_are_distinct_prompts_of_the_pool_and_select_changes_nothing(name: str) -> None:
    selector = _build(name)
    _run(selector, range(1, 6))
    before = selector.state()
    excluded = frozenset(f"p{i}" for i in range(0, NUM_POOL, 2))
    selection = selector.select(_request(6, excluded=excluded))
    again = selector.select(_request(6, excluded=excluded))
    assert selection.prompt_ids == again.prompt_ids
    assert len(set(selection.prompt_ids)) == NUM_PROMPTS
    assert not excluded & set(selection.prompt_ids)
    assert all(int(prompt_id[1:]) < NUM_POOL for prompt_id in selection.prompt_ids)
    for array in (selection.predicted_mean, selection.predicted_std, selection.slot_kind, selection.num_rollouts):
        assert array.shape == (NUM_PROMPTS,)
    assert selection.num_rollouts.tolist() == [GROUP_SIZE] * NUM_PROMPTS
    for key, array in selector.state().items():
        if key != "picked_in":  # greso's notes
            np.testing.assert_array_equal(array, before[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_with_too_few_free_prompts_gives_what_it_has(name: str) -> None:
    selector = _build(name)
    _run(selector, range(1, 4))
    excluded = frozenset(f"p{i}" for i in range(3, NUM_POOL))
    assert set(selector.select(_request(4, excluded=excluded)).prompt_ids) == {"p0", "p1", "p2"}
    everything = frozenset(f"p{i}" for i in range(NUM_POOL))
    assert selector.select(_request(4, excluded=everything)).prompt_ids == ()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"oracle"}))
def test_the_run_seed_matters(name: str) -> None:
    assert _run(_build(name, 0), range(1, 3)) != _run(_build(name, 1), range(1, 3))


@pytest.mark.parametrize("name", NAMES)
def test_posteriors_are_about_the_rows_asked_for(name: str) -> None:
    selector = _build(name)
    _run(selector, range(1, 6))
    rows = np.array([95, 3, 3, 40])
    posterior = selector.predict(rows, 6)
    seen = selector.seen(rows)
    assert seen.shape == (4,)
    assert not seen[0]
    assert seen[1] == seen[2]
    if posterior is None:
        assert name in {"uniform", "ds", "greso", "sec"}
        return
    mean, variance = posterior.mean(), posterior.variance()
    draws = posterior.sample(3, generator(0, "test"))
    assert mean.shape == variance.shape == (4,)
    assert draws.shape == (3, 4)
    assert ((mean >= 0) & (mean <= 1)).all()
    assert ((variance >= 0) & (variance <= 0.25)).all()
    assert mean[1] == pytest.approx(mean[2])


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"uniform", "ds", "greso", "sec"}))
def test_a_prompt_without_any_verdict_is_not_seen(name: str) -> None:
    selector = _build(name)
    outcomes = _outcomes(selector.select(_request(1)))
    assert outcomes.num_tried[:2].tolist() == [0, 1]
    selector.observe(outcomes)
    assert selector.seen(outcomes.rows).tolist() == [False] + [True] * (NUM_PROMPTS - 1)


def test_dynamic_sampling_charges_every_round_up_to_the_cap() -> None:
    """Rounds of six prompts; two useful groups in all: ten rounds, sixty distinct groups charged, two trained on."""
    config = SelectionConfig(selector="ds", num_prompts=NUM_PROMPTS)
    selector, admission = _build("ds"), build_admission(config)
    admission.begin(NUM_PROMPTS)
    rolled_out: list[str] = []
    num_rounds = 0
    while True:
        selection = selector.select(_request(1, num_rounds, frozenset(rolled_out), admission.num_missing))
        rolled_out += selection.prompt_ids
        useful = np.array([len(rolled_out) == 12 and i < 2 for i in range(NUM_PROMPTS)])
        admission.offer(selection.prompt_ids, useful)
        num_rounds += 1
        if not admission.wants_more(num_rounds):
            break
    assert num_rounds == 10
    assert len(set(rolled_out)) == 60
    assert admission.admitted == tuple(rolled_out[6:8])
    # All sixty are observed, and so none of them comes back before the rest of the pool.
    rows = np.array([int(prompt_id[1:]) for prompt_id in rolled_out])
    selector.observe(
        OutcomeBatch(
            step=1,
            rows=rows,
            num_right=np.zeros(60, np.int32),
            num_tried=np.full(60, GROUP_SIZE, np.int32),
            mean_response_length=np.zeros(60, np.float32),
        )
    )
    rest = [prompt_id for step in range(2, 7) for prompt_id in _run(selector, range(step, step + 1))[0]][:12]
    assert not set(rest) & set(rolled_out)
