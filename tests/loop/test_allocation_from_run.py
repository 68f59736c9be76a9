"""The predictor of a run, rebuilt from its outcome files, is the predictor of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.allocation.comparison import AllocationSettings, Comparison
from gps_ray.allocation.from_run import compare_on_run, fully_judged
from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import outcomes_to_table
from gps_ray.base.types import GroupOutcome, Prompt, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.predictor.recorded import RecordedOutcomes
from gps_ray.run.outcomes import read_outcomes
from gps_ray.selection.registry import build_selector
from gps_ray.selection.service import SelectorService
from tests.unit.allocation.levels import PROVIDER

GROUP_SIZE, NUM_TRIES = 4, 16
RATES = (0.0, 0.15, 0.5, 0.97)


def _prompts(kind: str, number: int) -> list[Prompt]:
    return [
        Prompt(prompt_id=f"{kind}{i}", text=f"level {i % len(RATES)} {kind}{i}", answer="", task="test")
        for i in range(number)
    ]


def _rate(prompt: Prompt) -> float:
    return RATES[int(prompt.text.split()[1])]


def _selection(tmp_path: Path) -> SelectionConfig:
    return SelectionConfig.model_validate(
        {
            "selector": "pcl",
            "num_prompts": 16,
            "pcl": {"updates_per_step": 20, "hidden_dim": 16, "learning_rate": 0.01},
            "features": {"provider": PROVIDER, "cache_directory": str(tmp_path / "features")},
        }
    )


def _outcomes(pool: list[Prompt], selection: Selection) -> list[GroupOutcome]:
    by_id = {prompt.prompt_id: prompt for prompt in pool}
    outcomes = []
    for prompt_id in selection.prompt_ids:
        right = generator(0, "test", selection.step, prompt_id).random(GROUP_SIZE) < _rate(by_id[prompt_id])
        outcomes.append(
            GroupOutcome(
                prompt_id=prompt_id,
                policy_version=selection.step - 1,
                rewards=right.astype(np.float32),
                status=right.astype(np.int8),
                response_lengths=np.full(GROUP_SIZE, 3, np.int32),
            )
        )
    return outcomes


def _run(tmp_path: Path, pool: list[Prompt], num_steps: int) -> SelectorService:
    config = _selection(tmp_path)
    table = build_prompt_table(pool, [], config.features)
    service = SelectorService(build_selector(config, table, GROUP_SIZE, 5), table, tmp_path / "outcomes")
    for step in range(1, num_steps + 1):
        selection = service.select(
            SelectionRequest(step=step, round=0, num_prompts=16, group_size=GROUP_SIZE, num_missing=16)
        )
        service.observe(step, [selection], [outcomes_to_table(_outcomes(pool, selection))])
    return service


def _recorded(prompts: list[Prompt]) -> RecordedOutcomes:
    rates = np.array([_rate(prompt) for prompt in prompts])
    return RecordedOutcomes(
        prompts=tuple(prompt.text for prompt in prompts),
        num_right=generator(1, "test").binomial(NUM_TRIES, rates),
        num_tried=np.full(len(prompts), NUM_TRIES),
    )


def _compare(run: Path, pool: list[Prompt], new: list[Prompt], num_bins: int) -> Comparison:
    return compare_on_run(
        pool=pool,
        prompts=new,
        outcomes=read_outcomes(run / "outcomes"),
        recorded=_recorded(new),
        selection=_selection(run),
        settings=AllocationSettings(budgets=(2,), maximum=NUM_TRIES, num_bins=num_bins),
        run_seed=5,
        group_size=GROUP_SIZE,
    )


def test_a_run_teaches_where_samples_pay(tmp_path: Path) -> None:
    pool, new = _prompts("pool", 64), _prompts("new", 80)
    _run(tmp_path, pool, num_steps=20)
    comparison = _compare(tmp_path, pool, new, num_bins=4)
    assert comparison.num_prompts == 40
    assert comparison.spearman > 0.8
    found = comparison.results[2]
    assert 3 < found["predicted_bins"].points_gained <= found["oracle"].points_gained


def test_replayed_outcomes_give_the_runs_own_predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, new = _prompts("pool", 64), _prompts("new", 16)
    service = _run(tmp_path, pool, num_steps=3)
    built = []
    from gps_ray.allocation import from_run

    original = from_run.build_predictor

    def remembering(*args: object) -> object:
        built.append(original(*args))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(from_run, "build_predictor", remembering)
    _compare(tmp_path, pool, new, num_bins=2)
    of_the_run = service.predict([prompt.prompt_id for prompt in pool])
    assert of_the_run is not None
    np.testing.assert_array_equal(built[0].predict(np.arange(64), 4).mean(), of_the_run.mean)


def test_prompts_of_the_pool_are_refused(tmp_path: Path) -> None:
    pool = _prompts("pool", 64)
    empty = read_outcomes(tmp_path / "none")
    with pytest.raises(DataError, match="outside the pool"):
        compare_on_run(
            pool=pool,
            prompts=pool[:20],
            outcomes=empty,
            recorded=_recorded(pool[:20]),
            selection=_selection(tmp_path),
            settings=AllocationSettings(),
            run_seed=0,
            group_size=GROUP_SIZE,
        )


def test_prompts_that_lack_a_verdict_are_left_out() -> None:
    recorded = RecordedOutcomes(
        prompts=("a", "b", "c", "d"), num_right=np.array([1, 0, 2, 4]), num_tried=np.array([4, 0, 3, 4])
    )
    assert fully_judged(recorded, 4).tolist() == [0, 3]
    with pytest.raises(DataError, match=r"0 of 4 prompts have a verdict on each of their 5 samples"):
        fully_judged(recorded, 5)
