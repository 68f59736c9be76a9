"""Every code block of the documentation is run, or its commands and keys are read as the program reads them.

Python runs, a page's blocks one after the other; YAML and overrides must be a config; of a shell command the program,
its options and its config keys must be there. What needs GPUs or a cluster says so in a comment before it,
``<!-- needs: cluster -->``; what another test runs, ``<!-- tested by: tests/... -->``; a file that later blocks use,
``<!-- file: my_selector.py -->``; what is no code, ``<!-- shows: ... -->``. A block that is none of these fails.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gps_ray.base.errors import GpsRayError
from gps_ray.config import SelectionConfig, TrainConfig, load_config
from gps_ray.integrations.commands import COMMANDS
from tests.code_blocks import CodeBlock, code_blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: list(code_blocks(page)) for page in PAGES}

# What a page's Python takes for granted: the reader's own prompts and trainer.
GIVEN = (
    "import json\nprompts = [f'What is {a} + {b} ?' for a in range(20) for b in range(20)]\nnum_steps = 2\n"
    "num_right = [index % 9 for index in range(32)]\ndef train_on(batch): return [len(text) % 9 for text in batch]\n"
)
NEEDS = ("cluster", "GPUs")
# Programs that are not ours: known by name alone; the second kind is not at hand where the tests run.
AT_HAND = ("cd", "export", "mkdir", "cp", "git", ".", "pip")
ELSEWHERE = (
    "ray",
    "scp",
    "ssh",
    "docker",
    "kubectl",
    "sbatch",
    "prometheus",
    "grafana",
    "tensorboard",
    "wandb",
    "mlflow",
)
OTHERS = (*AT_HAND, *ELSEWHERE)
SHELL = re.compile(rf"(?:{'|'.join(map(re.escape, OTHERS))}|python|make|gps-ray|deploy/\S+|\w+=\S+ grafana)(?: |$)")
# Jobs whose key=value are of the selection section.
OF_SELECTION = ("replay", "allocate", "pretrain_predictor")


def language(block: CodeBlock) -> str:
    """As the page says, or as it looks where the page says nothing; "" where it looks like nothing."""
    if block.language:
        return {"bash": "shell", "sh": "shell"}.get(block.language, block.language)
    words = block.text.split()
    if SHELL.match(block.text):
        return "shell"
    if all(re.fullmatch(r"[\w.]+=\S+", word) for word in words):
        return "overrides"
    if not re.match(r"(def|class|import|from|async|@)\b", block.text) and isinstance(_yaml(block.text), dict):
        return "yaml"
    try:
        ast.parse(block.text)
    except SyntaxError:
        return ""
    return "python"


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_kind_that_is_checked_or_says_why_not(page: Path) -> None:
    for block in BLOCKS[page]:
        assert set(block.marks) <= {"needs", "tested by", "file", "shows"}, block.name
        assert block.marks.get("needs", "cluster") in NEEDS, block.name
        if "tested by" in block.marks:
            test = ROOT / block.marks["tested by"]
            assert page.name in test.read_text(), f"{block.name}: {test} does not name the page"
        assert "shows" in block.marks or language(block) in ("shell", "overrides", "yaml", "python"), (
            f"{block.name}: neither code that is known nor marked; see {Path(__file__).name}"
        )
        if language(block) == "shell" and any(words[0] in ELSEWHERE for words in commands(block.text)):
            assert {"needs", "tested by"} & set(block.marks), f"{block.name}: say what it needs, or what runs it"


def _of(kind: str) -> list[Any]:
    return [
        pytest.param(block, id=block.name)
        for blocks in BLOCKS.values()
        for block in blocks
        if language(block) == kind and "shows" not in block.marks
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if any(language(block) == "python" for block in BLOCKS[page])])
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(GIVEN, names)  # noqa: S102
    for block in BLOCKS[page]:
        if language(block) == "python" and not {"shows", "needs", "tested by"} & set(block.marks):
            if "file" in block.marks:
                (tmp_path / block.marks["file"]).write_text(block.text)
            # Signatures in a page may name types that it does not import.
            code = compile(block.text, block.name, "exec", flags=__future__.annotations.compiler_flag)
            exec(code, names)  # noqa: S102
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("block", _of("yaml"))
def test_yaml_is_a_config(block: CodeBlock, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block.text)
    load_config(TrainConfig, file)


@pytest.mark.parametrize("block", _of("overrides"))
def test_overrides_are_of_config_keys(block: CodeBlock) -> None:
    for line in block.text.splitlines():
        load_config(TrainConfig, None, line.split())


class _Parsed(Exception):
    """The arguments were taken; nothing more is done with them."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(parse: Callable[..., argparse.Namespace]) -> Callable[..., argparse.Namespace]:
        def parsed(*args: Any, **kwargs: Any) -> argparse.Namespace:
            raise _Parsed(parse(*args, **kwargs))

        return parsed

    # The intermixed one calls parse_known_args, not parse_args, so each stops once.
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))


def commands(text: str) -> list[list[str]]:
    """The words of each command: lines joined, comments, settings of the environment and brackets of options gone."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r" && | \| ", re.sub(r"\s\[\.\.\.\]", "", line)):
            words = shlex.split(re.sub(r"\s\[(--[^\]]*)\]", r" \1", command), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[0] != "...":
                found.append(words)
    return found


@pytest.mark.parametrize("block", _of("shell"))
def test_shell_commands_are_taken(block: CodeBlock, parse_only: None) -> None:
    for words in commands(block.text):
        if "--" in words and "python" in words[words.index("--") :]:  # a command within one of Ray
            words = words[words.index("--") + 1 :]
        check_command(words, block)


def check_command(words: Sequence[str], block: CodeBlock) -> None:
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program.startswith("deploy/"):
        assert (ROOT / program).is_file(), words
    elif program == "gps-ray":
        assert rest[0] in COMMANDS, words
        check_arguments(f"gps_ray.integrations.commands.{COMMANDS[rest[0]][0]}", rest[1:], block)
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:], block)
    elif program == "python" and rest[0] == "-c":
        ast.parse(rest[1])
    elif program == "python":
        assert f"`{rest[0]}`" in block.page.read_text(), words
    else:
        assert program in OTHERS, words
        for word in rest:
            if word.startswith(("deploy/", "configs/")):
                assert (ROOT / word).is_file(), words


def check_module(module: str, arguments: Sequence[str], block: CodeBlock) -> None:
    if module == "pytest":
        return
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    if module == "jobs.submit":
        job = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
        check_arguments(f"jobs.{arguments[job]}", arguments[job + 1 :], block)
        arguments = arguments[: job + 1]
    if module.startswith("jobs."):
        check_arguments(module, arguments, block)


def check_arguments(module: str, arguments: Sequence[str], block: CodeBlock) -> None:
    """The options are taken, and what is key=value is of the config."""
    if arguments == ["--help"]:
        return
    with pytest.raises(_Parsed) as taken:
        importlib.import_module(module).main(list(arguments))
    (args,) = taken.value.args
    overrides = getattr(args, "overrides", None) or []
    if module.endswith(".report"):  # run folders stand among them
        overrides = [word for word in overrides if "=" in word]
    assert all("=" in word for word in overrides), f"{block.name}: {overrides}"
    if module.rpartition(".")[2] in OF_SELECTION:
        load_config(SelectionConfig, None, overrides)
        return
    config = getattr(args, "config", None)
    if config is not None and str(config).startswith("configs/"):
        assert (ROOT / config).is_file(), f"{block.name}: {config}"
        config = ROOT / config
    else:
        config = None  # the reader's own
    load_config(TrainConfig, config, overrides)


WRONG = [
    ("python -m jobs.train --confg configs/demo.yaml", SystemExit),
    ("python -m jobs.train --config configs/dmeo.yaml", AssertionError),
    ("python -m jobs.train --config configs/demo.yaml run.num_step=5", GpsRayError),
    ("python -m jobs.trian", AssertionError),
    ("gps-ray wacth runs/countdown", AssertionError),
    ("make dmeo", AssertionError),
    ("pyhton -m jobs.train", AssertionError),
]


@pytest.mark.parametrize(("command", "error"), WRONG, ids=[command for command, _ in WRONG])
def test_a_wrong_command_is_found(command: str, error: type[BaseException], parse_only: None) -> None:
    block = CodeBlock(page=ROOT / "README.md", line=1, language="bash", text=command, marks={})
    with pytest.raises(error):
        check_command(shlex.split(command), block)
