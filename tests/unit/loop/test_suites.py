from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import Message, Prompt
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.suites import read_suites
from gps_ray.tasks.dataset import PromptLimit, write_prompts


def _prompt(text: str, system: str = "") -> Prompt:
    messages = (Message(role="system", content=system), Message(role="user", content=text)) if system else ()
    return Prompt(
        prompt_id=text, text=f"{system}\n\n{text}" if system else text, answer="1", task="exact", messages=messages
    )


def _config(tmp_path: Path, prompts: list[Prompt], *overrides: str) -> TrainConfig:
    write_prompts(tmp_path / "suite.parquet", prompts)
    return load_config(
        TrainConfig, None, ("data.task=exact", f"evaluation.suites.own.file={tmp_path}/suite.parquet", *overrides)
    )


@pytest.mark.parametrize(
    "trained",
    [_prompt("How many?", "Be brief."), _prompt("how many? In a box."), _prompt("How many ?  In a box.", "S")],
)
def test_a_leak_into_a_suite_is_found_under_another_system_message_and_suffix(tmp_path: Path, trained: Prompt) -> None:
    sources = "[{path: pool.jsonl, suffix: ' In a box.'}]"
    config = _config(
        tmp_path, [_prompt("How many?")], f"data.train={sources}", "data.evaluation=[{path: evaluation.jsonl}]"
    )
    with pytest.raises(DataError, match=r"evaluation\.suites\.own\.file: 1 of 1 prompts are also in the pool"):
        read_suites(config, [trained])
    assert len(read_suites(config, [_prompt("How much?")])["own"]) == 1


def test_prompts_of_a_suite_that_the_model_does_not_take_are_dropped_and_said_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path, [_prompt("a b"), _prompt("a b c d")])
    limit = PromptLimit(
        pool=9,
        evaluation=9,
        lengths=lambda prompts: np.array([len(prompt.text.split()) for prompt in prompts]),
        why="a test",
        suites={"own": 3},
    )
    assert [prompt.text for prompt in read_suites(config, (), limit)["own"]] == ["a b"]
    assert "evaluation.suites.own.file: 1 of 2 prompts are longer than 3 tokens" in caplog.text
    refusing = _config(tmp_path, [_prompt("a b"), _prompt("a b c d")], "data.overlong_prompts=refuse")
    with pytest.raises(DataError, match=r"evaluation\.suites\.own\.file: 1 of 2 prompts are longer"):
        read_suites(refusing, (), limit)
