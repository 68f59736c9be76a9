"""Names, presets and import paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import FloatArray, SelectionRequest
from gps_ray.config import PpmConfig, SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.selection.acquisition import Acquisition
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import SELECTORS, build_selector, resolve_selection
from gps_ray.selection.uniform import UniformSelector

TABLE = PromptTable(prompt_ids=tuple("abcdef"), texts=("",) * 6, embeddings=np.eye(6, 8, dtype=np.float32), num_pool=6)


def user_selector(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return UniformSelector(table, run_seed + 1)


class AlphabetPredictor:
    """A user's predictor that needs no outcomes: later letters are easier."""

    def __init__(self, config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> None:
        self.num_rows = len(table.prompt_ids)

    def informed(self) -> bool:
        return True

    def predict(self, rows, step):
        return PointPosterior(rows / self.num_rows)


def easiest(posterior: PointPosterior, group_size: int, rng: np.random.Generator) -> FloatArray:
    return posterior.mean()


user_acquisition: Acquisition = easiest


def test_a_preset_fills_what_nobody_set() -> None:
    paper = resolve_selection(SelectionConfig(selector="gps_paper", num_prompts=7))
    assert (paper.predictor, paper.acquisition, paper.candidate_multiple) == ("ppm", "nearest_half", None)
    assert (paper.ppm.model_dim, paper.ppm.num_layers, paper.ppm.latent_dim) == (512, 3, 64)
    assert (paper.ppm.num_latent_draws, paper.ppm.replay_steps, paper.num_prompts) == (50, 1, 7)
    own = SelectionConfig(
        selector="gps_paper", candidate_multiple=4, acquisition="useful_group", ppm=PpmConfig(latent_dim=8)
    )
    resolved = resolve_selection(own)
    assert (resolved.candidate_multiple, resolved.acquisition, resolved.ppm.latent_dim) == (4, "useful_group", 8)
    assert resolved.ppm.model_dim == 512
    small = resolve_selection(SelectionConfig(selector="gps"))
    assert (small.predictor, small.candidate_multiple, small.ppm.replay_steps) == ("ppm", 8, 32)


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_resolving_again_or_reading_the_resolved_config_changes_nothing(name: str) -> None:
    resolved = resolve_selection(SelectionConfig(selector=name))
    assert resolve_selection(resolved) == resolved
    written = yaml.safe_load(yaml.safe_dump(resolved.model_dump(mode="json")))
    assert resolve_selection(SelectionConfig.model_validate(written)) == resolved


def test_import_paths() -> None:
    request = SelectionRequest(step=1, round=0, num_prompts=2, group_size=4)
    config = SelectionConfig(selector=f"{__name__}:user_selector")
    assert build_selector(config, TABLE, 4, 0).select(request).prompt_ids == (
        UniformSelector(TABLE, 1).select(request).prompt_ids
    )
    config = SelectionConfig(
        selector="gps",
        predictor=f"{__name__}:AlphabetPredictor",
        acquisition=f"{__name__}:user_acquisition",
        candidate_multiple=None,
        diversity_within=0,
        diversity_recent=0,
    )
    assert build_selector(config, TABLE, 4, 0).select(request).prompt_ids == ("f", "e")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selector": "gpz"}, r"selection\.selector.*gps_paper.*uniform.*'gpz'"),
        ({"selector": "no.such.module:build"}, r"selection\.selector: cannot import 'no\.such\.module'"),
        ({"selector": f"{__name__}:absent"}, r"selection\.selector.*has no 'absent'"),
        ({"selector": ":build"}, r"selection\.selector: expected an import path"),
        ({"predictor": "ppn"}, r"selection\.predictor.*ppm.*'ppn'"),
        ({"selector": f"{__name__}:TABLE"}, r"selection\.selector: expected a class, a function or a row"),
        ({"acquisition": "half"}, r"selection\.acquisition.*nearest_half.*'half'"),
    ],
)
def test_a_wrong_name_says_which_key_and_what_is_known(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_selector(SelectionConfig(**{"predictor": f"{__name__}:AlphabetPredictor", **changes}), TABLE, 4, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"selector": "greso", "options": {"a": 1}},
            r"selection\.options: selector 'greso' .*got \{'a': 1\}.* selection\.greso",
        ),
        ({"selector": "uniform", "options": {"a": 1}}, r"selection\.options: selector 'uniform' .*has no settings"),
        (
            {"selector": "gps", "predictor_options": {"a": 1}},
            r"selection\.predictor_options: predictor 'ppm' .* selection\.ppm\.\*",
        ),
        (
            {"selector": "gps", "acquisition_options": {"a": 1}},
            r"selection\.acquisition_options: acquisition 'nearest_half' .*takes no options",
        ),
        ({"selector": f"{__name__}:user_selector", "options": {"a": 1}}, r"selection\.options: user_selector takes"),
    ],
)
def test_options_that_nobody_takes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        resolve_selection(SelectionConfig(**changes))
    assert "\n" not in str(error.value)
