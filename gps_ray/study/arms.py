"""What a comparison compares: configs by name, each run under every seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.config import Fact, TrainConfig, key_facts, load_config, read_mapping
from gps_ray.learning.schedule import check_same_end
from gps_ray.loop.plan import resolve
from gps_ray.run.checkpoint import check_same_config
from gps_ray.run.folder import RunFolder

__all__ = ["by_selector", "by_variant", "is_left", "run_config"]

_SHARED_KEYS = tuple(key for key, facts in key_facts(TrainConfig).items() if Fact.SHARED in facts.others)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def by_selector(config: TrainConfig, selectors: Sequence[str]) -> dict[str, TrainConfig]:
    """One arm per selector, all else as in ``config``. Raises ConfigError where there is none, or no such
    selector."""
    if not selectors:
        raise ConfigError("--selectors: expected names with commas between, got none; for instance uniform,gps_fused")
    return {
        name: _checked(config.model_copy(update={"selection": config.selection.model_copy(update={"selector": name})}))
        for name in selectors
    }


def by_variant(config_file: Path | None, variants_file: Path, overrides: Sequence[str]) -> dict[str, TrainConfig]:
    """One arm per entry of a YAML file, ``name: [section.key=value, ...]``, laid over ``config_file``; then
    come ``overrides``, which hold for all.

    Raises ConfigError where the file is not so, or where variants differ in data, model or warm start.
    """
    variants = read_mapping("--variants", variants_file, "variants, name: [section.key=value, ...]")
    if not variants:
        raise ConfigError(f"--variants: {variants_file} holds none; write name: [section.key=value, ...]")
    arms: dict[str, TrainConfig] = {}
    for name, changes in variants.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"--variants: a variant's name becomes a folder, expected letters, digits and _ . + - , got {name!r}; "
                f"rename it in {variants_file}"
            )
        if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
            raise ConfigError(
                f"--variants: {name} must be a list of section.key=value, got {changes!r}; change it in {variants_file}"
            )
        arms[name] = _checked(load_config(TrainConfig, config_file, [*changes, *overrides]))
    first, *others = arms
    for name in others:
        for key in _SHARED_KEYS:
            if attrgetter(key)(arms[name]) != attrgetter(key)(arms[first]):
                raise ConfigError(
                    f"--variants: {name} differs from {first} in {key}, which all runs of a comparison share; set "
                    f"{key} for all, in the config or on the command line"
                )
    return arms


def run_config(arm: TrainConfig, name: str, seed: int, directory: Path) -> TrainConfig:
    """The resolved config of one run: this arm and seed, in ``directory/<name>/seed_<seed>``."""
    own = {"seed": seed, "directory": directory / name / f"seed_{seed}"}
    if arm.run.mirror is not None:
        place, question, query = arm.run.mirror.partition("?")
        own["mirror"] = f"{place.rstrip('/')}/{name}/seed_{seed}{question}{query}"
    run = arm.run.model_copy(update=own)
    return resolve(arm.model_copy(update={"run": run}))


def is_left(run: TrainConfig) -> bool:
    """True unless the run's folder holds it finished. Raises CheckpointError where what is finished there had another
    config, in more than how it is computed: it would be taken for this one's result."""
    folder = RunFolder(run.run.directory)
    if not folder.is_finished(run.run.num_steps):
        return True
    try:
        # Read as a config, so that keys that are newer than the run have their defaults.
        made_with = load_config(TrainConfig, folder.config)
        check_same_end(made_with.model_dump(mode="json"), run)
        check_same_config(made_with, run)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{folder.root}: {error}") from error
    return False


def _checked(arm: TrainConfig) -> TrainConfig:
    """The same config; what is wrong with it is said here. Not the resolved one: a seed and folder come first."""
    resolve(arm)
    return arm
