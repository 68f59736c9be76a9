"""Prompts of the generators of the package ``reasoning_gym``, several families mixed, judged by their own scorers.

https://github.com/open-thought/reasoning-gym (Apache-2.0), the optional extra ``reasoning-gym``. Everything is said in
``data.task_options``: see ``ReasoningGym``.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gps_ray.base.errors import ConfigError, DataError, one_line
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import DataConfig
from gps_ray.tasks.identity import prompt_id
from gps_ray.tasks.interface import DataSets, Verdict
from gps_ray.tasks.splits import apportion
from gps_ray.tasks.verifiers.extract import ANSWER_FORMATS, last_integer
from gps_ray.tasks.verifiers.harmless import is_harmless

__all__ = ["Family", "ReasoningGym"]

_LOG = logging.getLogger(__name__)
_KEY = "data.task_options"
# Entries looked at for each prompt wanted before a family counts as too small.
_DRAWS_PER_PROMPT = 20
# These scorers hand the answer to eval or to sympy's parser, which evaluates too (reasoning_gym 0.1.25).
_EVALUATING = frozenset(
    (
        "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
        "simple_integration", "spiral_matrix", "string_insertion",
    )
)  # fmt: skip
# Its scorer takes any text at all for "True" (reasoning_gym 0.1.25): here the text must be the same.
_COMPARED = frozenset(("game_of_life_halting",))


class Family(BaseModel):
    """One family of a mixture: a generator of reasoning_gym, the settings of its dataset, its share of every set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    settings: dict[str, Any] = Field(default_factory=dict)
    weight: int = Field(1, ge=1)


class _Options(BaseModel):
    """What ``data.task_options`` holds; without families the task only judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: dict[str, Family] = Field(default_factory=dict)
    num_pool_prompts: int = Field(1500, ge=1)
    num_evaluation_prompts: int = Field(256, ge=1)
    num_heldout_probe_prompts: int = Field(256, ge=0)
    seed: int = Field(0, ge=0, lt=2**31)
    prompt_suffix: str = ""
    answer_format: str = Field("whole", pattern=f"^({'|'.join(ANSWER_FORMATS)})$")
    success_threshold: float = Field(1.0, gt=0, le=1)
    partial_credit: bool = False


class ReasoningGym:
    """The task, its generator and its verifier.

    ``families`` maps a level's name to {generator, settings, weight}; the three sets have the same shares of each, and
    no text in common. ``prompt_suffix`` is added to every question, on a line of its own. ``answer_format`` says which
    part of a response its family's scorer judges: ``whole``, ``last_integer``, ``boxed`` or ``answer_tags``; a response
    without it is wrong. Right is a score of ``success_threshold``: 1, as the scorers give part of it for form, or for a
    long response that holds the answer somewhere. The reward is 1 or 0, with ``partial_credit`` the score itself.

    Raises pydantic's ValidationError for options that do not fit.
    """

    name = "reasoning_gym"

    def __init__(self, **options: Any) -> None:
        self._options = _Options.model_validate(options)
        self._scorers: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In the process that verifies: the package is loaded before the first verdict's deadline runs.
        self.__dict__.update(state)
        _package()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorers": {}}

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judged by the scorer of ``prompt.extra_info`` (generator, settings, entry). A response at which the scorer
        raises is wrong; where it raises at the entry's own answer too that passes through: it is no verdict. Raises
        DataError for a prompt that this task has not made."""
        info = prompt.extra_info
        if not {"generator", "settings", "entry"} <= set(info):
            raise DataError(
                "expected a reasoning_gym prompt with generator, settings and entry in extra_info, got "
                f"{', '.join(info) or 'none'}"
            )
        answer = ANSWER_FORMATS[self._options.answer_format](response)
        if answer is None or (info["generator"] in _EVALUATING and not is_harmless(answer)):
            return 0.0, RolloutStatus.WRONG
        score = self._score(info["generator"], info["settings"], info["entry"], answer)
        is_right = score >= self._options.success_threshold
        reward = score if self._options.partial_credit else float(is_right)
        return reward, RolloutStatus.RIGHT if is_right else RolloutStatus.WRONG

    def _score(self, name: str, settings: Mapping[str, Any], entry: dict[str, Any], answer: str) -> float:
        if name in _COMPARED:
            return float(answer.strip().casefold() == str(entry["answer"]).casefold())
        scorer = self._scorer(name, settings)
        try:
            return float(scorer.score_answer(answer, entry))
        except MemoryError:
            raise
        except Exception:  # not in its notation, or the scorer is broken
            scorer.score_answer(str(entry["answer"]), entry)
            return 0.0

    def _scorer(self, name: str, settings: Mapping[str, Any]) -> Any:
        key = f"{name} {sorted(settings.items())!r}"
        if key not in self._scorers:
            self._scorers[key] = _dataset(name, settings, seed=0, size=1, where="extra_info")
        return self._scorers[key]

    def generate(self, config: DataConfig) -> DataSets:
        """Pool, evaluation set and held-out probe. Raises ConfigError for a family that does not exist, refuses its
        settings, or has too few different prompts."""
        options = self._options
        if not options.families:
            raise ConfigError(f"{_KEY}.families: expected families to generate, got none; set {_KEY}.families")
        sizes = {
            "evaluation": options.num_evaluation_prompts,
            "heldout_probe": options.num_heldout_probe_prompts,
            "pool": options.num_pool_prompts,
        }
        weights = {label: family.weight for label, family in options.families.items()}
        counts = {name: apportion(size, weights) for name, size in sizes.items()}
        sets: dict[str, list[Prompt]] = {name: [] for name in sizes}
        taken: set[str] = set()
        for place, label in enumerate(options.families):
            fresh = self._prompts(label, place, sum(count[label] for count in counts.values()), taken)
            for name, prompts in sets.items():
                prompts += [next(fresh) for _ in range(counts[name][label])]
        shuffled = {
            name: tuple(prompts[i] for i in generator(options.seed, f"{self.name}/{name}").permutation(len(prompts)))
            for name, prompts in sets.items()
        }
        return DataSets(
            pool=shuffled["pool"], evaluation=shuffled["evaluation"], heldout_probe=shuffled["heldout_probe"]
        )

    def _prompts(self, label: str, place: int, num_wanted: int, taken: set[str]) -> Iterator[Prompt]:
        """Prompts of one family whose texts are not ``taken`` yet. Those that the answer format cannot state are left
        out, and said."""
        family = self._options.families[label]
        where = f"{_KEY}.families.{label}"
        size = _DRAWS_PER_PROMPT * num_wanted
        # A generator draws entry i from seed + i: families of one generator lie far apart.
        seed = (self._options.seed * 1009 + place) * 1_000_003 % 2**31
        entries = _dataset(family.generator, family.settings, seed=seed, size=size, where=where)
        num_made = num_unstatable = 0
        for index in range(size):
            try:
                entry = entries[index]
            except Exception as error:  # somebody else's program
                raise ConfigError(
                    f"{where}: the generator {family.generator!r} fails at entry {index}: {one_line(error)}; change "
                    "its settings or leave the family out"
                ) from error
            prompt = self._prompt(label, family, entry)
            text = " ".join(prompt.text.casefold().split())
            if self._options.answer_format == "last_integer" and last_integer(prompt.answer) != prompt.answer:
                num_unstatable += 1
            elif text not in taken:
                taken.add(text)
                num_made += 1
                if num_made == num_wanted and num_unstatable:
                    _LOG.warning("%s: left out %d entries whose answer is no integer", where, num_unstatable)
                yield prompt
        raise ConfigError(
            f"{where}: expected {num_wanted} different prompts, got {num_made} out of {size} entries "
            f"({num_unstatable} had an answer that is no integer); widen its settings, or lower its weight or "
            f"{_KEY}.num_pool_prompts"
        )

    def _prompt(self, label: str, family: Family, entry: dict[str, Any]) -> Prompt:
        question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
        text = f"{question}\n{self._options.prompt_suffix}" if self._options.prompt_suffix else question
        return Prompt(
            prompt_id=prompt_id(self.name, text, answer),
            text=text,
            answer=answer,
            task=self.name,
            level=label,
            extra_info={"generator": family.generator, "settings": family.settings, "entry": entry},
        )


def _package() -> Any:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ConfigError(
            f"data.task: reasoning_gym needs the package of that name ({one_line(error)}); install it by "
            "pip install -e '.[reasoning-gym]'"
        ) from error


def _dataset(name: str, settings: Mapping[str, Any], *, seed: int, size: int, where: str) -> Any:
    try:
        return _package().create_dataset(name, seed=seed, size=size, **settings)
    except ConfigError:
        raise
    except Exception as error:  # it checks settings by assert and in ways of its own
        raise ConfigError(
            f"{where}: reasoning_gym refuses the generator {name!r} with {dict(settings)}: {one_line(error)}; change "
            f"{where}"
        ) from error
