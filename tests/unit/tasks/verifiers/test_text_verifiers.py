from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.prompt_check import check_prompts
from gps_ray.tasks.registry import load_task
from tests.unit.tasks.verifiers.hostile import ANSWER, hostile_responses


def _prompt(answer: str, source: str = "s") -> Prompt:
    return Prompt(prompt_id="p", text="?", answer=answer, task=source)


def _right(name: str, answer: str, response: str) -> bool:
    return load_task(name, {}).verify(_prompt(answer), response)[1] is RolloutStatus.RIGHT


@pytest.mark.parametrize(
    ("name", "answer", "response"),
    [
        ("gsm8k", "2 + 40 = <<2+40=42>>42\n#### 42", "so #### 42"),
        ("gsm8k", "42", "I pay $42."),
        ("gsm8k", "#### 1,234", "\\boxed{1234}"),
        ("gsm8k", "#### 1234", "#### $1,234.00"),
        ("gsm8k", "#### -5", "It falls to -5"),
        ("gsm8k", "#### 42", "#### 41\n#### 42\nThat took 3 steps"),
        ("gsm8k", "#### 3.5", "#### 7/2"),
        ("gsm8k", "1/2", "half of it, 0.5"),
        ("gsm8k", "1000", "#### 1e3"),
        ("gsm8k", "0", "#### -0"),
        ("multiple_choice", "C", "The answer is a bit hidden, but (C)"),
        ("multiple_choice", "C", "answer: c) Paris"),
        ("multiple_choice", "C", "the answer is c\nI am sure"),
        ("multiple_choice", "B", "\\boxed{B}"),
        ("multiple_choice", "B", "\\boxed{\\text{(B)}}"),
        ("multiple_choice", "(B)", "The answer is B."),
        ("multiple_choice", "B", "It could be A. Answer: **B**"),
        ("multiple_choice", "b", "(B)"),
        ("multiple_choice", "B", "B. Paris"),
        ("multiple_choice", "B", "<answer>B</answer>"),
        ("multiple_choice", "J", "The answer is (J)."),
        ("multiple_choice", "I", "Answer: I"),
        ("multiple_choice", "I", "\\boxed{I}"),
        ("multiple_choice", "B", "The answer is I think (B)"),
        ("multiple_choice", "B", "so the correct option is (B) as shown"),
        ("exact", "New York", "  new\n york. "),
        ("exact", "New York", "I think <answer>New York</answer>"),
        ("exact", "x", "\\boxed{x}"),
    ],
)  # fmt: skip
def test_right(name: str, answer: str, response: str) -> None:
    assert _right(name, answer, response)


@pytest.mark.parametrize(
    ("name", "answer", "response"),
    [
        ("gsm8k", "#### 42", "42 #### 41"),
        ("gsm8k", "#### 42", "####"),
        ("gsm8k", "#### 42", "it is 142"),
        ("gsm8k", "#### 42", ""),
        ("gsm8k", "2", "#### 7/2"),
        ("gsm8k", "3", "#### 1e3"),
        ("gsm8k", "0", "#### 1/0"),
        ("multiple_choice", "A", "The answer is a bit hidden"),
        ("multiple_choice", "B", "(A) (B)"),
        ("multiple_choice", "B", "The answer is A"),
        ("multiple_choice", "I", "The answer is I do not know"),
        ("multiple_choice", "I", "I guess so"),
        ("multiple_choice", "B", "Be careful"),
        ("multiple_choice", "A", "A dog barked"),
        ("multiple_choice", "B", "answer is Bob"),
        ("exact", "New York", "New York City"),
        ("exact", "x", "x <answer>y</answer>"),
    ],
)
def test_wrong(name: str, answer: str, response: str) -> None:
    assert not _right(name, answer, response)


@pytest.mark.parametrize(
    ("name", "answer"), [("gsm8k", ANSWER), ("multiple_choice", "E"), ("multiple_choice", "J"), ("exact", ANSWER)]
)  # fmt: skip
def test_5000_hostile_responses(name: str, answer: str) -> None:
    task = load_task(name, {})
    assert all(task.verify(_prompt(answer), response)[1] is RolloutStatus.WRONG for response in hostile_responses(5000))


@pytest.mark.parametrize(
    ("name", "answer"),
    [("gsm8k", "none"), ("gsm8k", "5 or 6"), ("gsm8k", "3:30"), ("multiple_choice", "K"), ("exact", " ")],
)
def test_an_answer_of_another_notation_is_refused(name: str, answer: str) -> None:
    with pytest.raises(DataError, match=r"expected an? "):
        load_task(name, {}).verify(_prompt(answer), "")


def test_shaping_changes_rewards_and_no_status() -> None:
    options = {"format": "boxed", "format_reward": 0.1, "length_penalty": 0.5, "length_from": 100, "length_to": 200}
    task = load_task("gsm8k", options)
    assert task.verify(_prompt("1"), "1") == (1.0, RolloutStatus.RIGHT)
    assert task.verify(_prompt("1"), "\\boxed{1}") == (1.1, RolloutStatus.RIGHT)
    assert task.verify(_prompt("1"), "\\boxed{2}") == (0.1, RolloutStatus.WRONG)
    assert task.verify(_prompt("1"), " " * 149 + "1") == (0.75, RolloutStatus.RIGHT)
    assert task.verify(_prompt("1"), " " * 999 + "1") == (0.5, RolloutStatus.RIGHT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "xml", "format_reward": 1}, "format must be one of boxed, answer, got 'xml'"),
        ({"format": "boxed"}, "format and format_reward go together"),
        ({"length_penalty": 1.0}, "length_to must be above length_from"),
        ({"fromat": "boxed"}, "fromat"),
    ],
)
def test_options_that_cannot_be_are_one_line(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.task_options: [^\n]*$") as caught:
        load_task("exact", options)
    assert expected in str(caught.value)


def test_the_verifier_of_a_row_is_its_data_sources() -> None:
    task = load_task("by_source", {"sources": {"my/set": "multiple_choice"}, "format": "boxed", "format_reward": 0.5})
    assert task.verify(_prompt("#### 7", "openai/gsm8k"), "#### 7") == (1.0, RolloutStatus.RIGHT)
    assert task.verify(_prompt("B", "my/set"), "\\boxed{B}") == (1.5, RolloutStatus.RIGHT)
    assert task.verify(_prompt("1/2", "lighteval/MATH"), "\\boxed{0.5}") == (1.5, RolloutStatus.RIGHT)
    with pytest.raises(DataError, match=r"^no verifier .*'other/set'; name one in data\.task_options\.sources"):
        task.verify(_prompt("B", "other/set"), "B")
    with pytest.raises(ConfigError, match="mahts"):
        load_task("by_source", {"sources": {"my/set": "mahts"}})


@pytest.mark.parametrize(
    ("name", "sources_and_answers", "said"),
    [
        (
            "by_source",
            [("openai/gsm8k", "#### 1"), ("odd", "1"), ("odd", "2"), ("strange", "3"), ("math", " ")],
            "4 of 5 prompts cannot be judged: 2 x no verifier is known for data_source 'odd'.*; 1 x no verifier is "
            "known for data_source 'strange'.*; 1 x expected a maths answer with text",
        ),
        ("gsm8k", [("s", "#### 7"), ("s", "none"), ("s", "one")], "2 of 3 .*1 x expected a gsm8k .* got 'none'; 1 x"),
        ("math", [("s", "7"), ("s", "")], "1 of 2 prompts cannot be judged: 1 x expected a maths answer"),
    ],
)
def test_every_prompts_verifier_is_known_before_the_start(
    name: str, sources_and_answers: list[tuple[str, str]], said: str, tmp_path: Path
) -> None:
    prompts = [
        Prompt(prompt_id=f"p{index}", text=f"? {index}", answer=answer, task=source)
        for index, (source, answer) in enumerate(sources_and_answers)
    ]
    shaping = {"format": "boxed", "format_reward": 0.1}
    for options in ({}, shaping):
        check_prompts(load_task(name, options), prompts[:1], "data.pool_file", tmp_path)
        with pytest.raises(DataError, match=rf"^data\.pool_file: {said}[^\n]*; mend [^\n]*$"):
            check_prompts(load_task(name, options), prompts, "data.pool_file", tmp_path)
