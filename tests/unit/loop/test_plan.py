"""What becomes of a config before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.plan import with_kept_caches


def _caches(*overrides: str) -> tuple[str, str]:
    config = with_kept_caches(load_config(TrainConfig, None, overrides))
    return str(config.warm_start.cache_directory), str(config.selection.features.cache_directory)


def test_a_jobs_caches_are_found_by_the_next_one_wherever_ray_unpacks_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = _caches("run.directory=/shared/runs/first")
    assert own == ("runs/warm_start", "runs/features")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    beside = ("/shared/runs/warm_start", "/shared/runs/features")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert _caches(f"run.directory=/shared/runs/{name}") == beside
    assert _caches("run.directory=/shared/runs/x", "warm_start.cache_directory=/fast/w")[0] == "/fast/w"
    assert _caches("run.directory=/shared/runs/x", "selection.features.cache_directory=null")[1] == "None"
    assert _caches("run.directory=runs/x") == own  # which is refused
