"""What of examples/ needs no Ray; the runs are in tests/ray/test_examples.py."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from examples import own_selector, own_task, own_trainer
from gps_ray.base.types import RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.registry import load_task

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("example", [own_selector, own_task, own_trainer], ids=lambda module: module.__name__)
def test_an_example_says_its_command(example: ModuleType) -> None:
    assert f"    python -m {example.__name__}\n" in (example.__doc__ or "")


def test_the_trainer_learns_and_its_selector_with_it() -> None:
    begun, trained = own_trainer.train("gps_fused", 1), own_trainer.train("gps_fused", 40)
    assert trained["success"] > begun["success"] + 0.03
    assert trained["useful"] > own_trainer.train("uniform", 40)["useful"] + 0.05


def test_the_task_judges_its_own_data(tmp_path: Path) -> None:
    own_task.write_data(tmp_path)
    keys = ("pool_file", "train"), ("evaluation_file", "test")
    files = [f"data.{key}={tmp_path / name}.parquet" for key, name in keys]
    config = load_config(TrainConfig, None, ["data.task=examples.own_task:reward", *files])
    data = load_data(config.data, 10)
    assert (len(data.pool), len(data.evaluation)) == (836, 64)
    task = load_task(config.data.task, config.data.task_options)
    answer = sum(int(number) for number in re.findall(r"\d+", data.pool[0].text))
    assert task.verify(data.pool[0], f"That is {answer}.") == (1.0, RolloutStatus.RIGHT)
    assert task.verify(data.pool[0], f"That is {answer + 1}.") == (0.0, RolloutStatus.WRONG)


def test_the_selector_takes_the_shortest_first() -> None:
    chosen = own_selector.as_a_library()
    assert sorted(chosen, key=len) == chosen


def test_the_page_of_a_selector_shows_the_example() -> None:
    """Line by line, but for types and comments."""
    page = (ROOT / "docs" / "tutorial_own_selector.md").read_text()
    shown = re.search(r"class ShortestFirst.*?(?=\n```)", page, re.DOTALL)
    assert shown is not None
    example = re.sub(r"\s+", "", (ROOT / "examples" / "own_selector.py").read_text())
    for line in shown[0].splitlines():
        code = re.sub(r"\s+", "", line.partition("  #")[0])
        if code and not code.startswith(("def", "class")):
            assert code in example, line


def test_a_wrong_model_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(Exception, match=r"model\.path"):
        own_task.main(["--model", str(tmp_path / "model"), "--dry-run"])
