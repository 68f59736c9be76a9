import json
import time
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import CountdownConfig, DataConfig
from gps_ray.tasks.countdown import HARD_LEVEL, Countdown
from gps_ray.tasks.dataset import DataSets, write_prompts

TASK = Countdown()


def _prompt(numbers: list[int], target: int, operators: str | None = "+-*/") -> Prompt:
    parts: dict[str, object] = {"numbers": numbers, "target": target}
    if operators is not None:
        parts["operators"] = operators
    return Prompt(prompt_id="p", text="t", answer=json.dumps(parts), task="countdown")


def _is_right(prompt: Prompt, response: str) -> bool:
    reward, status = TASK.verify(prompt, response)
    assert (reward, status) in [(1.0, RolloutStatus.RIGHT), (0.0, RolloutStatus.WRONG)]
    return status is RolloutStatus.RIGHT


def _config(**changes: object) -> DataConfig:
    return DataConfig(countdown=CountdownConfig.model_validate(changes))


@pytest.fixture(scope="module")
def sets() -> DataSets:
    return TASK.generate(DataConfig())


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, str]]:
    return TASK.warm_start_examples(DataConfig(), 2000, 0)


def _key(prompt: Prompt) -> tuple[tuple[int, ...], int]:
    answer = json.loads(prompt.answer)
    return tuple(sorted(answer["numbers"])), answer["target"]


def _parts(text: str) -> tuple[list[int], str, int]:
    """Numbers, operators and target as the prompt's words say them."""
    words = text.split()
    at = words.index("operators")
    assert (words[0], words[-3], words[-1]) == ("numbers", "target", "answer")
    return [int(w) for w in words[1:at]], "".join(words[at + 1 : -3]), int(words[-2])


# --- the verifier -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        "( 3 + 7 ) * 2",
        "(3+7)*2",
        "2*(7+3)",
        "  ( 3 + 7 ) * 2  ",
        "( 3 + 7 ) * 2 = 20",
        "(3+7)*2=20",
        "((3 + (7))) * 2",
        "( 3 + 7 )\n* 2",
        "3 * 2 + 7 * 2 is wrong, so <answer> (3 + 7) * 2 </answer>",
        "<answer>3</answer> no: <answer>(3+7)*2 = 20</answer>.",
        "I think " * 100_000 + "<answer>(3+7)*2</answer>",
        "<answer>(3+7)*2</answer>" + " Checked: two times ten." * 100_000,
    ],
)
def test_right_answers(response: str) -> None:
    assert _is_right(_prompt([3, 7, 2], 20), response)


HOSTILE = [
    "",
    " ",
    "\x00",
    "20",
    "= 20",
    "( 3 + 7 ) * 2 = 21",
    "( 3 + 7 ) * 2 = 20 = 20",
    "( 3 + 7 ) * 2 = ２０",
    "( 3 + 7 ) * 2 = +20",
    "( 3 + 7 * 2",
    "3 + 7 ) * 2",
    ") 3 + 7 ( * 2",
    "(3+7)*2)",
    "( 3 + 7 ) 2",
    "( 3 + 7 ) * 2 extra",
    "( 3 + 7 ) * 2 20",
    "( 3 + 7 ) * 2; 1",
    "( 3 + 7 )",
    "( 3 + 7 ) * 2 * 1",
    "7 + 7 + 3 + 3",
    "3 + 7 + 7 + 3",
    "( 3 + 7 ) * 2 + 3 - 3",
    "2 * ( 7 + 3 ) + 0",
    "-(-3 - 7) * 2",
    "3 - -7 * 2",
    "+3 + 7 * 2",
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "lambda: 20",
    "10^10^10",
    "10**10**10",
    "9 ** 9 ** 9 ** 9",
    "2 << 10",
    "3.0 + 7 * 2",
    "1e9",
    "0x3 + 7 * 2",
    "03 + 7 * 2",
    "(３ + ７) * ２",
    "( ٣ + ٧ ) * ٢",
    "( ③ + ⑦ ) * ②",
    "( 3 + 7 ) × 2",
    "( 3 + 7 )\u00a0* 2",
    "( 3 + 7 ) * \u200b2",
    "3 / ( 7 - 7 ) * 2",
    "3 / 0",
    "<answer></answer>",
    "<answer>",
    "<answer>(3+7)*2</answer> or <answer>3</answer>",
    "(3+7)*2</answer>",
    "<answer> (3+7)*2",
    "<answer>(3+7)*2</answer> or rather <answer>",
    "</answer>(3+7)*2<answer>",
    "<answer>(3+7)*2" + " " * 10_000_000 + "</answer>",
    "(" * 100_000 + "3" + ")" * 100_000,
    "(" * 60 + "3",
    "3" + " + 7" * 100_000,
    "1" * 10_000_000,
    "9" * 5000,
    "=" * 10_000_000,
    "<answer>" * 1_000_000,
    "(3+7)*2" + " " * 10_000_000,
    "\ud800",
    "%s%n{0}{x.y}",
]


@pytest.mark.parametrize("response", HOSTILE, ids=[ascii(response[:24]) for response in HOSTILE])
def test_hostile_answers_are_wrong_and_quick(response: str) -> None:
    start = time.perf_counter()
    assert not _is_right(_prompt([3, 7, 2], 20), response)
    assert time.perf_counter() - start < 1.0


def test_division_by_zero_is_wrong() -> None:
    prompt = _prompt([3, 7, 7, 20], 20)
    assert not _is_right(prompt, "20 + 3 / ( 7 - 7 )")
    assert not _is_right(prompt, "20 / ( 3 * ( 7 - 7 ) )")
    assert _is_right(prompt, "20 + 3 * ( 7 - 7 )")


def test_fractions_are_exact() -> None:
    assert _is_right(_prompt([8, 3, 8, 3], 24), "8 / ( 3 - 8 / 3 )")
    # In floating point 49 * (1 / 49) is not 1.
    assert _is_right(_prompt([49, 1, 49], 1), "49 * ( 1 / 49 )")


def test_only_named_operators() -> None:
    response = "( 3 + 7 ) * 2"
    assert _is_right(_prompt([3, 7, 2], 20, "+*"), response)
    assert not _is_right(_prompt([3, 7, 2], 20, "+-"), response)
    assert _is_right(_prompt([3, 7, 2], 20, None), response)


def test_each_number_exactly_once() -> None:
    assert _is_right(_prompt([4, 4, 2], 10), "4 + 4 + 2")
    assert not _is_right(_prompt([4, 4, 2], 10), "4 * 2 + 2")
    assert not _is_right(_prompt([4, 4, 2], 6), "4 + 2")
    assert not _is_right(_prompt([4, 5, 1], 10), "4 + 4 + 2")


@pytest.mark.parametrize(
    "answer",
    ["", "20", "[3, 7]", '{"numbers": [3]}', '{"numbers": "37", "target": 5}', '{"numbers": [3.5], "target": 3}',
     '{"numbers": [3], "target": "3"}', '{"numbers": [3], "target": 3, "operators": "^"}',
     '{"numbers": [3], "target": 3, "operators": 4}', '{"numbers": [-3], "target": 3}',
     '{"numbers": [true], "target": 1}'],
)  # fmt: skip
def test_an_answer_in_another_notation_is_refused(answer: str) -> None:
    prompt = Prompt(prompt_id="p", text="t", answer=answer, task="countdown")
    with pytest.raises(DataError, match="countdown answer"):
        TASK.verify(prompt, "3")


# --- the verifier and the generator against an independent solver ------------------------------------------------


@cache
def _reachable(numbers: tuple[int, ...], operators: str) -> dict[Fraction, str]:
    """Value -> one fully bracketed expression, over all ways to combine the sorted numbers. Splits subsets instead of
    drawing trees: shares no code with the generator or the parser."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): str(numbers[0])}
    found: dict[Fraction, str] = {}
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for chosen in combinations(places, size):
            left = tuple(numbers[i] for i in chosen)
            right = tuple(numbers[i] for i in places if i not in chosen)
            for a, a_text in _reachable(left, operators).items():
                for b, b_text in _reachable(right, operators).items():
                    results = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}
                    for operator in operators:
                        value = results[operator]
                        if value is not None:
                            found.setdefault(value, f"({a_text}{operator}{b_text})")
    return found


def test_verifier_agrees_with_brute_force(sets: DataSets) -> None:
    """Whatever value an expression really has, it is right for that target and wrong for the next one."""
    num_checked = 0
    for prompt in sets.pool[:200]:
        numbers, operators, _ = _parts(prompt.text)
        if len(numbers) > 3:
            continue
        for value, text in _reachable(tuple(sorted(numbers)), operators).items():
            if value.denominator == 1 and value >= 0:
                num_checked += 1
                assert _is_right(_prompt(numbers, int(value), operators), text)
                assert not _is_right(_prompt(numbers, int(value) + 1, operators), text)
    assert num_checked > 400


def test_every_prompt_can_be_solved(sets: DataSets) -> None:
    for prompt in [p for p in sets.pool if p.level in ("CD-2", "CD-3")][:400] + list(sets.pool[:60]):
        numbers, operators, target = _parts(prompt.text)
        found = _reachable(tuple(sorted(numbers)), operators)
        assert Fraction(target) in found, prompt.text
        assert _is_right(prompt, found[Fraction(target)])


# --- the sets ----------------------------------------------------------------------------------------------------


def test_pool_has_the_stated_mixture(sets: DataSets) -> None:
    assert Counter(p.level for p in sets.pool) == {"CD-2": 385, "CD-3": 1000, "CD-4": 800, HARD_LEVEL: 1815}
    expected = {"CD-2": 25, "CD-3": 64, "CD-4": 51, HARD_LEVEL: 116}
    assert Counter(p.level for p in sets.evaluation) == expected
    assert Counter(p.level for p in sets.heldout_probe) == expected
    # The order says nothing of the level.
    assert len({p.level for p in sets.pool[:30]}) == 4


def test_levels_have_their_numbers(sets: DataSets) -> None:
    for prompt in (*sets.pool, *sets.evaluation, *sets.heldout_probe):
        numbers, operators, target = _parts(prompt.text)
        low, high = (13, 60) if prompt.level == HARD_LEVEL else (1, 12)
        assert len(numbers) == int(prompt.level[3])
        assert low <= min(numbers) <= max(numbers) <= high
        assert operators in ("+-", "+-*", "+-*/")
        assert 1 <= target <= 100
        assert json.loads(prompt.answer) == {"numbers": numbers, "operators": operators, "target": target}
    for level in ("CD-2", "CD-3", "CD-4", HARD_LEVEL):
        assert len({_parts(p.text)[1] for p in sets.pool if p.level == level}) == 3


def test_sets_share_no_problem(sets: DataSets, examples: list[tuple[str, str]]) -> None:
    keys = [{_key(p) for p in split} for split in (sets.pool, sets.evaluation, sets.heldout_probe)]
    warm = {(tuple(sorted(numbers)), target) for numbers, _, target in (_parts(text) for text, _ in examples)}
    for a, b in combinations([*keys, warm], 2):
        assert not a & b
    # Within a set no problem comes twice, and only two numbers are so few that one comes with other operators.
    for split in (sets.pool, sets.evaluation, sets.heldout_probe):
        assert len({(_key(p), _parts(p.text)[1]) for p in split}) == len(split)
        larger = [_key(p) for p in split if p.level != "CD-2"]
        assert len(set(larger)) == len(larger)
    assert len({p.prompt_id for split in (sets.pool, sets.evaluation, sets.heldout_probe) for p in split}) == 4512


def test_warm_start_solutions_are_right_and_short(examples: list[tuple[str, str]]) -> None:
    words = set(TASK.vocabulary())
    lengths = Counter()
    for text, solution in examples:
        numbers, operators, target = _parts(text)
        lengths[len(numbers)] += 1
        assert max(numbers) <= 12
        assert len(solution.split()) <= 11  # 12 with the end-of-sequence token
        assert _is_right(_prompt(numbers, target, operators), solution)
        assert words.issuperset(text.split())
        assert words.issuperset(solution.split())
    assert lengths == {2: 200, 3: 800, 4: 1000}
    # The prompt does not give the order of the solution away.
    shown = [[int(w) for w in text.split() if w.isdigit()][:-1] for text, _ in examples]
    used = [[int(w) for w in solution.split() if w.isdigit()] for _, solution in examples]
    assert 0.02 < sum(a == b for a, b in zip(shown, used, strict=True)) / len(examples) < 0.35


def test_vocabulary_covers_every_prompt(sets: DataSets) -> None:
    vocabulary = TASK.vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) == 111
    for prompt in (*sets.pool, *sets.evaluation, *sets.heldout_probe):
        assert set(vocabulary).issuperset(prompt.text.split())
        assert prompt.text == " ".join(prompt.text.split())
        assert len(prompt.text.split()) <= 16


def test_same_config_same_prompts_and_other_seed_others() -> None:
    first, again, other = (TASK.generate(_config(seed=seed, num_pool_prompts=800)) for seed in (0, 0, 1))
    assert first == again
    assert len({p.prompt_id for p in other.pool} & {p.prompt_id for p in first.pool if p.level != "CD-2"}) < 80
    small = _config(num_pool_prompts=50, num_evaluation_prompts=5, num_heldout_probe_prompts=5)
    assert TASK.warm_start_examples(small, 50, 3) == TASK.warm_start_examples(small, 50, 3)
    assert TASK.warm_start_examples(small, 50, 3) != TASK.warm_start_examples(small, 50, 4)


def test_the_prompts_of_a_seed_stay_as_they_are() -> None:
    """A changed generator makes every earlier run's checkpoint unusable: it must not change unnoticed."""
    small = TASK.generate(_config(num_pool_prompts=4, num_evaluation_prompts=1, num_heldout_probe_prompts=1))
    assert [p.text for p in small.pool] == PINNED


PINNED = [
    "numbers 40 33 40 40 operators + - * / target 66 answer",
    "numbers 9 6 9 operators + - target 24 answer",
    "numbers 31 34 42 28 operators + - target 73 answer",
    "numbers 4 7 6 1 operators + - target 18 answer",
]


def test_homogeneous_pool_is_one_level() -> None:
    sets = TASK.generate(_config(pool="homogeneous", num_pool_prompts=1500))
    assert {p.level for split in (sets.pool, sets.evaluation, sets.heldout_probe) for p in split} == {"CD-3"}
    assert (len(sets.pool), len(sets.evaluation), len(sets.heldout_probe)) == (1500, 256, 256)
    assert not {_key(p) for p in sets.pool} & {_key(p) for p in (*sets.evaluation, *sets.heldout_probe)}


def test_shares_scale() -> None:
    sets = TASK.generate(_config(num_pool_prompts=101, num_evaluation_prompts=7, num_heldout_probe_prompts=1))
    assert (len(sets.pool), len(sets.evaluation), len(sets.heldout_probe)) == (101, 7, 1)
    assert Counter(p.level for p in sets.pool) == {"CD-2": 10, "CD-3": 25, "CD-4": 20, HARD_LEVEL: 46}


def test_too_few_problems_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"data\.countdown\.num_pool_prompts.*CD-2.*max_number"):
        TASK.generate(_config(num_pool_prompts=20_000))
    with pytest.raises(ConfigError, match=r"no CD-2 problem is left for the warm start"):
        TASK.warm_start_examples(
            _config(max_number=2, num_pool_prompts=160, num_evaluation_prompts=1, num_heldout_probe_prompts=1), 50, 0
        )


def test_larger_numbers_make_larger_pools_possible() -> None:
    sets = TASK.generate(_config(num_pool_prompts=8000, max_number=40))
    assert len({p.prompt_id for p in sets.pool}) == 8000


def test_warm_start_keeps_off_a_pool_from_a_file(tmp_path: Path) -> None:
    sets = TASK.generate(_config(seed=7, num_pool_prompts=600, num_evaluation_prompts=100))
    write_prompts(tmp_path / "pool.parquet", sets.pool)
    write_prompts(tmp_path / "evaluation.parquet", sets.evaluation)
    config = DataConfig(pool_file=tmp_path / "pool.parquet", evaluation_file=tmp_path / "evaluation.parquet")
    taken = {_key(p) for p in (*sets.pool, *sets.evaluation)}
    free = TASK.warm_start_examples(config, 1000, 0)
    assert not {(tuple(sorted(n)), t) for n, _, t in (_parts(text) for text, _ in free)} & taken
    # The same draws without the files do meet these problems: the check above can fail.
    other = TASK.warm_start_examples(_config(num_pool_prompts=10, num_evaluation_prompts=1), 1000, 0)
    assert {(tuple(sorted(n)), t) for n, _, t in (_parts(text) for text, _ in other)} & taken
