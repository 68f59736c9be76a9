"""The selection benchmark on a small pool: its arms agree, and its inputs are what they are said to be."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.study.benchmarks.selection import add_arguments, clustered_vectors, run


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--num-candidates", "400", "--batch", "12", "--dim", "16", "--repeats", "1", *words])


def test_arms_pick_the_same_prompts() -> None:
    result = run(_arguments("--naive-every", "1", "--skip-predictors"))
    cases = result["rows"]
    assert len(cases) == 6
    assert all(row["same_picks"] is True for row in cases)
    assert all(row["passes_read"] > 0 for row in cases)
    assert result["bytes_of_one_pass"] == 400 * 16 * 4


@pytest.mark.parametrize("spectrum", ["text", "flat"])
def test_made_vectors_are_unit_rows_around_centres(spectrum: str) -> None:
    rows = clustered_vectors(2000, 64, spectrum)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows, clustered_vectors(2000, 64, spectrum))
    common = float(np.linalg.norm(rows.mean(axis=0)) ** 2)
    assert common == pytest.approx(0.18 if spectrum == "text" else 0.0, abs=0.05)


def test_a_file_of_vectors_takes_their_place_and_a_batch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.eye(40, dtype=np.float32))
    result = run(_arguments("--embeddings", str(tmp_path / "rows.npy"), "--skip-predictors", "--naive-every", "0"))
    assert (result["num_candidates"], result["dim"], len(result["rows"])) == (40, 40, 6)
    with pytest.raises(ConfigError, match="--batch: 500"):
        run(_arguments("--batch", "500"))
