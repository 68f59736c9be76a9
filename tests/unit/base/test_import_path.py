"""Objects by import path, and options that they validate."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import build_from_path


def scaled(value: float, *, factor: float = 2.0) -> float:
    if factor < 0:
        raise ValueError(f"factor must not be negative, got {factor}")
    return value * factor


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int


class Wide:
    def __init__(self, value: float, **options: Any) -> None:
        self.value, self.options = value, _Options.model_validate(options)


def broken(value: float) -> float:
    raise ValueError("a bug")


NUMBER = 3


def build(name: str, **options: Any) -> Any:
    return build_from_path(f"{__name__}:{name}", "part.kind", options, "part.options", 3.0)


def test_options_are_keyword_arguments() -> None:
    assert build("scaled") == 6.0
    assert build("scaled", factor=5) == 15.0
    assert build("Wide", width=4).options.width == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scaled", {"factr": 1}, r"part\.options: scaled takes .*factor.* unexpected keyword argument 'factr'"),
        ("scaled", {"factor": -1}, r"part\.options: scaled refuses .*: factor must not be negative, got -1; change"),
        ("scaled", {"factor": {}}, r"part\.options: scaled refuses \{'factor': \{\}\}: '<' not supported"),
        ("Wide", {"width": "x"}, r"part\.options: Wide refuses .*: width: Input should be a valid integer.*got 'x'"),
        ("Wide", {"width": 1, "height": 1}, r"part\.options: Wide refuses .*: height: Extra inputs"),
        ("NUMBER", {}, r"part\.kind: expected a class or function at .*:NUMBER', got one of type int"),
        ("absent", {}, r"part\.kind: module .* has no 'absent'"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_key(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(name, **options)
    assert "\n" not in str(error.value)


def test_a_bug_without_options_keeps_its_error() -> None:
    with pytest.raises(ValueError, match="a bug"):
        build("broken")
