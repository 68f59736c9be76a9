"""Generated problems dealt out to pool, evaluation set, held-out probe and warm start: no two sets share a problem.

Two problems are the same where their ``key`` is (for Countdown the sorted numbers and the target). A key belongs to
one set only; levels are dealt one by one, so keys of different levels must differ. Within a set a key may come back in
another ``variant`` (another operator set), but only at a level that has too few keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Prompt
from gps_ray.tasks.identity import prompt_id
from gps_ray.tasks.interface import DataSets

__all__ = ["Problem", "apportion", "draw_examples", "draw_sets"]

# Draw half as many keys again as the sets need, so that the warm start finds problems of its own.
SPARE = 1.5
MAX_BATCHES = 1000


class Problem(Protocol):
    """One drawn problem with a known solution."""

    @property
    def key(self) -> Hashable: ...

    @property
    def variant(self) -> Hashable: ...

    @property
    def text(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def solution(self) -> str: ...


P = TypeVar("P", bound=Problem)

# (level, batch number) -> some problems of that level; the same arguments always give the same problems.
Draw = Callable[[str, int], Sequence[P]]


def apportion(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers that add up to ``total`` in proportion to ``shares`` (largest remainders; ties to the first)."""
    whole = sum(shares.values())
    counts = {name: total * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(total * shares[name] % whole))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def draw_sets(
    task: str, section: str, seed: int, shares: Mapping[str, int], sizes: Mapping[str, int], draw: Draw[P]
) -> DataSets:
    """Generated data sets of ``sizes`` ("pool", "evaluation", "heldout_probe"), each mixing levels as ``shares``.

    Prompts are shuffled, so that their order says nothing of the level. Raises ConfigError, naming the keys of config
    ``section``, where a level has too few problems.
    """
    counts = {name: apportion(size, shares) for name, size in sizes.items()}
    sets: dict[str, list[Prompt]] = {name: [] for name in sizes}
    for level in shares:
        # The pool comes last: where keys are scarce it takes the many that are left, the small sets come first.
        wanted = {name: counts[name][level] for name in sorted(sizes, key=lambda name: name == "pool")}
        for name, problems in _deal(wanted, level, section, draw).items():
            sets[name] += [_prompt(task, level, problem) for problem in problems]
    shuffled = {
        name: tuple(prompts[i] for i in generator(seed, f"{task}/order/{name}").permutation(len(prompts)))
        for name, prompts in sets.items()
    }
    return DataSets(pool=shuffled["pool"], evaluation=shuffled["evaluation"], heldout_probe=shuffled["heldout_probe"])


def _prompt(task: str, level: str, problem: Problem) -> Prompt:
    text, answer = problem.text, problem.answer
    return Prompt(prompt_id=prompt_id(task, text, answer), text=text, answer=answer, task=task, level=level)


def _deal(wanted: Mapping[str, int], level: str, section: str, draw: Draw[P]) -> dict[str, list[P]]:
    total = sum(wanted.values())
    variants: dict[Hashable, dict[Hashable, P]] = {}
    for batch in range(MAX_BATCHES):
        if len(variants) >= SPARE * total:
            break
        num_before = len(variants)
        for problem in draw(level, batch):
            variants.setdefault(problem.key, {}).setdefault(problem.variant, problem)
        if len(variants) - num_before <= num_before // 100:  # hardly anything new: the level is drawn dry
            break
    is_scarce = len(variants) < SPARE * total
    groups = iter(variants.values())
    return {name: _take(count, groups, is_scarce, level, section) for name, count in wanted.items()}


def _take(count: int, groups: Iterator[dict[Hashable, P]], is_scarce: bool, level: str, section: str) -> list[P]:
    taken: list[P] = []
    while len(taken) < count:
        group = next(groups, None)
        if group is None:
            raise ConfigError(
                f"{section}.num_pool_prompts: too few {level} problems exist for pool, evaluation and probe; lower "
                f"{section}.num_pool_prompts or raise {section}.max_number"
            )
        members = list(group.values())
        taken += members[: count - len(taken)] if is_scarce else members[:1]
    return taken


def draw_examples(
    task: str,
    section: str,
    seed: int,
    shares: Mapping[str, int],
    num_examples: int,
    excluded: Collection[Hashable],
    draw: Draw[P],
) -> list[tuple[str, str]]:
    """(prompt text, solution text) pairs, levels mixed as ``shares``, none with a key in ``excluded``; examples may
    come back. Raises ConfigError where a level has no problem left outside ``excluded``."""
    examples: list[tuple[str, str]] = []
    for level, count in apportion(num_examples, shares).items():
        end, batch = len(examples) + count, 0
        while len(examples) < end:
            free = [problem for problem in draw(level, batch) if problem.key not in excluded]
            if not free:
                raise ConfigError(
                    f"{section}.num_pool_prompts: no {level} problem is left for the warm start; lower "
                    f"{section}.num_pool_prompts or raise {section}.max_number"
                )
            examples += [(problem.text, problem.solution) for problem in free[: end - len(examples)]]
            batch += 1
    order = generator(seed, f"{task}/order/warm_start").permutation(len(examples))
    return [examples[i] for i in order]
