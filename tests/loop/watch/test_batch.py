"""Why a prompt is in the batch, and what the selector knew of it."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.study.report.run_data import GroupTable
from gps_ray.study.watch.batch import batch_of

NAN = np.nan


def _groups(**changes: object) -> GroupTable:
    """Four groups of prompts a, b: a in steps 1 and 2, both in step 3."""
    columns: dict[str, object] = {
        "step": [1, 2, 3, 3],
        "round": [0, 0, 0, 0],
        "slot": [0, 0, 1, 0],
        "prompt_id": np.array(["a", "a", "a", "b"], object),
        "level": np.array(["easy", "easy", "easy", ""], object),
        "num_right": [1, 4, 2, 8],
        "num_tried": [8, 8, 8, 8],
        "mean_reward": [0.1, 0.5, 0.25, 1.0],
        "mean_length": [3.0, 3.0, 3.0, NAN],
        "random_slot": [True, False, False, False],
        "predicted_mean": [NAN, 0.4, 0.5, 0.3],
        "predicted_std": [NAN, 0.1, 0.1, 0.2],
        "expected_useful": [NAN, 0.8, 0.9, 0.7],
        "text_mean": [NAN, 0.2, 0.25, 0.3],
        "num_steps_observed": [0, 1, 2, 2],
    }
    return GroupTable(**{name: np.asarray(values) for name, values in (columns | changes).items()})  # type: ignore[arg-type]


def test_a_batch_is_in_the_order_of_its_slots_with_what_was_known() -> None:
    b, a = batch_of(_groups(), 3, {"a": "What is <b>?"})
    assert (a.slot, a.why, a.prompt) == ("1", "score: its own record and its text", "What is <b>?")
    assert (a.predicted, a.useful, a.text, a.record) == ("50 % ± 10", "90 %", "25 %", "5 of 16 in 2")
    assert (a.result, a.is_useful, a.reward, a.length) == ("2 of 8", True, "0.25", "3")
    assert (b.why, b.record, b.prompt) == ("score: its text, never tried", "-", "b")
    assert (b.is_useful, b.length) == (False, "-")


def test_a_record_holds_only_what_had_been_observed_by_then() -> None:
    (_, a) = batch_of(_groups(num_steps_observed=[0, 0, 1, 1]), 3, {})  # a policy lag of 1
    assert a.record == "1 of 8 in 1"
    (_, a) = batch_of(_groups(num_steps_observed=[-1] * 4), 3, {})  # a run that does not say
    assert a.record == "5 of 16 in 2"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"random_slot": [True] * 4}, "random slot"),
        ({"predicted_mean": [NAN] * 4}, "without a prediction: in the selector's own order"),
        ({"text_mean": [NAN] * 4}, "score: its own record"),
        ({"text_mean": [NAN, NAN, 0.5, NAN]}, "score: its text"),
        ({"text_mean": [NAN] * 4, "num_steps_observed": [0] * 4}, "score: no record yet"),
    ],
)
def test_the_reason_in_words(changes: dict[str, object], why: str) -> None:
    assert batch_of(_groups(**changes), 3, {})[1].why == why
