"""Selectors, predictors and acquisitions by name or import path, and what a config of them amounts to.

A selector is one row of ``SELECTORS``: factory, preset and what else is to know of it. ``resolve_selection`` shows the
settings that a run will really use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import call_with_options, check_options, load_object
from gps_ray.base.types import FloatArray
from gps_ray.config import SelectionConfig
from gps_ray.predictor.arc import ArcPredictor
from gps_ray.predictor.beta_counts import BetaCountsPredictor
from gps_ray.predictor.interface import Posterior, Predictor, PromptTable
from gps_ray.predictor.markov_state import MarkovStatePredictor
from gps_ray.selection.acquisition import ACQUISITIONS, NEEDS_LENGTHS, Acquisition, sampled
from gps_ray.selection.greso import GresoSelector
from gps_ray.selection.guarded import GuardedSelector
from gps_ray.selection.interface import PredictorRow, PromptSelector, SelectorRow
from gps_ray.selection.oracle import OracleSelector
from gps_ray.selection.selector import PredictiveSelector
from gps_ray.selection.uniform import UniformSelector

__all__ = [
    "PREDICTORS",
    "SELECTORS",
    "build_predictor",
    "build_selector",
    "check_predicts_rates",
    "needs_true_rates",
    "predictive",
    "resolve_selection",
    "selector_row",
]


def _uniform(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return UniformSelector(table, run_seed)


def predictive(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    """The selector made of the predictor, acquisition and composition that the resolved config names."""
    predictor = build_predictor(config, table, group_size, run_seed)
    return PredictiveSelector(predictor, _acquisition(config), table, config, group_size, run_seed)


def _greso(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return GresoSelector(table, config.greso, run_seed)


def _oracle(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return OracleSelector(_acquisition(config), table, config, group_size, run_seed)


def _ppm(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    _needs_torch("ppm")
    from gps_ray.predictor.ppm import PpmPredictor  # torch loads only where it is used

    return PpmPredictor(table, config.ppm, run_seed)


def _beta_counts(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    return BetaCountsPredictor(table, config.beta_counts)


def _markov_state(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    return MarkovStatePredictor(table, config.dps)


def _value_model(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    _needs_torch("value_model")
    from gps_ray.predictor.value_model import ValueModelPredictor  # torch loads only where it is used

    return ValueModelPredictor(table, config.pcl, run_seed)


def _needs_torch(predictor: str) -> None:
    """The library is installed without torch."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"selection.predictor: {predictor!r} needs torch, which is not installed; pip install 'gps-ray[train]', or "
            "set selection.selector=gps_fused"
        )


def _arc(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    return ArcPredictor(table, config.arcus)


def _sec(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    from gps_ray.selection.sec import SecSelector, kinds_of_prompts  # scikit-learn loads only where it is used

    return SecSelector(table, kinds_of_prompts(table, config.fused, config.sec.num_kinds), config.sec, run_seed)


def _fused(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    from gps_ray.predictor.fused import FusedPredictor  # scikit-learn loads only where it is used

    return FusedPredictor(table, config.fused, follows_learning=config.acquisition == "learning_progress")


PREDICTORS: dict[str, PredictorRow] = {
    "ppm": PredictorRow(factory=_ppm, section="ppm"),
    "beta_counts": PredictorRow(factory=_beta_counts, section="beta_counts"),
    # A prompt's state is that of whole groups: all wrong, mixed or all right.
    "markov_state": PredictorRow(factory=_markov_state, predicts_rates=False, section="dps"),
    "value_model": PredictorRow(factory=_value_model, section="pcl"),
    "arc": PredictorRow(factory=_arc, section="arcus"),
    "fused": PredictorRow(factory=_fused, section="fused"),
}

# Where under ``selection`` a built-in acquisition has settings.
_ACQUISITION_KEYS = dict.fromkeys(NEEDS_LENGTHS, "overhead_tokens")

# The rivals choose by score alone.
_SCORE_ALONE: Mapping[str, Any] = {
    "diversity_within": 0.0,
    "diversity_recent": 0.0,
    "num_recent_batches": 0,
    "random_share": 0.0,
}

_BETA_MEANS: Mapping[str, Any] = {
    **_SCORE_ALONE,
    "predictor": "beta_counts",
    "candidate_multiple": None,
    "beta_counts.discount": 0.9,
}
_MOPPS: Mapping[str, Any] = {
    **_SCORE_ALONE,
    "predictor": "beta_counts",
    "candidate_multiple": 8,
    "beta_counts.discount": 0.5,
}

SELECTORS: dict[str, SelectorRow] = {
    "uniform": SelectorRow(factory=_uniform),
    # Dynamic sampling (DAPO, arXiv 2503.14476) is uniform selection with the filter after the rollout.
    "ds": SelectorRow(factory=_uniform, admission="useful_only"),
    "greso": SelectorRow(factory=_greso, admission="useful_only", section="greso"),
    # arXiv 2507.04632: the B of 8B candidates whose draws are nearest to 1/2, or lie in [0.3, 0.7]. lam = 0.5 is the
    # paper's for Countdown; set selection.beta_counts.discount=1.0 for maths.
    "mopps": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_MOPPS, "acquisition": "thompson_nearest_half"},
        section="beta_counts",
    ),
    "mopps_threshold": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_MOPPS, "acquisition": "thompson_threshold"},
        section="beta_counts",
    ),
    # The strong form of that family: posterior means, slower forgetting, the whole pool.
    "beta_mean": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_BETA_MEANS, "acquisition": "nearest_half_shuffled"},
        section="beta_counts",
    ),
    # MaPP's choice (arXiv 2609.34990) is that family with another score, the expected variance of a reward; its
    # baseline is no matter of selection.
    "mapp": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_BETA_MEANS, "acquisition": "reward_variance_shuffled"},
        section="beta_counts",
    ),
    # arXiv 2609.38018: beliefs on the arc, draws nearest to a target that rises with the policy.
    "arcus": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_SCORE_ALONE, "predictor": "arc", "acquisition": "thompson_paced", "candidate_multiple": 8},
        section="arcus",
    ),
    # arXiv 2505.14970: a bandit over kinds of prompts.
    "sec": SelectorRow(factory=_sec, section="sec"),
    # arXiv 2603.10887: top B by P(mixed) of 8B candidates (Countdown; 32B for maths).
    "dps": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={
            **_SCORE_ALONE,
            "predictor": "markov_state",
            "acquisition": "useful_group_shuffled",
            "candidate_multiple": 8,
        },
        section="dps",
    ),
    # arXiv 2510.01135: of 4B candidates the B with the smallest |V - 1/2|.
    "pcl": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={**_SCORE_ALONE, "predictor": "value_model", "acquisition": "nearest_half", "candidate_multiple": 4},
        section="pcl",
    ),
    # The ceiling: the B most useful of 8B candidates by their true success rates.
    "oracle": SelectorRow(
        factory=_oracle,
        predicts=True,
        needs_true_rates=True,
        preset={**_SCORE_ALONE, "acquisition": "useful_group", "candidate_multiple": 8},
    ),
    # What works at small scale: random candidates, a small PPM, a replay of 32 steps.
    "gps": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={"predictor": "ppm", "acquisition": "nearest_half"},
        section="ppm",
    ),
    # The paper's scale (about 20M parameters), whole pool, newest batch only.
    "gps_paper": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={
            "predictor": "ppm",
            "acquisition": "nearest_half",
            "candidate_multiple": None,
            "ppm.model_dim": 512,
            "ppm.num_layers": 3,
            "ppm.num_heads": 8,
            "ppm.decoder_hidden": 512,
            "ppm.latent_dim": 64,
            "ppm.num_latent_draws": 50,
            "ppm.learning_rate": 1e-3,
            "ppm.replay_steps": 1,
            "ppm.pairs_per_update": 1,
        },
        section="ppm",
    ),
    # Our own answer: shared text model, own record and drift in one posterior. Drawing by the score, random candidates
    # and an eighth of random slots keep the loop "predict, choose, learn from the chosen" from narrowing to one kind of
    # prompt: by rank it took whatever level had the best odds, and forgot the others (docs/comparison.md).
    "gps_fused": SelectorRow(
        factory=predictive,
        predicts=True,
        preset={
            "predictor": "fused",
            "acquisition": "useful_group",
            "sampling_exponent": 6.0,
            "candidate_multiple": 8,
            "random_share": 0.125,
        },
        section="fused",
    ),
}


def selector_row(config: SelectionConfig) -> SelectorRow:
    """The row of ``config.selector``: one of ``SELECTORS``, or what its import path leads to. Raises ConfigError for a
    name that stands for nothing."""
    found = _lookup(SELECTORS, config.selector, "selection.selector")
    return found if isinstance(found, SelectorRow) else SelectorRow(factory=found)


def needs_true_rates(config: SelectionConfig) -> bool:
    """Must somebody tell the selector its candidates' success rates before every selection?"""
    return selector_row(config).needs_true_rates


def resolve_selection(config: SelectionConfig) -> SelectionConfig:
    """The config with the preset of ``config.selector`` filled into every field that nobody set.

    Idempotent. To compare selectors, change ``selector`` on the config as written, before it is resolved. Raises
    ConfigError for a name that stands for nothing, options that nobody takes, and a ``group_size_range`` or a guard
    that the selector cannot use.
    """
    row = selector_row(config)
    tree = config.model_dump(exclude_unset=True)
    for dotted, value in row.preset.items():
        *sections, field = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        # null stands for "the preset's own" in these two, so that a null written out changes nothing.
        if field not in node or (dotted in ("predictor", "acquisition") and node[field] is None):
            node[field] = value
    resolved = SelectionConfig.model_validate(tree)
    _check_options(resolved, row)
    if resolved.group_size_range is not None:
        check_predicts_rates(resolved, "selection.group_size_range", "set selection.group_size_range=null")
    if resolved.guard.enabled and row.needs_true_rates:
        raise ConfigError(
            f"selection.guard.enabled: selector {config.selector!r} is a ceiling to compare with and takes no guard; "
            "set selection.guard.enabled=false for it"
        )
    return resolved


def _check_options(config: SelectionConfig, row: SelectorRow) -> None:
    """Every name stands for something, and the options reach a selector, predictor or acquisition of the user's own
    that takes them."""
    if config.selector in SELECTORS:
        _refuse_options("selection.options", config.options, f"selector {config.selector!r}", _keys_of(row.section))
    else:
        check_options(row.factory, config.options, "selection.options", 4)
    if config.predictor is None or config.predictor in PREDICTORS:
        section = PREDICTORS[config.predictor].section if config.predictor else None
        what = f"predictor {config.predictor!r}"
        _refuse_options("selection.predictor_options", config.predictor_options, what, _keys_of(section))
    else:
        check_options(_predictor_row(config).factory, config.predictor_options, "selection.predictor_options", 4)
    if config.acquisition is None or config.acquisition in ACQUISITIONS:
        what, keys = f"acquisition {config.acquisition!r}", _ACQUISITION_KEYS.get(config.acquisition or "")
        _refuse_options("selection.acquisition_options", config.acquisition_options, what, keys)
    else:
        function = _lookup(ACQUISITIONS, config.acquisition, "selection.acquisition")
        check_options(function, config.acquisition_options, "selection.acquisition_options", 3)


def _keys_of(section: str | None) -> str | None:
    return f"{section}.*" if section else None


def _refuse_options(key: str, options: Mapping[str, Any], what: str, keys: str | None) -> None:
    if options:
        where = f"its settings are selection.{keys}" if keys else "it has no settings of its own"
        raise ConfigError(f"{key}: {what} is not one of your own and takes no options, got {options}; {where}")


def check_predicts_rates(config: SelectionConfig, key: str, remedy: str) -> None:
    """Raises ConfigError, naming the ``key`` that needs it, where the resolved config's selector predicts no success
    rates."""
    if not selector_row(config).predicts:
        raise ConfigError(
            f"{key}: selector {config.selector!r} predicts nothing to go by (predicts=False in its SelectorRow); "
            f"{remedy} or another selection.selector"
        )
    if config.predictor is not None and not _predictor_row(config).predicts_rates:
        raise ConfigError(
            f"{key}: predictor {config.predictor!r} of selector {config.selector!r} says nothing of groups of another "
            f"size, as it predicts no success rates (predicts_rates=False in its PredictorRow); {remedy} or another "
            "selection.selector"
        )


def build_selector(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    """The selector that ``config.selector`` names: a key of ``SELECTORS``, or an import path of a ``SelectorRow`` or a
    factory like its. Raises ConfigError that names the key."""
    resolved = resolve_selection(config)
    selector: PromptSelector = call_with_options(
        selector_row(config).factory, config.options, "selection.options", resolved, table, group_size, run_seed
    )
    return GuardedSelector(selector, table, config.guard, run_seed) if config.guard.enabled else selector


def build_predictor(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    """The predictor that the resolved config names: a key of ``PREDICTORS``, or an import path of a ``PredictorRow`` or
    a factory like its."""
    options, key = config.predictor_options, "selection.predictor_options"
    predictor: Predictor = call_with_options(
        _predictor_row(config).factory, options, key, config, table, group_size, run_seed
    )
    return predictor


def _predictor_row(config: SelectionConfig) -> PredictorRow:
    name = _required(config.predictor, "selection.predictor", config)
    found = _lookup(PREDICTORS, name, "selection.predictor")
    return found if isinstance(found, PredictorRow) else PredictorRow(factory=found)


def _acquisition(config: SelectionConfig) -> Acquisition:
    name = _required(config.acquisition, "selection.acquisition", config)
    function: Callable[..., FloatArray] = _lookup(ACQUISITIONS, name, "selection.acquisition")

    def acquisition(posterior: Posterior, group_size: int, rng: np.random.Generator) -> FloatArray:
        options, key = config.acquisition_options, "selection.acquisition_options"
        scores: FloatArray = call_with_options(function, options, key, posterior, group_size, rng)
        return scores

    return acquisition if config.sampling_exponent is None else sampled(acquisition, config.sampling_exponent)


def _required(name: str | None, key: str, config: SelectionConfig) -> str:
    if name is None:
        raise ConfigError(f"{key}: selector {config.selector!r} has no preset for it, got null; set {key}")
    return name


def _lookup(known: Mapping[str, Any], name: str, key: str) -> Any:
    if name in known:
        return known[name]
    if ":" in name:
        found = load_object(name, key)
        if callable(found) or isinstance(found, (SelectorRow, PredictorRow)):
            return found
        raise ConfigError(f"{key}: expected a class, a function or a row at {name!r}, got {found!r}; change {key}")
    raise ConfigError(
        f"{key}: expected one of {', '.join(sorted(known))} or an import path 'package.module:name', got {name!r}; "
        f"change {key}"
    )
