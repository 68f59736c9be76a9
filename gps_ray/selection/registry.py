"""Selectors by name, and the presets behind the names.

A selector's name stands for a factory, and (for predictive selectors) for a preset: settings that go with the name
wherever the config leaves them unset. ``resolve_selection`` shows the settings a run will really use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import load_object
from gps_ray.config import SelectionConfig
from gps_ray.predictor.beta_counts import BetaCountsPredictor
from gps_ray.predictor.interface import Predictor, PromptTable
from gps_ray.predictor.markov_state import MarkovStatePredictor
from gps_ray.selection.acquisition import ACQUISITIONS, Acquisition, sampled
from gps_ray.selection.greso import GresoSelector
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.oracle import OracleSelector
from gps_ray.selection.selector import PredictiveSelector
from gps_ray.selection.uniform import UniformSelector

__all__ = [
    "PREDICTORS",
    "PRESETS",
    "SELECTORS",
    "PredictorFactory",
    "SelectorFactory",
    "build_predictor",
    "build_selector",
    "needs_true_rates",
    "resolve_selection",
]

# (resolved config, prompt table, group size G, run seed)
SelectorFactory = Callable[[SelectionConfig, PromptTable, int, int], PromptSelector]
PredictorFactory = Callable[[SelectionConfig, PromptTable, int, int], Predictor]


def _uniform(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return UniformSelector(table, run_seed)


def _predictive(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    predictor = build_predictor(config, table, group_size, run_seed)
    return PredictiveSelector(predictor, _acquisition(config), table, config, group_size, run_seed)


def _greso(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return GresoSelector(table, config.greso, run_seed)


def _oracle(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return OracleSelector(_acquisition(config), table, config, group_size, run_seed)


def _ppm(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    from gps_ray.predictor.ppm import PpmPredictor  # torch loads only where it is used

    return PpmPredictor(table, config.ppm, run_seed)


def _beta_counts(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    return BetaCountsPredictor(table, config.beta_counts)


def _markov_state(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    return MarkovStatePredictor(table, config.dps)


def _value_model(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    from gps_ray.predictor.value_model import ValueModelPredictor  # torch loads only where it is used

    return ValueModelPredictor(table, config.pcl, run_seed)


def _fused(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    from gps_ray.predictor.fused import FusedPredictor  # scikit-learn loads only where it is used

    return FusedPredictor(table, config.fused)


SELECTORS: dict[str, SelectorFactory] = {
    "uniform": _uniform,
    "ds": _uniform,  # dynamic sampling is uniform selection with the admission useful_only
    "greso": _greso,
    "mopps": _predictive,
    "mopps_threshold": _predictive,
    "beta_mean": _predictive,
    "dps": _predictive,
    "pcl": _predictive,
    "oracle": _oracle,
    "gps": _predictive,
    "gps_paper": _predictive,
    "gps_fused": _predictive,
}

PREDICTORS: dict[str, PredictorFactory] = {
    "ppm": _ppm,
    "beta_counts": _beta_counts,
    "markov_state": _markov_state,
    "value_model": _value_model,
    "fused": _fused,
}

# The rivals choose by score alone.
_SCORE_ALONE: Mapping[str, Any] = {
    "diversity_within": 0.0,
    "diversity_recent": 0.0,
    "num_recent_batches": 0,
    "random_share": 0.0,
}

_MOPPS: Mapping[str, Any] = {
    **_SCORE_ALONE,
    "predictor": "beta_counts",
    "candidate_multiple": 8,
    "beta_counts.discount": 0.5,
}

# Settings by dotted key under ``selection``, used where the config leaves the key unset.
PRESETS: dict[str, Mapping[str, Any]] = {
    # What works at small scale: random candidates, a small PPM, a replay of 32 steps.
    "gps": {"predictor": "ppm", "acquisition": "nearest_half"},
    # The paper's scale (about 20M parameters), whole pool, newest batch only.
    "gps_paper": {
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
    # Our own answer: shared text model, own record and drift in one posterior. Drawing by the score, random candidates
    # and an eighth of random slots keep the loop "predict, choose, learn from the chosen" from narrowing to one kind of
    # prompt: by rank it took whatever level had the best odds, and forgot the others (docs/comparison.md).
    "gps_fused": {
        "predictor": "fused",
        "acquisition": "useful_group",
        "sampling_exponent": 6.0,
        "candidate_multiple": 8,
        "random_share": 0.125,
    },
    # arXiv 2507.04632: the B of 8B candidates whose draws are nearest to 1/2, or lie in [0.3, 0.7]. lam = 0.5 is the
    # paper's for Countdown; set selection.beta_counts.discount=1.0 for maths.
    "mopps": {**_MOPPS, "acquisition": "thompson_nearest_half"},
    "mopps_threshold": {**_MOPPS, "acquisition": "thompson_threshold"},
    # The strong form of that family: posterior means, slower forgetting, the whole pool.
    "beta_mean": {
        **_SCORE_ALONE,
        "predictor": "beta_counts",
        "acquisition": "nearest_half_shuffled",
        "candidate_multiple": None,
        "beta_counts.discount": 0.9,
    },
    # arXiv 2603.10887: top B by P(mixed) of 8B candidates (Countdown; 32B for maths).
    "dps": {
        **_SCORE_ALONE,
        "predictor": "markov_state",
        "acquisition": "useful_group_shuffled",
        "candidate_multiple": 8,
    },
    # arXiv 2510.01135: of 4B candidates the B with the smallest |V - 1/2|.
    "pcl": {**_SCORE_ALONE, "predictor": "value_model", "acquisition": "nearest_half", "candidate_multiple": 4},
    # The ceiling: the B most useful of 8B candidates by their true success rates.
    "oracle": {**_SCORE_ALONE, "acquisition": "useful_group", "candidate_multiple": 8},
}


def resolve_selection(config: SelectionConfig) -> SelectionConfig:
    """The config with the preset of ``config.selector`` filled into every field that nobody set.

    Idempotent. To compare selectors, change ``selector`` on the config as written, before it is resolved. Raises
    ConfigError for a name that stands for nothing.
    """
    _lookup(SELECTORS, config.selector, "selection.selector")
    tree = config.model_dump(exclude_unset=True)
    for dotted, value in PRESETS.get(config.selector, {}).items():
        *sections, field = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        # null stands for "the preset's own" in these two, so that a null written out changes nothing.
        if field not in node or (dotted in ("predictor", "acquisition") and node[field] is None):
            node[field] = value
    resolved = SelectionConfig.model_validate(tree)
    if resolved.predictor is not None:
        _lookup(PREDICTORS, resolved.predictor, "selection.predictor")
    if resolved.acquisition is not None:
        _lookup(ACQUISITIONS, resolved.acquisition, "selection.acquisition")
    if resolved.group_size_range is not None and SELECTORS.get(resolved.selector) in (_uniform, _greso):
        raise ConfigError(
            f"selection.group_size_range: selector {resolved.selector!r} predicts nothing to share rollouts out by; "
            "set selection.group_size_range=null or another selection.selector"
        )
    return resolved


def needs_true_rates(config: SelectionConfig) -> bool:
    """Must somebody tell the selector its candidates' success rates before every selection?"""
    return SELECTORS.get(config.selector) is _oracle


def build_selector(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    """The selector that ``config.selector`` names: a key of ``SELECTORS``, or an import path 'package.module:factory'
    of a ``SelectorFactory``. Raises ConfigError that names the key."""
    factory: SelectorFactory = _lookup(SELECTORS, config.selector, "selection.selector")
    return factory(resolve_selection(config), table, group_size, run_seed)


def build_predictor(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> Predictor:
    """The predictor that the resolved config names: a key of ``PREDICTORS``, or an import path."""
    factory: PredictorFactory = _lookup(
        PREDICTORS, _required(config.predictor, "selection.predictor", config), "selection.predictor"
    )
    return factory(config, table, group_size, run_seed)


def _acquisition(config: SelectionConfig) -> Acquisition:
    name = _required(config.acquisition, "selection.acquisition", config)
    acquisition: Acquisition = _lookup(ACQUISITIONS, name, "selection.acquisition")
    return acquisition if config.sampling_exponent is None else sampled(acquisition, config.sampling_exponent)


def _required(name: str | None, key: str, config: SelectionConfig) -> str:
    if name is None:
        raise ConfigError(f"{key}: selector {config.selector!r} has no preset for it, got null; set {key}")
    return name


def _lookup(known: Mapping[str, Any], name: str, key: str) -> Any:
    if name in known:
        return known[name]
    if ":" in name:
        return load_object(name, key)
    raise ConfigError(
        f"{key}: expected one of {', '.join(sorted(known))} or an import path 'package.module:name', got {name!r}; "
        f"change {key}"
    )
