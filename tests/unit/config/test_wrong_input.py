"""Config files and command lines as no one should write them: one line that names the key and the remedy."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import build_from_path, load_object
from gps_ray.config import TrainConfig, load_config
from gps_ray.config.yaml_text import parse_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
WRONG_FILES: dict[str, tuple[bytes, str]] = {
    "latin-1": ("run: {directory: 'größe'}".encode("latin-1"), "is not UTF-8 (byte 20 is 0xf6); save it as UTF-8"),
    "utf-16": ("run: {}".encode("utf-16"), "is not UTF-8"),
    "null bytes": (b"run: {\0}", "is not YAML"),
    "bomb": (BOMB.encode(), "its anchors unfold to more"),
    "holds itself": (b"run: &a [*a]", "its anchors unfold to more"),
    "deep": (b"run: " + b"[" * 3000 + b"]" * 3000, "expected at most 32 levels"),
    "deep mappings": (b"{a: " * 100 + b"1" + b"}" * 100, "expected at most 32 levels"),
    "large": (b"# " + b"x" * (2 << 20), "expected at most 1,048,576 bytes"),
    "section twice": (b"run: {num_steps: 3}\nrun: {seed: 4}\n", "run stands twice; keep one"),
    "key twice": (b"run: {seed: 3, seed: 4}\n", "seed stands twice; keep one"),
    "list": (b"- run\n- data\n", "must hold sections (a mapping), got ['run', 'data']"),
    "text": (b"just text", "must hold sections (a mapping), got 'just text'"),
    "zero": (b"0", "must hold sections"),
    "false": (b"false", "must hold sections"),
    "numbers as names": (b"1: {seed: 1}", "must hold sections"),
    "list as a name": (b"? [1, 2]\n: 3\n", "is not YAML"),
    "two documents": (b"run: {}\n---\nrun: {}\n", "is not YAML"),
    "unknown anchor": (b"run: *nobody", "is not YAML"),
    "python object": (b"run: !!python/object/apply:os.system [echo]", "is not YAML"),
    "tabs": (b"run:\n\tseed: 1\n", "is not YAML"),
    "section as a list": (b"run: [1, 2]", "run: Input should be a valid dictionary"),
    "huge value": (b"run: {seed: " + b"x" * 100_000 + b"}", "got 'xxx"),
}
WRONG_OVERRIDES: dict[str, str] = {
    "run.num_steps": "expected key=value, got 'run.num_steps'",
    "=5": "expected key=value, got '=5'",
    "run=5": "run: Input should be a valid dictionary",
    "run.num_steps=true": "run.num_steps: expected a number, got true; change num_steps",
    "learning.learning_rate=false": "learning.learning_rate: expected a number, got false",
    "run.num_steps=1:30": "run.num_steps: Input should be a valid integer",
    "run.num_steps=2026-11-27": "run.num_steps: Input should be a valid integer",
    "run.num_steps=1.5": "run.num_steps: Input should be a valid integer",
    "run.num_steps=0x10": "run.num_steps: Input should be a valid integer",
    "run.num_steps=.inf": "run.num_steps: Input should be a finite number",
    "run.num_steps=": "run.num_steps: Input should be a valid integer",
    "run.num_steps=[1]": "run.num_steps: Input should be a valid integer",
    "run.num_steps=-1": "run.num_steps: Input should be greater than or equal to 1",
    f"run.seed={1 << 63}": "run.seed: expected a number of at most 64 bits, got more",
    f"run.seed={'9' * 5000}": "run.seed",
    "learning.learning_rate=.inf": "learning.learning_rate: Input should be a finite number",
    "learning.learning_rate=-.inf": "learning.learning_rate: Input should be a finite number",
    "learning.learning_rate=.nan": "learning.learning_rate: Input should be a finite number",
    "learning.learning_rate=1e999": "learning.learning_rate: Input should be a finite number",
    "learning.learning_rate=ten": "learning.learning_rate: Input should be a valid number",
    "learning.learning_rate=null": "learning.learning_rate: Input should be a valid number",
    "rollout.temperature={a: {b: {c: {d: 1}}}}": "rollout.temperature: Input should be a valid number",
    "cluster.local_dashboard=maybe": "cluster.local_dashboard: Input should be a valid boolean",
    "cluster.gpu=tpu": "cluster.gpu: expected one of ",
    "rollout.engine=tpu": "rollout.engine: Input should be 'torch', 'vllm' or 'simulated'",
    "run.seed.deep=1": "run.seed: Input should be a valid integer",
    "run.seed={": "run.seed is not YAML",
    "run.seed=*a": "run.seed is not YAML",
    "run.seed=!!python/name:os.system x": "run.seed is not YAML",
    "run.nothing=1": "run.nothing: unknown key; known here: directory, seed",
    "nothing.at.all=1": "nothing: unknown key",
    "run.directory=[a]": "run.directory: Input is not a valid path",
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_one_line(tmp_path: Path, case: str) -> None:
    content, said = WRONG_FILES[case]
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, file)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert len(line) < 900


@pytest.mark.parametrize("override", WRONG_OVERRIDES, ids=lambda text: text[:40])
def test_a_wrong_override_is_one_line(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, None, [override])
    line = str(caught.value)
    assert line.startswith(WRONG_OVERRIDES[override])
    assert "\n" not in line
    assert len(line) < 900


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "null byte", "not to be read"])
def test_what_is_no_file_is_said_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "null byte":
        path = tmp_path / "a\0b"
    elif kind == "not to be read":
        path.write_text("run: {}")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads every file")
    with pytest.raises(ConfigError, match=r"^--config: .*give an existing YAML file$"):
        load_config(TrainConfig, path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("010", 10.0),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("2026-11-27", "2026-11-27"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, 2e3]", [1, 2000.0]),
    ],
)
def test_yaml_without_its_guesses(text: str, value: Any) -> None:
    found = parse_yaml(text, "x")
    assert found == value
    assert type(found) is type(value)


def test_what_is_no_class_or_function_is_not_shown() -> None:
    """``os:environ`` holds keys."""
    with pytest.raises(ConfigError) as caught:
        build_from_path("os:environ", "data.task", {}, "data.task_options")
    assert str(caught.value).startswith("data.task: expected a class or function at 'os:environ', got one of type ")
    assert len(str(caught.value)) < 200


def test_anchors_that_people_use_still_work() -> None:
    text = "base: &b {seed: 1, num_steps: 2}\nrun: {<<: *b, seed: 3}\n"
    assert parse_yaml(text, "x")["run"] == {"seed": 3, "num_steps": 2}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ValueError('no\\nway')", "ValueError: no way"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nobody_knows_this", "ModuleNotFoundError: No module named 'nobody_knows_this'"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    (tmp_path / "broken_module.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("broken_module", None)
    with pytest.raises(ConfigError) as caught:
        load_object("broken_module:f", "data.task")
    assert str(caught.value).startswith(f"data.task: cannot import 'broken_module' ({said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["..:f", "a b:f", "a.:f", "/x/y.py:f", "a::", ":f", "a:", "", "os:no_such_name", "é\0:f"]
)
def test_an_odd_import_path_is_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.task: .*change data\.task$"):
        load_object(path, "data.task")
