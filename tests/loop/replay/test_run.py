"""The whole job on small generated tables: what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import GpsRayError
from gps_ray.config import FeaturesConfig, SelectionConfig
from gps_ray.predictor.recorded import RecordedOutcomes, normalised_text, read_recorded
from gps_ray.study.replay.static import static_data, static_figures
from jobs.replay import main
from tests.loop.replay.tables import NoFeatures, features, make_texts, write, write_series, write_static

FIGURES = {
    "spearman_early", "spearman_late", "spearman_seen", "spearman_unseen", "mae", "brier", "ece", "useful_auc",
    "useful_group_ratio", "num_unique_prompts", "seconds_per_step",
}  # fmt: skip


def _replay(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--out", str(tmp_path / "out"), *features(tmp_path)]) == 0
    written: dict[str, Any] = json.loads((tmp_path / "out" / "replay.json").read_text(), parse_constant=_no_constant)
    return written


def _num_shared(file: Path, other: Path) -> int:
    """Prompts of ``file`` whose letters and digits are those of a prompt of ``other`` (short sums coincide)."""
    texts, others = (pq.read_table(path, columns=["prompt"])["prompt"].to_pylist() for path in (file, other))
    known = {normalised_text(text) for text in others}
    return sum(normalised_text(text) in known for text in texts)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_it_writes_all_figures_with_intervals_a_table_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = write_series(tmp_path / "series.parquet")
    arguments = ("--outcomes", series, "--selectors", "gps_fused,beta_mean,uniform", "--seeds", 2)
    written = _replay(tmp_path, *arguments, "--batch-fraction", 0.1)
    assert list(written) == ["gps_fused", "beta_mean", "uniform"]
    for name, figures in written.items():
        assert set(figures) >= FIGURES | {"noise_ceiling", "ece_early", "ece_late", "swap_test"}
        for figure in figures.values():
            assert set(figure) == {"mean", "low", "high", "by_seed"}
            assert len(figure["by_seed"]) == 2
        ratio = figures["useful_group_ratio"]
        assert ratio["low"] <= ratio["mean"] <= ratio["high"]
        assert (figures["spearman_early"]["mean"] is None) == (name == "uniform")
    fused = written["gps_fused"]
    assert fused["spearman_early"]["mean"] < fused["noise_ceiling"]["mean"] < 1
    difference = np.array(fused["spearman_early"]["by_seed"]) - written["beta_mean"]["spearman_early"]["by_seed"]
    assert fused["spearman_early_minus_beta_mean"]["by_seed"] == pytest.approx(difference, abs=1e-5)

    shown = capsys.readouterr().out
    assert "over 2 seeds" in shown
    for name in written:
        assert name in shown
    page = (tmp_path / "out" / "replay.html").read_text()
    assert page.count("<svg") >= 3
    assert "useful groups over time" in page
    assert "noise ceiling" in page
    assert f"{fused['spearman_early']['mean']:.3f}" in page


def test_random_reveals_make_the_choice_the_same_for_all(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series.parquet")
    arguments = ("--outcomes", series, "--selectors", "beta_mean,uniform", "--seeds", 2)
    chosen, random = (_replay(tmp_path, *arguments, "--reveal", reveal) for reveal in ("selected", "random"))
    page = (tmp_path / "out" / "replay.html").read_text()
    assert "picks replaced by random ones" in page
    assert "useful groups over time" not in page  # the plot would say of selectors what chance did
    for figure in ("useful_group_ratio", "num_unique_prompts"):
        assert len({str(figures[figure]["by_seed"]) for figures in random.values()}) == 1
        assert len({str(figures[figure]["by_seed"]) for figures in chosen.values()}) > 1


def test_a_prior_is_learnt_from_the_prompts_that_do_not_overlap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = write_series(tmp_path / "series.parquet")
    copies = [f"  {text.replace(' + ', '+')} " for text in make_texts(80)[:30]]
    other = write_static(tmp_path / "other.parquet", extra=copies)
    arguments = ("--outcomes", series, "--selectors", "gps_fused,beta_mean", "--seeds", 1, "--reveal", "random")
    without, with_prior = _replay(tmp_path, *arguments), _replay(tmp_path, *arguments, "--prior", other)
    num_shared = _num_shared(other, series)
    assert num_shared >= len(copies)
    kept = len(read_recorded(other).prompts) - num_shared
    assert f"text prior: {kept} prompts ({num_shared} overlapping ones removed)" in capsys.readouterr().err
    early = "spearman_early"
    assert with_prior["gps_fused"][early]["mean"] > without["gps_fused"][early]["mean"]
    assert with_prior["beta_mean"][early] == without["beta_mean"][early]  # takes no prior
    assert (tmp_path / "out" / "text_prior" / "text_prior.json").exists()


def test_static_learns_from_labels_and_is_judged_on_held_out_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    static = write_static(tmp_path / "static.parquet")
    arguments = ("--static", static, "--selectors", "gps_fused,pcl,uniform", "--labels", "60,200", "--seeds", 2)
    written = _replay(tmp_path, *arguments)
    for name in ("spearman", "mae", "brier", "ece", "useful_auc", "noise_ceiling"):
        assert len(written["gps_fused"][f"static_{name}_200"]["by_seed"]) == 2
    fewer, more = (written["gps_fused"][f"static_spearman_{n}"]["mean"] for n in (60, 200))
    assert 0.4 < fewer < more
    # Embeddings that say nothing: a value model on them ranks nothing.
    assert written["pcl"]["static_spearman_200"]["mean"] is None
    assert written["uniform"] == {}
    assert not (tmp_path / "out" / "replay.html").exists()
    assert "60 labels" in capsys.readouterr().out

    test = write_static(tmp_path / "test.parquet", 50, stream="test", extra=make_texts(300, "static")[:40])
    _replay(tmp_path, "--static", static, "--selectors", "uniform", "--labels", "60", "--test", test)
    num_learn, num_test = (len(read_recorded(file).prompts) for file in (static, test))
    num_shared = _num_shared(static, test)
    assert num_shared >= 40
    assert f"{num_learn - num_shared} prompts to learn from, {num_test} held out" in capsys.readouterr().err


def test_a_fifth_is_held_out_by_the_prompt_and_labels_are_drawn_by_the_seed(tmp_path: Path) -> None:
    config = FeaturesConfig(provider=f"{NoFeatures.__module__}:NoFeatures", cache_directory=tmp_path)
    recorded = read_recorded(write_static(tmp_path / "static.parquet", 500))
    data = static_data(recorded, None, config)
    assert set(data.learn.prompts) | set(data.test.prompts) == set(recorded.prompts)
    assert not set(data.learn.prompts) & set(data.test.prompts)
    assert 0.15 < len(data.test.prompts) / len(recorded.prompts) < 0.25
    # The same prompts stay held out, in any order and in any company.
    backwards = recorded.take(np.arange(len(recorded.prompts))[100:][::-1])
    again = static_data(backwards, None, config)
    assert set(again.test.prompts) == set(data.test.prompts) & set(backwards.prompts)
    selection = SelectionConfig.model_validate({"selector": "gps_fused", "features": config})
    same, other = (static_figures(data, 100, selection, seed)["spearman"] for seed in (0, 1))
    assert same == static_figures(data, 100, selection, 0)["spearman"]
    assert same != other
    assert isinstance(data.test, RecordedOutcomes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--selectors", "gps"], "expected --outcomes FILE, --static FILE or both, got neither"),
        (["--selectors", "gps", "--outcomes", "absent.parquet"], "absent.parquet: expected a Parquet file with"),
        (["--selectors", "gps,gsp", "--outcomes", "SERIES"], "selection.selector"),
        (["--selectors", "gps,gps", "--outcomes", "SERIES"], "--selectors: expected different names"),
        (["--selectors", ",", "--outcomes", "SERIES"], "--selectors: expected different names"),
        (["--selectors", "gps", "--outcomes", "SERIES", "--seeds", "0"], "expected numbers of at least 1"),
        (["--selectors", "gps", "--outcomes", "SERIES", "--batch-fraction", "0"], "--batch-fraction: expected a share"),
        (["--selectors", "gps", "--outcomes", "STATIC"], "no column rollouts_per_point"),
        (["--selectors", "gps", "--static", "SERIES", "--labels", "9"], "columns prompt, successes, rollouts"),
        (["--selectors", "gps", "--static", "STATIC"], "--static: needs --labels"),
        (["--selectors", "gps", "--static", "STATIC", "--labels", "0"], "expected numbers of at least 1"),
        (["--selectors", "gps", "--outcomes", "SERIES", "--labels", "9"], "--labels and --test: belong to --static"),
        (["--selectors", "gps", "--outcomes", "SERIES", "--test", "STATIC"], "--labels and --test: belong to --static"),
        (["--selectors", "gps", "--static", "STATIC", "--labels", "9", "--prior", "STATIC"], "--prior: belongs to"),
        (["--selectors", "gps", "--outcomes", "SERIES", "--prior", "SERIES"], "successes, rollouts"),
        (["--selectors", "gps_fused", "--outcomes", "SERIES", "--prior", "FEW"], "text prior: expected at least 50"),
        (["--selectors", "gps", "--outcomes", "SERIES", "fused.depth=3"], "fused.depth"),
        (
            ["--selectors", "gps", "--outcomes", "SERIES", "acquisition=useful_per_token"],
            "selection.acquisition: useful_per_token needs response lengths, which recorded outcomes do not have",
        ),
        (["--selectors", "gps", "--static", "ONE", "--labels", "9"], "--static: "),
    ],
)
def test_wrong_input_is_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    one = write(tmp_path / "one.parquet", prompt=["a"], successes=[1], rollouts=[2])
    files = {
        "SERIES": write_series(tmp_path / "series.parquet", 20, 3),
        "STATIC": write_static(tmp_path / "static.parquet", 20),
        "FEW": write_static(tmp_path / "few.parquet", 20, stream="few"),
        "ONE": one,
    }
    named = [str(files.get(argument, argument)) for argument in arguments]
    with pytest.raises(GpsRayError) as error:
        main([*named, "--out", str(tmp_path / "out"), *features(tmp_path)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "replay.json").exists()
