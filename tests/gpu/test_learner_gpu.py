"""The learner on a GPU does what it does on the CPU, up to rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gps_ray.config import LearningConfig
from gps_ray.learning.learner import Learner
from tests.unit.learning.rollouts import ALL_WRONG, MIXED, ids, make_groups, make_model, make_tables

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


def test_an_update_on_the_gpu_is_the_one_on_the_cpu(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    groups = make_groups([MIXED, ALL_WRONG, MIXED, "rw"])
    metrics, probes = [], []
    for num_gpus in (0, 1):
        config = LearningConfig(num_gpus_per_worker=num_gpus, num_threads=1, kl_coefficient=0.01)
        learner = Learner(directory, config, dtype="float32", temperature=1.0)
        metrics.append(learner.update(make_tables(groups), ids(groups)).metrics)
        learner.save(tmp_path / f"{num_gpus}")
        learner.load(tmp_path / f"{num_gpus}")
        probes.append(learner.probe()[1])
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    np.testing.assert_allclose(probes[0], probes[1], atol=1e-3)
