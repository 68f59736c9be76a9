"""What is known of a key beside its value, written where the key stands.

::

    deadline_s: Annotated[float, Resume.FREE] = Field(300, gt=0)

A fact of a section holds for every key in it; a ``Resume`` nearer to the key goes before one further out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pydantic import BaseModel

__all__ = ["Fact", "KeyFacts", "Resume", "key_facts"]


class Resume(Enum):
    """May a run that goes on from a checkpoint have another value?"""

    FIXED = auto()
    """No: another value is another run. So is every key that says nothing."""
    APPROXIMATE = auto()
    """Yes, it only says how the run is computed; but what comes out is then equal up to rounding, not to the bit."""
    FREE = auto()
    """Yes, it moves work in time or space and never touches the result."""
    FREE_IN_STEP = auto()
    """FREE where run.max_policy_lag is 0, else FIXED: a run that runs ahead waits for the learner there."""


class Fact(Enum):
    """What else may be true of a key."""

    SHARED = auto()
    """All runs of a comparison have the same value: they could not be paired otherwise."""
    BY_CONTENT = auto()
    """A file that decides a result by what it holds, not by where it lies."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The facts of one key."""

    resume: Resume = Resume.FIXED
    others: frozenset[Fact] = frozenset()

    def with_nearer(self, facts: Iterable[Any]) -> KeyFacts:
        """These, as further out, and what stands nearer to the key."""
        facts = list(facts)
        resume = next((fact for fact in facts if isinstance(fact, Resume)), self.resume)
        return KeyFacts(resume, self.others.union(fact for fact in facts if isinstance(fact, Fact)))


def key_facts(section: type[BaseModel], outer: KeyFacts = KeyFacts(), prefix: str = "") -> dict[str, KeyFacts]:
    """The facts of every key in ``section`` and the sections within it, by dotted name, in the order of the file."""
    found: dict[str, KeyFacts] = {}
    for name, field in section.model_fields.items():
        facts = outer.with_nearer(field.metadata)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= key_facts(field.annotation, facts, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = facts
    return found
