"""The bar of docs/replay.md at 5 %, on a real GRPO run's success rates where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.config import FeaturesConfig, SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.recorded import read_series
from gps_ray.study.replay.protocol import batch_size, replay
from gps_ray.study.replay.summary import EARLY, LATE

RECORDED = Path(__file__).parents[4] / "shared" / "data" / "success_trajectories.parquet"


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded success rates are not part of the repository")
def test_gps_fused_beats_beta_counts_on_a_recorded_run(tmp_path: Path) -> None:
    series = read_series(RECORDED)
    table = PromptTable(
        prompt_ids=tuple(map(str, range(len(series.prompts)))),
        texts=series.prompts,
        embeddings=embed_texts(series.prompts, FeaturesConfig(cache_directory=tmp_path)),
        num_pool=len(series.prompts),
    )
    spearman, ece = {}, {}
    for selector in ("gps_fused", "beta_mean"):
        config = SelectionConfig.model_validate({"selector": selector, "num_prompts": batch_size(series, 0.05)})
        curves = replay(series, table, config, seed=0, reveal="random").curves
        spearman[selector] = np.array([curves["spearman"][EARLY].mean(), curves["spearman"][LATE].mean()])
        ece[selector] = curves["ece"][2:].mean()
    assert (spearman["gps_fused"] > [0.53, 0.83]).all()
    assert (spearman["gps_fused"] > spearman["beta_mean"] + [0.05, 0.01]).all()
    assert ece["gps_fused"] < 0.05
