"""Result files: a figure per line, six digits, the same values when read."""

from __future__ import annotations

import json
from pathlib import Path

from gps_ray.base.json_files import write_json


def test_a_figure_per_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_json(path, {"seeds": [0, 1], "arms": {"gps": {"accuracy": {"mean": 1 / 3, "by_seed": [None, 2.0]}}}})
    assert path.read_text() == (
        '{\n "seeds": [0, 1],\n "arms": {\n  "gps": {\n'
        '   "accuracy": {"mean": 0.333333, "by_seed": [null, 2.0]}\n  }\n }\n}\n'
    )


def test_what_is_long_or_holds_mappings_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    value = {"rows": [{"ms": 1.5}, {"ms": [2.5, 3.5]}], "long": list(range(100)), "none": [], "empty": {}, "text": "é"}
    write_json(path, value)
    assert json.loads(path.read_text()) == value
    assert path.read_text().split("\n")[1:5] == [' "rows": [', '  {"ms": 1.5},', '  {"ms": [2.5, 3.5]}', " ],"]
    assert len(path.read_text().split("\n")) > 100


def test_flat_results_keep_a_line_for_each(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"pass@1": 0.5, "num": 3, "num_tokens": 12345678.0})
    assert path.read_text() == '{\n "pass@1": 0.5,\n "num": 3,\n "num_tokens": 12345678.0\n}\n'
