"""The learner beside the simulated engine: it trains nothing. Its policy version alone moves the success rates, and,
where there is a trap (``SimulatedConfig``), which prompts it was given."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from gps_ray.base.errors import CheckpointError
from gps_ray.base.storage import writing
from gps_ray.base.types import FloatArray, IntArray, SuccessPrediction, UpdateResult
from gps_ray.config import SimulatedConfig
from gps_ray.learning.groups import NO_PREDICTIONS, count_metrics, train_groups
from gps_ray.weights.simulated_skill import SKILL, skill_after

__all__ = ["SimulatedLearner"]

_DEFAULTS = SimulatedConfig()

STATE_FILE = "simulated_policy.json"


class SimulatedLearner:
    """Same methods as ``Learner``: counts what an update would have trained on. It publishes no weights, or the one
    number that the simulated policy forgets by."""

    def __init__(self, config: SimulatedConfig = _DEFAULTS) -> None:
        self._config = config
        self._policy_version = 0
        self._skill = 0.0

    @property
    def notes(self) -> list[str]:
        return []

    @property
    def policy_version(self) -> int:
        return self._policy_version

    def update(
        self,
        tables: Sequence[pa.Table],
        admitted: Sequence[str],
        predictions: Mapping[str, SuccessPrediction] = NO_PREDICTIONS,
    ) -> UpdateResult:
        start = time.process_time()
        metrics = count_metrics(train_groups(tables, admitted))
        time.sleep(self._config.update_latency_s)
        self._skill = skill_after(self._config, self._skill, admitted)
        self._policy_version += 1
        return UpdateResult(policy_version=self._policy_version, metrics=metrics, cpu_s=time.process_time() - start)

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        return {SKILL: np.array([self._skill])} if self._config.trap_share else {}

    def device_weights(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    def probe(self) -> tuple[IntArray, FloatArray]:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)

    def save(self, directory: Path) -> None:
        self._write(directory / STATE_FILE, {SKILL: self._skill})

    def load(self, directory: Path) -> None:
        try:
            state = json.loads((directory / STATE_FILE).read_text())
            self._policy_version, self._skill = int(state["policy_version"]), float(state.get(SKILL, 0.0))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{directory / STATE_FILE}: expected a saved simulated policy, got: {error}"
            ) from error

    def export(self, directory: Path) -> None:
        """There is no model to write: a config says which simulated policy it was, and that the run is finished."""
        self._write(directory / "config.json", {"model_type": "simulated"})

    def _write(self, path: Path, more: dict[str, Any]) -> None:
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"policy_version": self._policy_version, **more}))
