"""A selector, a predictor and an acquisition from outside the package, by import path and with options."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import SelectionRequest
from gps_ray.config import SelectionConfig, TrainConfig, load_config
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.admission import build_admission
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import build_selector, needs_true_rates, resolve_selection

OUTSIDE = "tests.unit.selection.outside_parts"
# Prompt i is i + 1 characters long.
TABLE = PromptTable(
    prompt_ids=tuple(f"p{i}" for i in range(20)),
    texts=tuple("x" * (i + 1) for i in range(20)),
    embeddings=np.zeros((20, 4), np.float32),
    num_pool=20,
)
SHORTEST = (f"selection.selector={OUTSIDE}:ShortestFirst", "selection.options.window=6", "selection.num_prompts=4")
EASY = (f"selection.selector={OUTSIDE}:EASY_FIRST", "selection.predictor_options.half=4", "selection.num_prompts=4")


def selection_config(*overrides: str) -> SelectionConfig:
    return load_config(TrainConfig, None, overrides).selection


def build(*overrides: str) -> PromptSelector:
    return build_selector(selection_config(*overrides), TABLE, 8, 0)


def chosen(selector: PromptSelector, step: int = 1) -> list[int]:
    request = SelectionRequest(step=step, round=0, num_prompts=4, group_size=8)
    return [int(prompt_id[1:]) for prompt_id in selector.select(request).prompt_ids]


def observe(selector: PromptSelector, step: int, rows: list[int]) -> None:
    selector.observe(
        OutcomeBatch(
            step=step,
            rows=np.array(rows),
            num_right=np.full(len(rows), 4, np.int32),
            num_tried=np.full(len(rows), 8, np.int32),
            mean_response_length=np.full(len(rows), 5, np.float32),
        )
    )


def test_a_selector_uses_its_two_settings_and_goes_on_from_its_state() -> None:
    selector = build(*SHORTEST)
    assert chosen(selector) == [0, 1, 2, 3]
    observe(selector, 1, [0, 1, 2, 3])
    assert chosen(selector, 2) == [4, 5, 0, 1]
    resumed = build(*SHORTEST)
    resumed.load_state(selector.state())
    assert chosen(resumed, 2) == [4, 5, 0, 1]
    assert chosen(build(*SHORTEST, "selection.options.longest=true")) == [19, 18, 17, 16]


def test_a_predictor_and_an_acquisition_use_their_options() -> None:
    # Rates 4 / (5 + i): prompt 3 has 1/2, prompt 15 has 1/5.
    middle = build(*EASY)
    assert set(chosen(middle)) == {2, 3, 4, 5}
    assert chosen(build(*EASY, "selection.acquisition_options.target=0.2"))[0] == 15
    assert set(chosen(build(*EASY, "selection.predictor_options.half=10"))) == {8, 9, 10, 11}
    observe(middle, 1, [2, 3])
    assert middle.seen(np.array([2, 4])).tolist() == [True, False]


def test_a_row_states_what_else_is_to_know_of_a_selector() -> None:
    config = selection_config(*EASY)
    assert resolve_selection(config).acquisition == f"{OUTSIDE}:near"
    assert build_admission(config).max_rounds == 10
    assert build_admission(selection_config(*SHORTEST)).max_rounds == 1
    assert not needs_true_rates(config)
    sharing = (*EASY, "selection.group_size_range=[2,16]", "selection.predictor_options.spread=0.1")
    request = SelectionRequest(step=1, round=0, num_prompts=4, group_size=8)
    selection = build(*sharing, "selection.acquisition_options.target=0.7").select(request)
    assert selection.num_rollouts.sum() == 32
    assert len(set(selection.num_rollouts.tolist())) > 1
    with pytest.raises(ConfigError, match="ShortestFirst' predicts nothing"):
        build(*SHORTEST, "selection.group_size_range=[2,16]")


def test_options_survive_being_written_and_read() -> None:
    resolved = resolve_selection(selection_config(*SHORTEST, "selection.options.longest=true"))
    written = yaml.safe_load(yaml.safe_dump(resolved.model_dump(mode="json")))
    assert resolve_selection(SelectionConfig.model_validate(written)) == resolved
    assert resolved.options == {"window": 6, "longest": True}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*SHORTEST, "selection.options.windw=3"), r"selection\.options: ShortestFirst takes .*window: .*'windw'"),
        ((*SHORTEST, "selection.options.window=3"), r"selection\.options: ShortestFirst refuses .*batch of 4, got 3;"),
        (EASY[:1], r"selection\.predictor_options: ByLength takes .*missing a required .*'half'"),
        ((*EASY, "selection.predictor_options.half=x"), r"selection\.predictor_options: ByLength refuses .*'x'"),
        ((*EASY, "selection.acquisition_options.goal=1"), r"selection\.acquisition_options: near takes .*'goal'"),
        ((*EASY, "selection.acquisition_options.target=2"), r"selection\.acquisition_options: near refuses .*got 2;"),
        ((*EASY, "selection.options.a=1"), r"selection\.options: predictive takes .*'a'"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_its_key(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        chosen(build(*overrides))
    assert "\n" not in str(error.value)
