"""What a selector is asked, what it is shown, and how it is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import IntArray
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.recorded import RecordedSeries, read_series
from gps_ray.selection.registry import SELECTORS
from gps_ray.selection.uniform import UniformSelector
from gps_ray.study.replay.protocol import CURVES, ReplayRun, batch_size, replay
from tests.loop.replay.tables import GROUP_SIZE, write_series

LOG: list[tuple[str, int, IntArray, IntArray]] = []


class LoggingSelector(UniformSelector):
    """Uniform selection that writes down what it is asked and shown."""

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        LOG.append(("predict", step, rows, rows))
        return super().predict(rows, step)

    def observe(self, batch: OutcomeBatch) -> None:
        LOG.append(("observe", batch.step, batch.rows, batch.num_right))
        super().observe(batch)


def logging_selector(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> LoggingSelector:
    assert group_size == GROUP_SIZE
    return LoggingSelector(table, run_seed)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> RecordedSeries:
    return read_series(write_series(tmp_path_factory.mktemp("series") / "series.parquet"))


def _table(series: RecordedSeries) -> PromptTable:
    num_prompts = len(series.prompts)
    return PromptTable(
        prompt_ids=tuple(map(str, range(num_prompts))),
        texts=series.prompts,
        embeddings=np.eye(num_prompts, 16, dtype=np.float32),
        num_pool=num_prompts,
    )


def _run(series: RecordedSeries, selector: str, reveal: str = "selected", seed: int = 0) -> ReplayRun:
    config = SelectionConfig.model_validate({"selector": selector, "num_prompts": 10})
    return replay(series, _table(series), config, seed, reveal)  # type: ignore[arg-type]


@pytest.mark.parametrize("reveal", ["selected", "random"])
def test_at_every_point_the_whole_pool_is_predicted_then_only_the_picks_are_shown(
    series: RecordedSeries, reveal: str
) -> None:
    LOG.clear()
    run = _run(series, f"{__name__}:logging_selector", reveal)
    assert [(kind, step) for kind, step, _, _ in LOG] == [
        (kind, step) for step in range(10) for kind in ("predict", "observe")
    ]
    seen: set[int] = set()
    for kind, step, rows, num_right in LOG:
        if kind == "predict":
            assert rows.tolist() == list(range(80))
        else:
            assert len(set(rows.tolist())) == 10
            assert num_right.tolist() == series.num_right[rows, step].tolist()
            useful = (num_right > 0) & (num_right < GROUP_SIZE)
            assert run.curves["useful_group_ratio"][step] == useful.mean()
            seen |= set(rows.tolist())
    assert run.num_unique_prompts == len(seen)


def test_random_reveals_are_the_same_for_every_selector_of_a_seed(series: RecordedSeries) -> None:
    first, second, other = (
        _run(series, name, "random", seed) for name, seed in (("beta_mean", 0), ("gps_fused", 0), ("gps_fused", 1))
    )
    ratio = "useful_group_ratio"
    assert first.curves[ratio].tolist() == second.curves[ratio].tolist()
    assert second.curves[ratio].tolist() != other.curves[ratio].tolist()


@pytest.mark.parametrize("selector", sorted(set(SELECTORS) - {"gps_paper"}))
def test_every_selector_can_be_replayed_and_repeats_itself(series: RecordedSeries, selector: str) -> None:
    first, second = _run(series, selector), _run(series, selector)
    assert set(first.curves) == set(CURVES)
    for name in set(CURVES) - {"seconds"}:
        np.testing.assert_array_equal(first.curves[name], second.curves[name], err_msg=name)
    assert np.isfinite(first.curves["useful_group_ratio"]).all()
    assert (first.curves["seconds"] >= 0).all()


def test_the_oracle_is_right_and_uniform_predicts_nothing(series: RecordedSeries) -> None:
    oracle, uniform = _run(series, "oracle"), _run(series, "uniform")
    np.testing.assert_allclose(oracle.curves["spearman"], 1)
    np.testing.assert_allclose(oracle.curves["mae"], 0)
    assert oracle.curves["useful_group_ratio"].mean() > uniform.curves["useful_group_ratio"].mean() + 0.2
    assert np.isnan(uniform.curves["spearman"]).all()
    assert uniform.num_unique_prompts == 80  # an epoch is 8 of the 10 points


def test_predictors_learn_and_know_the_seen_from_the_unseen(series: RecordedSeries) -> None:
    fused, beta = _run(series, "gps_fused", "random"), _run(series, "beta_mean", "random")
    assert fused.curves["spearman"][5:].mean() > beta.curves["spearman"][5:].mean()
    # Too few are seen at first, too few are unseen in the end.
    assert np.isnan(fused.curves["spearman_seen"][:2]).all()
    assert np.isfinite(fused.curves["spearman_seen"][5:]).all()
    assert np.isfinite(fused.curves["spearman_unseen"][0])
    # Beta counts know nothing of a prompt without outcomes; the text does.
    assert np.isnan(beta.curves["spearman_unseen"]).all()
    assert fused.curves["spearman_unseen"][5] > 0.3
    assert np.isfinite(fused.curves["swap_test"]).all()
    assert np.isnan(beta.curves["swap_test"]).all()


def test_shares_of_the_pool(series: RecordedSeries) -> None:
    assert batch_size(series, 0.05) == 4
    assert batch_size(series, 1e-6) == 1
    assert batch_size(series, 1.0) == 80
    for fraction in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"--batch-fraction: expected a share of the pool in \(0, 1\]"):
            batch_size(series, fraction)


def test_nobody_needs_a_file_to_replay(tmp_path: Path) -> None:
    """The whole pool at once, prompts with fewer rollouts than the others, and no prompt that is solved or failed."""
    right = np.array([[1, 2, 3], [2, 1, 2], [3, 3, 1]])
    small = RecordedSeries(prompts=("a", "b", "c"), num_right=right, num_tried=np.array([8, 8, 4]))
    config = SelectionConfig.model_validate({"selector": "beta_mean", "num_prompts": 3})
    run = replay(small, _table(small), config, 0)
    assert run.num_unique_prompts == 3
    assert run.curves["useful_group_ratio"].tolist() == [1, 1, 1]
    assert np.isnan(run.curves["useful_auc"]).all()
