from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Sampling
from gps_ray.config import ConfigSection, Fact, KeyFacts, Resume, TrainConfig, key_facts, load_config, parse_config
from gps_ray.config.section import RENAMED_KEYS


def _refused(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_valid() -> None:
    assert load_config(TrainConfig, None).rollout.group_size == 8


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: {num_steps: 5, seed: 3}\nselection: {selector: uniform}\n")
    config = load_config(TrainConfig, file, ["run.num_steps=7", "selection.candidate_multiple=null"])
    assert (config.run.num_steps, config.run.seed) == (7, 3)
    assert config.selection.selector == "uniform"
    assert config.selection.candidate_multiple is None


def test_config_is_frozen() -> None:
    config = load_config(TrainConfig, None)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.group_sise=8", ["rollout.group_sise", "unknown key", "group_size"]),
        ("rolout.group_size=8", ["rolout", "unknown key", "rollout"]),
        ("run.num_steps=0", ["run.num_steps", "greater than or equal to 1", "got 0"]),
        ("run.num_steps=many", ["run.num_steps", "'many'"]),
        ("selection.num_prompts=5000", ["selection.num_prompts", "5000", "4000", "lower"]),
        ("evaluation.num_probe_prompts=9999", ["evaluation.num_probe_prompts", "9999", "4000"]),
        ("run.seed", ["key=value", "run.seed"]),
        ("run.seed.x=1", ["run.seed"]),
    ],
)
def test_wrong_config_names_key_and_remedy(override: str, expected: list[str]) -> None:
    message = _refused(override)
    for part in expected:
        assert part in message


def test_an_old_name_is_told_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED_KEYS, "run.steps", "run.num_steps")
    monkeypatch.setitem(RENAMED_KEYS, "train", "learning")
    assert _refused("run.steps=5") == "run.steps: this key is now run.num_steps; write run.num_steps"
    assert _refused("train.learning_rate=1") == "train: this key is now learning; write learning"
    assert "unknown key" in _refused("learning.steps=5")


def test_old_names_are_gone_and_new_ones_are_there() -> None:
    keys = key_facts(TrainConfig)
    names = {".".join(parts[: i + 1]) for key in keys if (parts := key.split(".")) for i in range(len(parts))}
    assert names.isdisjoint(RENAMED_KEYS)
    assert names.issuperset(RENAMED_KEYS.values())


def test_facts_stand_at_the_key_or_at_a_section_around_it() -> None:
    class Inner(ConfigSection):
        plain: int = 1
        free: Annotated[int, Resume.FREE] = Field(1, ge=1)

    class Outer(ConfigSection):
        alone: int = 1
        inner: Annotated[Inner, Resume.APPROXIMATE, Fact.SHARED] = Field(default_factory=Inner)

    assert key_facts(Outer) == {
        "alone": KeyFacts(),
        "inner.plain": KeyFacts(Resume.APPROXIMATE, frozenset({Fact.SHARED})),
        "inner.free": KeyFacts(Resume.FREE, frozenset({Fact.SHARED})),
    }


def test_every_key_of_a_run_has_its_facts() -> None:
    def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
        nested = [
            leaves(v, f"{prefix}{k}.") if isinstance(v, dict) and v else [f"{prefix}{k}"] for k, v in tree.items()
        ]
        return [key for keys in nested for key in keys]

    assert list(key_facts(TrainConfig)) == leaves(TrainConfig().model_dump(mode="json"))


def test_every_deadline_may_change_but_the_one_that_decides_a_result() -> None:
    deadlines = {k: facts.resume for k, facts in key_facts(TrainConfig).items() if k.endswith("deadline_s")}
    assert deadlines.pop("rollout.verify_deadline_s") is Resume.FIXED
    assert set(deadlines.values()) == {Resume.FREE}


def test_pool_file_needs_an_evaluation_file() -> None:
    assert "data.evaluation_file" in _refused("data.pool_file=pool.parquet")


def test_a_value_is_not_a_section(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: 3\n")
    assert "run is a value" in _refused("run.seed=1", file=file)


@pytest.mark.parametrize(("text", "expected"), [("- a\n", "mapping"), ("a: [", "not YAML")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert expected in _refused(file=file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in _refused(file=tmp_path / "none.yaml")


def test_the_evaluation_samples_as_the_rollouts_where_it_says_nothing() -> None:
    rollout = {"top_p": 0.9, "top_k": 5, "stop": ["</s>"], "max_response_tokens": 40}
    config = parse_config(TrainConfig, {"rollout": rollout, "learning": {"truncated": "wrong"}})
    expected = Sampling(temperature=1.0, max_response_tokens=40, top_p=0.9, top_k=5, stop=("</s>",))
    assert config.rollout_sampling == replace(expected, truncated_is_wrong=True)
    assert config.evaluation_sampling == expected
    own = {"temperature": 0, "rollouts_per_prompt": 1, "top_k": 0, "stop": [], "max_response_tokens": 99, "min_p": 0.1}
    config = parse_config(TrainConfig, {"rollout": rollout, "evaluation": own})
    assert config.evaluation_sampling == Sampling(temperature=0, max_response_tokens=99, top_p=0.9, min_p=0.1)


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"evaluation": {"temperature": 0}}, "evaluation.rollouts_per_prompt: a greedy response is the same"),
        ({"rollout": {"temperature": 0}}, "rollout.temperature"),
        ({"rollout": {"top_p": 0}}, "rollout.top_p"),
        ({"rollout": {"min_p": 1}}, "rollout.min_p"),
        ({"rollout": {"stop": [""]}}, "rollout.stop"),
        ({"evaluation": {"max_response_tokens": 0}}, "evaluation.max_response_tokens"),
        ({"learning": {"truncated": "drop"}}, "learning.truncated"),
    ],
)
def test_sampling_that_cannot_be_is_refused(tree: dict[str, dict[str, object]], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TrainConfig, tree)
    assert key in str(caught.value)
