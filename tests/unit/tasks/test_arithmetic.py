import re
import time
from collections import Counter
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import ValidationError

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import ArithmeticConfig, DataConfig
from gps_ray.tasks.arithmetic import HARD_LEVELS, Arithmetic
from gps_ray.tasks.dataset import DataSets, write_prompts

TASK = Arithmetic()


def _prompt(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="compute 1 + 1 answer", answer=answer, task="arithmetic")


def _is_right(prompt: Prompt, response: str) -> bool:
    reward, status = TASK.verify(prompt, response)
    assert (reward, status) in [(1.0, RolloutStatus.RIGHT), (0.0, RolloutStatus.WRONG)]
    return status is RolloutStatus.RIGHT


def _config(**changes: object) -> DataConfig:
    return DataConfig(task="arithmetic", arithmetic=ArithmeticConfig.model_validate(changes))


@pytest.fixture(scope="module")
def sets() -> DataSets:
    return TASK.generate(_config())


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, str]]:
    return TASK.warm_start_examples(_config(), 1500, 0)


# --- an independent reading of the prompts: a left-to-right calculator over linear functions of x ----------------


def _linear(text: str) -> tuple[Fraction, Fraction]:
    """(coefficient of x, constant) of an expression. Innermost brackets first, then products, then sums."""
    values: dict[str, tuple[Fraction, Fraction]] = {"x": (Fraction(1), Fraction(0))}

    def look_up(word: str) -> tuple[Fraction, Fraction]:
        return values[word] if word in values else (Fraction(0), Fraction(int(word)))

    def flat(words: list[str]) -> tuple[Fraction, Fraction]:
        total = (Fraction(0), Fraction(0))
        sign = 1
        for term in re.split(r" (?=[+-] )", " ".join(words)):
            parts = term.split()
            if parts[0] in "+-":
                sign, parts = (1 if parts[0] == "+" else -1), parts[1:]
            product = (Fraction(0), Fraction(1))
            for factor in (look_up(part) for part in parts if part != "*"):
                assert product[0] == 0 or factor[0] == 0
                product = (product[0] * factor[1] + product[1] * factor[0], product[1] * factor[1])
            total = (total[0] + sign * product[0], total[1] + sign * product[1])
        return total

    words = text.split()
    while ")" in words:
        end = words.index(")")
        start = max(i for i in range(end) if words[i] == "(")
        name = f"v{len(values)}"
        values[name] = flat(words[start + 1 : end])
        words[start : end + 1] = [name]
    return flat(words)


def _true_answer(text: str) -> int:
    words = text.removesuffix(" answer")
    if words.startswith("compute "):
        coefficient, value = _linear(words.removeprefix("compute "))
        assert coefficient == 0
    else:
        left, right = (_linear(side) for side in words.removeprefix("solve ").split(" = "))
        value = (right[1] - left[1]) / (left[0] - right[0])
    assert value.denominator == 1
    return int(value)


def _key(text: str) -> tuple[str, tuple[int, ...], int]:
    return text.split()[0], tuple(sorted(int(word) for word in text.split() if word.isdigit())), _true_answer(text)


def test_the_reference_calculator() -> None:
    assert _true_answer("compute 2 - 3 * ( 4 - 6 ) + 1 answer") == 9
    assert _true_answer("solve 7 * ( x - 17 ) = 9 * ( x - 21 ) - 20 answer") == 45
    assert _true_answer("solve x - 9 = - 4 answer") == 5


# --- the verifier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("17", "\\boxed{17}"),
        ("17", "\\boxed{ 17 }"),
        ("17", "12 5 \\boxed{ 17 }"),
        ("-17", "\\boxed{-17}"),
        ("-17", "\\boxed{ - 17 }"),
        ("0", "\\boxed{0}"),
        ("0", "\\boxed{-0}"),
        ("17", "\\boxed{3} no, \\boxed{17}. Done"),
        ("17", "thinking " * 100_000 + "\\boxed{17}"),
        ("17", "\\boxed{17}" + " Checked: ten and seven." * 100_000),
        ("17", "\\boxed{17}" + " " * 5_000_000),
    ],
)
def test_right_answers(answer: str, response: str) -> None:
    assert _is_right(_prompt(answer), response)


HOSTILE = [
    "",
    "17",
    "boxed{17}",
    "\\boxed{}",
    "\\boxed{17",
    "\\boxed 17}",
    "\\boxed{17} or \\boxed{18}",
    "\\boxed{17} and \\boxed{",
    "\\boxed{+17}",
    "\\boxed{017}",
    "\\boxed{1 7}",
    "\\boxed{--17}",
    "\\boxed{17.0}",
    "\\boxed{34/2}",
    "\\boxed{1e1}",
    "\\boxed{0x11}",
    "\\boxed{1_7}",
    "\\boxed{１７}",
    "\\boxed{١٧}",
    "\\boxed{17\u00a0}",
    "\\boxed{17\x00}",
    "\\boxed{\u221217}",
    "\\boxed{__import__('os')}",
    "\\boxed{10**10**10}",
    "\\boxed{10^10^10}",
    "\\boxed{" + "9" * 5_000_000 + "}",
    "\\boxed{17" + " " * 5_000_000 + "}",
    "\\boxed{" * 500_000,
    "{" * 1_000_000,
    "\\boxed{17" + "{}" * 100 + "}",
]


@pytest.mark.parametrize("response", HOSTILE, ids=[ascii(response[:24]) for response in HOSTILE])
def test_hostile_answers_are_wrong_and_quick(response: str) -> None:
    start = time.perf_counter()
    assert not _is_right(_prompt("17"), response)
    assert time.perf_counter() - start < 1.0


def test_an_answer_that_is_no_integer_is_refused() -> None:
    for answer in ("", "3.5", "x", "1/2", "１"):
        with pytest.raises(DataError, match="integer"):
            TASK.verify(_prompt(answer), "\\boxed{1}")


# --- the sets ----------------------------------------------------------------------------------------------------


def test_answers_agree_with_the_reference(sets: DataSets) -> None:
    for prompt in (*sets.pool, *sets.evaluation, *sets.heldout_probe):
        assert int(prompt.answer) == _true_answer(prompt.text), prompt.text
        assert _is_right(prompt, f"\\boxed{{ {prompt.answer} }}")
        assert not _is_right(prompt, f"\\boxed{{ {int(prompt.answer) + 1} }}")


def test_warm_start_solutions_are_right_and_short(examples: list[tuple[str, str]]) -> None:
    vocabulary = set(TASK.vocabulary())
    for text, solution in examples:
        answer = _true_answer(text)
        assert _is_right(_prompt(str(answer)), solution)
        assert solution.endswith(f"\\boxed{{ {answer} }}".replace("-", "- "))
        assert len(solution.split()) <= 11  # 12 with the end-of-sequence token
        assert vocabulary.issuperset(text.split())
        assert vocabulary.issuperset(solution.split())
        assert max(int(word) for word in text.split() if word.isdigit()) <= 100


def test_the_warm_start_shows_only_its_levels(sets: DataSets) -> None:
    config = _config(warm_start_levels=["chain-1", "linear-2"])
    assert TASK.generate(config) == sets
    shown = [text for text, _ in TASK.warm_start_examples(config, 600, 0)]
    # One operation; a coefficient and a constant on the left.
    chains = [text for text in shown if re.fullmatch(r"compute \d+ [-+*] \d+ answer", text)]
    equations = [text for text in shown if re.fullmatch(r"solve \d+ \* x [-+] \d+ = (- )?\d+ answer", text)]
    # Mixed as in the pool, 120 to 400.
    assert (len(chains), len(equations)) == (138, 462)


def test_a_level_that_the_warm_start_cannot_show() -> None:
    with pytest.raises(ValidationError, match="warm_start_levels"):
        _config(warm_start_levels=["chain-6"])
    with pytest.raises(ValidationError, match="warm_start_levels"):
        _config(warm_start_levels=[])


def test_steps_are_the_running_values(examples: list[tuple[str, str]]) -> None:
    """A chain that reads left to right has its partial results written down, in order."""
    num_seen = num_chains = 0
    for text, solution in examples:
        words = text.removeprefix("compute ").removesuffix(" answer").split()
        if text.startswith("solve") or set(words) & set("()*"):
            continue
        values = [_true_answer(f"compute {' '.join(words[:end])} answer") for end in range(3, len(words) + 1, 2)]
        stated = [int(value.replace(" ", "")) for value in re.findall(r"- \d+|\d+", solution)]
        # "3 + 12 - 5" may also stand for 3 + ( 12 - 5 ): the last operation then comes first in the text.
        num_seen += stated == values
        num_chains += 1
        assert stated[-1] == values[-1]
    assert num_chains > 200
    assert num_seen > 0.8 * num_chains


def test_pool_mixes_its_levels(sets: DataSets) -> None:
    levels = Counter(p.level for p in sets.pool)
    assert sum(levels.values()) == 4000
    assert len(levels) == 9
    assert min(levels.values()) >= 120
    assert {p.level for p in sets.evaluation} == {p.level for p in sets.heldout_probe} == set(levels)
    for prompt in sets.pool:
        words = prompt.text.split()
        kind, size = prompt.level.split("-")
        if kind == "chain":
            assert sum(word in ("+", "-", "*") for word in words) == int(size)
        else:
            assert words.count("x") == {1: 1, 2: 1, 3: 2, 4: 2}[int(size)]
        if prompt.level not in HARD_LEVELS and kind == "chain":
            assert max(int(word) for word in words if word.isdigit()) <= 12


def test_sets_share_no_problem(sets: DataSets, examples: list[tuple[str, str]]) -> None:
    keys = [{_key(p.text) for p in split} for split in (sets.pool, sets.evaluation, sets.heldout_probe)]
    for a, b in combinations([*keys, {_key(text) for text, _ in examples}], 2):
        assert not a & b
    for split in (sets.pool, sets.evaluation, sets.heldout_probe):
        assert len({p.text for p in split}) == len(split)


def test_same_config_same_prompts() -> None:
    small = _config(num_pool_prompts=50, num_evaluation_prompts=5, num_heldout_probe_prompts=5)
    other = _config(num_pool_prompts=50, num_evaluation_prompts=5, num_heldout_probe_prompts=5, seed=1)
    assert TASK.generate(small) == TASK.generate(small)
    assert {p.prompt_id for p in TASK.generate(other).pool} != {p.prompt_id for p in TASK.generate(small).pool}
    assert TASK.warm_start_examples(small, 50, 3) == TASK.warm_start_examples(small, 50, 3)


def test_the_prompts_of_a_seed_stay_as_they_are() -> None:
    small = TASK.generate(_config(num_pool_prompts=9, num_evaluation_prompts=1, num_heldout_probe_prompts=1))
    assert sorted(p.text for p in small.pool) == PINNED


PINNED = [
    "compute ( 12 - 12 ) * 2 + 11 + 9 answer",
    "compute 1 - ( 9 + 10 ) answer",
    "compute 12 - ( 10 - 7 + 11 ) answer",
    "compute 3 * 3 + 1 - 3 + 4 answer",
    "compute 31 - ( 30 + 37 + 3 + 12 + 11 - 7 ) answer",
    "compute 4 - 5 + 12 - 1 answer",
    "solve 4 * ( x + 3 ) = 3 * ( x - 35 ) + 96 answer",
    "solve 4 * x + 10 = - 14 answer",
    "solve 4 * x + 10 = 5 * x + 8 answer",
]


def test_vocabulary_covers_every_prompt(sets: DataSets) -> None:
    vocabulary = TASK.vocabulary()
    assert len(vocabulary) == len(set(vocabulary))
    for prompt in sets.pool:
        assert set(vocabulary).issuperset(prompt.text.split())


def test_too_few_problems_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"data\.arithmetic\.num_pool_prompts.*lower"):
        TASK.generate(_config(num_pool_prompts=60_000))


def test_warm_start_keeps_off_a_pool_from_a_file(tmp_path: Path) -> None:
    sets = TASK.generate(_config(seed=7, num_pool_prompts=400, num_evaluation_prompts=100))
    write_prompts(tmp_path / "pool.parquet", sets.pool)
    write_prompts(tmp_path / "evaluation.parquet", sets.evaluation)
    config = DataConfig(
        task="arithmetic", pool_file=tmp_path / "pool.parquet", evaluation_file=tmp_path / "evaluation.parquet"
    )
    taken = {_key(p.text) for p in (*sets.pool, *sets.evaluation)}
    assert not {_key(text) for text, _ in TASK.warm_start_examples(config, 1000, 0)} & taken
