"""The paper's scale on CPU: one update and one prediction of 40,000 prompts, with what they cost."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.keyed_random import generator
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.ppm import PpmPredictor
from gps_ray.selection.registry import resolve_selection

pytestmark = pytest.mark.ray  # of its own process, whose memory is measured

NUM_PROMPTS, BATCH = 40_000, 256


def _status_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (highest since the last reset) of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def test_twenty_million_parameters_learn_and_predict_the_whole_pool() -> None:
    rng = generator(0, "test/paper")
    embeddings = rng.standard_normal((NUM_PROMPTS, 256), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    table = PromptTable(
        prompt_ids=tuple(map(str, range(NUM_PROMPTS))),
        texts=("",) * NUM_PROMPTS,
        embeddings=embeddings,
        num_pool=NUM_PROMPTS,
    )
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the tests before
    before = _status_mib("VmRSS")
    predictor = PpmPredictor(table, resolve_selection(SelectionConfig(selector="gps_paper")).ppm, 0)
    assert 18e6 < predictor.num_parameters < 22e6
    batch = OutcomeBatch(
        step=1,
        rows=rng.choice(NUM_PROMPTS, size=BATCH, replace=False),
        num_right=rng.integers(0, 2, size=BATCH, dtype=np.int32),
        num_tried=np.full(BATCH, 8, np.int32),
        mean_response_length=np.full(BATCH, np.nan, np.float32),
    )
    cpu = time.process_time()
    predictor.observe(batch)
    update_s = time.process_time() - cpu
    cpu = time.process_time()
    mean = predictor.predict(np.arange(NUM_PROMPTS), 2).mean()
    predict_s = time.process_time() - cpu
    peak_mib = _status_mib("VmHWM") - before
    print(f"update {update_s:.2f} CPU-s, predict {predict_s:.2f} CPU-s, {peak_mib:.0f} MiB above the table")
    assert mean.shape == (NUM_PROMPTS,)
    assert ((mean > 0) & (mean < 1)).all()
    assert np.isfinite(predictor.metrics()["elbo"])
    # Measured alone on one EPYC core: update 0.4 CPU-s, predict 0.5 CPU-s, 330 MiB (300 MiB of it weights, gradients
    # and two moments); wide margins for slower machines.
    assert update_s < 15
    assert predict_s < 15
    assert peak_mib < 1500
