"""The reference of config keys: whole, true to the models, and found by name."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from gps_ray.base.errors import ConfigError
from gps_ray.config import ConfigSection, Resume, TrainConfig, key_facts
from gps_ray.config.advice import WHEN_TO_CHANGE
from gps_ray.config.reference import config_reference, explain, reference_markdown

KEYS = {key.key: key for section in config_reference() for key in section.keys}


class _Inner(ConfigSection):
    """What stands
    within."""

    wait_s: Annotated[float | None, Resume.FREE] = Field(None, gt=0, description="How long")
    size_bytes: int = Field(1 << 28, ge=1 << 26, description="How much.")


class _Outer(ConfigSection):
    inner: _Inner = Field(default_factory=_Inner)


def test_every_key_of_a_run_is_there_in_the_order_of_the_file() -> None:
    beyond = ("data.train.N.", "data.evaluation.N.", "evaluation.suites.NAME.")
    assert [key for key in KEYS if not key.startswith(beyond)] == list(key_facts(TrainConfig))
    assert {"data.train.N.path", "data.evaluation.N.weight", "evaluation.suites.NAME.file"} <= KEYS.keys()


def test_every_key_says_what_it_is_and_when_to_change_it() -> None:
    assert [key.key for key in KEYS.values() if len(key.description.split()) < 2] == []
    assert [key.key for key in KEYS.values() if not key.when_to_change.endswith(".")] == []


def test_no_advice_is_left_over() -> None:
    """As many lines of advice as there are keys with any, counted by the section that they stand in."""
    fields = {(model, name) for model, lines in WHEN_TO_CHANGE.items() for name in lines}
    assert [f"{model.__name__}.{name}" for model, name in fields if name not in model.model_fields] == []
    assert len(fields) == len([key for key in KEYS if not key.startswith("data.evaluation.N.")])


def test_every_quantity_by_the_name_of_its_unit_has_it() -> None:
    units = {key.key: key.unit for key in KEYS.values()}
    assert units["rollout.vllm.kv_cache_memory_bytes"] == "bytes"
    assert units["rollout.max_response_tokens"] == "tokens"
    assert units["run.lease_s"] == "seconds"
    assert units["learning.learning_rate"] == units["selection.selector"] == units["selection.sampling_exponent"] == ""
    numbers = [key for key in KEYS.values() if key.key.rpartition(".")[2].startswith("num_") and not key.unit]
    # Parts of a network are counted in nothing but themselves.
    assert {key.name for key in numbers} == {"num_layers", "num_heads", "num_latent_draws", "num_features",
                                             "num_drifting"}  # fmt: skip


def test_types_and_defaults_read_as_a_config_does() -> None:
    (section,) = config_reference(_Outer)
    assert section.description == "What stands within."
    wait, size = section.keys
    assert (wait.type, wait.default, wait.unit, wait.resume) == ("number > 0 | null", "null", "seconds", "yes")
    assert (size.type, size.default) == ("integer >= 67108864 (64 MiB)", "268435456 (256 MiB)")
    assert wait.description == "How long."
    assert KEYS["rollout.engine"].type == "torch | vllm | simulated"
    assert KEYS["learning.learning_rate"].default == "0.0001"
    assert KEYS["data.train.N.suffix"].default == "''"
    assert KEYS["selection.group_size_range"].type == "[integer, integer] | null"


def test_whether_a_resumed_run_may_change_it_is_what_the_facts_say() -> None:
    assert KEYS["rollout.group_size"].resume == "no"
    assert KEYS["rollout.vllm.max_num_seqs"].resume == "yes, equal up to rounding"
    assert KEYS["checkpoint.every_steps"].resume == "yes, without a policy lag"
    assert KEYS["cluster.address"].resume == "yes"


def test_a_key_and_a_section_are_explained() -> None:
    text = explain("rollout.vllm.max_model_len")
    assert text.startswith("rollout.vllm.max_model_len: integer >= 1 | null, in tokens; default null\n  Longest prompt")
    assert "A resumed run may have another value: yes, equal up to rounding." in text
    whole = explain("rollout")
    assert "[rollout]" in whole
    assert text in whole
    assert explain("data.train.0.path") == explain("data.train.N.path")
    assert "All runs of a comparison" in explain("evaluation.suites.aime.file")


@pytest.mark.parametrize(("name", "near"), [("rollout.groupsize", "rollout.group_size"), ("nothing", "rollout")])
def test_what_is_no_key_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(name)
    assert name in str(caught.value)
    assert near in str(caught.value)


def test_the_page_has_a_row_for_every_key() -> None:
    page = reference_markdown()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)
    assert all(line.replace(r"\|", "").count("|") == 7 for line in rows)
    assert "## selection.fused\n" in page


def test_a_section_from_outside_has_no_advice() -> None:
    class Foreign(BaseModel):
        size: int = Field(1, description="Its size.")

    class Root(BaseModel):
        foreign: Foreign = Field(default_factory=Foreign)

    assert config_reference(Root)[0].keys[0].when_to_change == ""
