"""Evaluation suites during a training run, on in-process ports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.suites import extra_suites, read_suites
from gps_ray.run.metrics import read_metrics
from gps_ray.tasks.dataset import write_prompts
from tests.loop.ports import Run, simulated_config, simulated_data


def _prompts(name: str, num: int) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(prompt_id="", text=f"{name} {i}", answer=str(i), task=f"source{i % 2}", level=f"{name}-{i % 2}")
        for i in range(num)
    )


def _config(tmp_path: Path, *overrides: str) -> TrainConfig:
    for name, num in (("easy", 12), ("hard", 5)):
        write_prompts(tmp_path / f"{name}.parquet", _prompts(name, num))
    return simulated_config(
        tmp_path / "run",
        "data.task=exact",
        *(f"evaluation.suites.{name}.file={tmp_path / name}.parquet" for name in ("easy", "hard")),
        "evaluation.suites.hard.rollouts_per_prompt=8",
        *overrides,
    )


def test_suites_are_measured_at_every_evaluation_beside_the_main_set(tmp_path: Path) -> None:
    config = _config(tmp_path, "evaluation.suites.easy.max_prompts=10")
    data = replace(simulated_data(), suites=read_suites(config, ()))
    plain = Run(simulated_config(tmp_path / "plain"))
    plain()
    run = Run(config, data=data)
    last = run()
    steps = read_metrics(run.folder.metrics.path)
    for name, num in (("easy", 10), ("hard", 5)):
        assert [s["step"] for s in steps if f"val/{name}/pass@1" in s] == [0, 3, 6]
        assert last[f"val/{name}/num_prompts"] == num
        low, high = (last[f"val/{name}/pass@1/{end}"] for end in ("low", "high"))
        assert low <= last[f"val/{name}/pass@1"] <= high
        assert {f"val/{name}/pass@1/level/{name}-{i}" for i in (0, 1)} <= last.keys()
        assert {f"val/{name}/pass@1/source/source{i}" for i in (0, 1)} <= last.keys()
    assert "val/hard/pass@8" in last
    assert "val/easy/pass@8" not in last
    # Nothing that was there without suites is another for them, but for what they cost.
    before = {k: v for k, v in read_metrics(plain.folder.metrics.path)[-1].items() if k.startswith(("val/", "train/"))}
    assert before == {k: last[k] for k in before}
    assert last["cost/num_rollouts_evaluation"] == 3 * (10 * 4 + 10 * 4 + 5 * 8)


def test_what_cannot_be_a_suite_is_said_with_its_key(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with pytest.raises(DataError, match=r"evaluation\.suites\.easy\.file: 12 of 12 prompts are also in"):
        read_suites(config, _prompts("easy", 12))
    with pytest.raises(DataError, match=r"evaluation\.suites\.none\.file: no file"):
        read_suites(_config(tmp_path, "evaluation.suites.none.file=none.parquet"), ())
    with pytest.raises(ConfigError, match=r"evaluation\.suites\.easy\.task: .*'maths'"):
        read_suites(_config(tmp_path, "evaluation.suites.easy.task=maths"), ())
    with pytest.raises(ConfigError, match=r"evaluation\.suites\.easy\.k: unknown key; known here: file, task"):
        _config(tmp_path, "evaluation.suites.easy.k=3")
    with pytest.raises(ConfigError, match=r"evaluation\.suites\.easy\.rollouts_per_prompt: a greedy response"):
        _config(tmp_path, "evaluation.suites.easy.temperature=0")
    with pytest.raises(ConfigError, match="task_options: goes with task"):
        _config(tmp_path, "evaluation.suites.easy.task_options={format: boxed}")
    with pytest.raises(ConfigError, match="choose another name"):
        load_config(TrainConfig, None, ("evaluation.suites.evaluation.file=x",))
    with pytest.raises(ConfigError, match="should match pattern"):
        load_config(TrainConfig, None, ("evaluation.suites.a/b.file=x",))


def test_a_suite_has_what_it_says_and_else_what_the_evaluation_has(tmp_path: Path) -> None:
    config = _config(
        tmp_path,
        "evaluation.temperature=0.6",
        "evaluation.max_response_tokens=30",
        "evaluation.suites.hard.temperature=0.2",
        "evaluation.suites.hard.task=math",
    )
    easy, hard = extra_suites(config, read_suites(config, ()))
    assert (easy.sampling.temperature, hard.sampling.temperature) == (0.6, 0.2)
    assert easy.sampling.max_response_tokens == hard.sampling.max_response_tokens == 30
    assert (easy.task, hard.task) == ("exact", "math")
    assert (easy.rollouts_per_prompt, hard.rollouts_per_prompt) == (4, 8)
    assert (easy.stream, easy.prefix) == ("evaluation/easy", "val/easy/")
