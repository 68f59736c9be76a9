"""Prompts of reasoning_gym: made, dealt out, judged by the package's own scorers."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.reasoning_gym import ReasoningGym
from gps_ray.tasks.registry import load_generated_task, load_task
from gps_ray.tasks.verifiers.harmless import is_harmless
from tests.unit.tasks.gym_sets import OPTIONS, gym_prompt, gym_sets

ROOT = Path(__file__).parents[3]


def test_the_sets_have_their_sizes_and_shares_and_no_text_in_common() -> None:
    sets = gym_sets()
    assert [len(part) for part in (sets.pool, sets.evaluation, sets.heldout_probe)] == [60, 15, 9]
    assert Counter(prompt.level for prompt in sets.pool) == {"sum": 40, "gcd": 20}
    assert Counter(prompt.level for prompt in sets.evaluation) == {"sum": 10, "gcd": 5}
    texts = [prompt.text.casefold() for part in (sets.pool, sets.evaluation, sets.heldout_probe) for prompt in part]
    assert len(set(texts)) == len(texts)
    assert all(text.endswith("\nreply with the number only.") for text in texts)
    assert {prompt.task for prompt in sets.pool} == {"reasoning_gym"}
    assert [prompt.level for prompt in sets.pool] != sorted(prompt.level for prompt in sets.pool)


def test_the_scorers_of_the_package_judge() -> None:
    task = pickle.loads(pickle.dumps(load_task("reasoning_gym", OPTIONS)))  # noqa: S301  as it travels to the pool
    for prompt in gym_sets().pool:
        assert task.verify(prompt, f"It is {prompt.answer}.") == (1.0, RolloutStatus.RIGHT)
        assert task.verify(prompt, f"It is {int(prompt.answer) + 1}.") == (0.0, RolloutStatus.WRONG)
        assert task.verify(prompt, "I do not know.") == (0.0, RolloutStatus.WRONG)


@pytest.mark.parametrize(
    ("answer_format", "response", "is_right"),
    [
        ("whole", " 12\n", True),
        ("whole", "It is 12", False),
        ("last_integer", "6 + 6 = 12.", True),
        ("boxed", "so \\boxed{12}", True),
        ("boxed", "12", False),
        ("answer_tags", "<answer>12</answer>", True),
        ("answer_tags", "12", False),
    ],
)
def test_the_answer_formats(answer_format: str, response: str, is_right: bool) -> None:
    prompt = gym_prompt("chain_sum", {"question": "6 + 6 =", "answer": "12", "metadata": {}})
    _, status = ReasoningGym(answer_format=answer_format).verify(prompt, response)
    assert (status == RolloutStatus.RIGHT) is is_right


def test_part_of_a_score_is_no_success_and_a_reward_only_when_asked_for() -> None:
    """The default scorer gives a long response that holds the answer somewhere its share of it."""
    prompt = gym_prompt("caesar_cipher", {"question": "?", "answer": "HELLO", "metadata": {}})
    assert ReasoningGym().verify(prompt, "HELLO") == (1.0, RolloutStatus.RIGHT)
    assert ReasoningGym().verify(prompt, "SAY HELLO!") == (0.0, RolloutStatus.WRONG)
    assert ReasoningGym(partial_credit=True).verify(prompt, "SAY HELLO!") == (0.5, RolloutStatus.WRONG)
    assert ReasoningGym(success_threshold=0.5).verify(prompt, "SAY HELLO!") == (1.0, RolloutStatus.RIGHT)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"families": {}}, r"families to generate, got none"),
        ({"families": {"x": {"generator": "no_such"}}}, r"families\.x: .*'no_such'"),
        ({"families": {"x": {"generator": "gcd", "settings": {"min_numberz": 2}}}}, r"families\.x: .*min_numberz"),
        ({"num_pool_prompts": 600}, r"families\.sum: expected \d+ different prompts, got \d+"),
        ({"families": {"x": {"generator": "caesar_cipher"}}}, r"families\.x: .*an answer that is no integer"),
        ({"answer_format": "last_word"}, r"data\.task_options: .*answer_format"),
        ({"answer_fromat": "whole"}, r"data\.task_options: .*answer_fromat"),
        ({"families": {"x": {"generator": "gcd", "weight": 0}}}, r"weight"),
    ],
)
def test_options_that_cannot_work_are_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        gym_sets(**changes)
    assert "\n" not in str(caught.value)


def test_a_missing_package_and_a_foreign_prompt_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"generator, settings and entry in extra_info, got none"):
        ReasoningGym().verify(Prompt(prompt_id="p", text="?", answer="1", task="reasoning_gym"), "1")
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[reasoning-gym\]'"):
        gym_sets()


def test_there_is_nothing_to_warm_start_from() -> None:
    with pytest.raises(ConfigError, match=r"makes no warm-start examples .*set model\.path"):
        load_generated_task("reasoning_gym", OPTIONS, "set model.path")


def test_the_mixture_of_the_demo() -> None:
    config = load_config(TrainConfig, ROOT / "configs" / "smollm2_mixture.yaml")
    sets = load_data(config.data, 0)
    assert [len(sets.pool), len(sets.evaluation)] == [1500, 128]
    counts = Counter(prompt.level for prompt in sets.pool)
    assert len(counts) == 17
    assert max(counts.values()) <= 2.2 * min(counts.values())
    task = load_task(config.data.task, config.data.task_options)
    assert all(task.verify(prompt, prompt.answer)[1] == RolloutStatus.RIGHT for prompt in sets.pool[::10])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[[0, 1], [1, 0]]", True),
        ("['A', 'Q']", True),
        ("(3 + 4) * 2 - 1/5", True),
        ("x**2/2 + sin(x) + C", True),
        ("3*x^2 - 4.5*y", True),
        ("x**2/2 + x**3/3 + C", True),
        ("x**2 + y**2 - z**2", True),
        ("_ Q _ _\nQ _ _ _", True),
        ("CEADB", True),
        ("__import__('os').system('id')", False),
        ("().__class__", False),
        ("exec(1)", False),
        ("lambda: 0", False),
        ("open(x)", False),
        ("x.f(1)", False),
        ("9**9**9", False),
        ("2**99999", False),
        ("[x for x in (1, 2)]", False),
        ("1" * 5000, False),
    ],
)
def test_what_may_be_evaluated(answer: str, expected: bool) -> None:
    assert is_harmless(answer) is expected


def test_code_is_not_evaluated(tmp_path: Path) -> None:
    """countdown's scorer parses with sympy, which evaluates; n_queens' calls eval."""
    import reasoning_gym

    touched = tmp_path / "touched"
    attack = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    for name in ("countdown", "n_queens", "string_insertion", "polynomial_multiplication", "simple_integration"):
        entry = reasoning_gym.create_dataset(name, seed=0, size=1)[0]
        prompt = gym_prompt(name, entry)
        assert ReasoningGym().verify(prompt, attack) == (0.0, RolloutStatus.WRONG)
        if name in ("countdown", "polynomial_multiplication"):
            assert ReasoningGym().verify(prompt, entry["answer"])[1] == RolloutStatus.RIGHT
    assert not touched.exists()


def test_a_response_that_the_scorer_cannot_read_is_wrong_and_a_broken_scorer_is_no_verdict() -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("prime_factorization", seed=0, size=1)[0]
    assert ReasoningGym().verify(gym_prompt("prime_factorization", entry), "no idea") == (0.0, RolloutStatus.WRONG)
    assert ReasoningGym().verify(gym_prompt("prime_factorization", entry), entry["answer"])[1] == RolloutStatus.RIGHT
    unreadable = {"question": "?", "answer": "two × three", "metadata": {}}
    with pytest.raises(ValueError, match="two"):
        ReasoningGym().verify(gym_prompt("prime_factorization", unreadable), "2 × q")


def test_a_scorer_that_takes_any_text_for_true_is_not_asked() -> None:
    prompt = gym_prompt("game_of_life_halting", {"question": "?", "answer": "True", "metadata": {}})
    assert ReasoningGym().verify(prompt, "true")[1] == RolloutStatus.RIGHT
    assert ReasoningGym().verify(prompt, "False")[1] == RolloutStatus.WRONG
