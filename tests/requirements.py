"""What `pip install` is told by pyproject.toml, and what comes with it."""

from __future__ import annotations

import contextlib
import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from tests.processes import ROOT

__all__ = ["PROJECT", "installed", "package_name", "requirements_of"]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def package_name(requirement: str) -> str:
    return re.split(r"[\[=<>!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def requirements_of(*extras: str) -> list[str]:
    """The base dependencies and those of some extras, with the extras that they name themselves."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            inner = re.fullmatch(r"gps-ray\[(.+)\]", line)
            lines += requirements_of(*inner[1].split(",")) if inner else [line]
    return lines


def installed(requirements: list[str]) -> set[str]:
    """What pip installs for some requirements: they and all that they require, as the installed packages say it."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = package_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        environments = [{"extra": extra} for extra in ("", *requirement.extras)]
        with contextlib.suppress(metadata.PackageNotFoundError):
            needs = map(Requirement, metadata.requires(requirement.name) or [])
            waiting += [need for need in needs if not need.marker or any(map(need.marker.evaluate, environments))]
    return found
