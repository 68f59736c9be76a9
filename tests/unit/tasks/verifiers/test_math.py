from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.verifiers.math import Math
from tests.unit.tasks.verifiers.pairs import misjudged, pairs

RECORDED = Path(__file__).parents[5] / "shared" / "data" / "maths_train_math.parquet"


def _prompt(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="how much?", answer=answer, task="math")


def test_a_sixth_of_the_table_of_answer_pairs() -> None:
    """``tests/ray/test_verdicts.py`` has all of it."""
    task, table = Math(), list(pairs())[::6]
    assert len(table) > 50
    assert misjudged(task, table) == []
    # The second grader has no algebra, but differs in a minority of cases and only by being too strict.
    assert 0 < task.num_disagreements < len(table) / 3
    assert len(task.disagreements) == min(task.num_disagreements, 100)


def test_only_numbers_below_the_decimals_are_compared_by_their_digits() -> None:
    assert Math().verify(_prompt("10.000001"), "\\boxed{10.0000012}") == (1.0, RolloutStatus.RIGHT)
    assert Math().verify(_prompt("0.000001"), "\\boxed{0.0000012}") == (0.0, RolloutStatus.WRONG)


@pytest.mark.parametrize("response", ["the answer is 42", "Answer: $42$.", "<answer>42</answer>", "41, \\boxed{42}"])
def test_a_stated_answer_is_found(response: str) -> None:
    assert Math().verify(_prompt("42"), response) == (1.0, RolloutStatus.RIGHT)


@pytest.mark.parametrize("response", ["", "\\boxed{42", "42 is not it, \\boxed{43}", "\\boxed{}", "####", "9^9^9^42"])
def test_what_states_another_answer_or_none_is_wrong(response: str) -> None:
    assert Math().verify(_prompt("42"), response) == (0.0, RolloutStatus.WRONG)


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(DataError, match="expected a maths answer with text"):
        Math().verify(_prompt(" "), "1")


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded maths problems are not part of the repository")
def test_real_answers_are_right_as_they_stand() -> None:
    answers = pq.read_table(RECORDED, columns=["answer"])["answer"].to_pylist()[:100]
    task = Math()
    rights = [task.verify(_prompt(a), f"\\boxed{{{a}}}")[1] is RolloutStatus.RIGHT for a in answers]
    assert sum(rights) >= 0.98 * len(answers)
