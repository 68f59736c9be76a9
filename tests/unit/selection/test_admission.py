"""Admission: which groups train, how often a step asks again, and what it is charged."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.config import SelectionConfig
from gps_ray.selection.admission import Admission, build_admission


def _offer(admission: Admission, groups: dict[str, bool]) -> None:
    admission.offer(tuple(groups), np.array(list(groups.values()), dtype=np.bool_))


def test_keep_all_admits_every_group_in_order_and_asks_once() -> None:
    admission = build_admission(SelectionConfig(selector="uniform"))
    admission.begin(3)
    _offer(admission, {"a": False, "b": True})
    _offer(admission, {"c": False})
    assert admission.admitted == ("a", "b", "c")
    assert admission.is_full
    assert not admission.wants_more(1)


def test_keep_all_with_a_failed_group_trains_on_what_came() -> None:
    admission = build_admission(SelectionConfig(selector="gps"))
    admission.begin(3)
    _offer(admission, {"a": True, "c": False})
    assert admission.admitted == ("a", "c")
    assert admission.num_missing == 1
    assert not admission.wants_more(1)


def test_useful_only_fills_over_rounds_and_drops_the_surplus() -> None:
    admission = build_admission(SelectionConfig(selector="ds"))
    admission.begin(3)
    _offer(admission, {"a": False, "b": True, "c": False, "d": True})
    assert admission.admitted == ("b", "d")
    assert (admission.num_missing, admission.wants_more(1)) == (1, True)
    _offer(admission, {"e": False, "f": True, "g": True, "h": True})
    assert admission.admitted == ("b", "d", "f")
    assert not admission.wants_more(2)


def test_the_cap_ends_the_step_with_what_it_has() -> None:
    admission = build_admission(SelectionConfig(selector="ds", max_rounds=4))
    admission.begin(2)
    rounds = 0
    while True:
        _offer(admission, {f"{rounds}-{i}": rounds == 2 and i == 1 for i in range(2)})
        rounds += 1
        if not admission.wants_more(rounds):
            break
    assert rounds == 4
    assert admission.admitted == ("2-1",)


@pytest.mark.parametrize("selector", ["uniform", "ds"])
def test_no_group_is_admitted_twice(selector: str) -> None:
    admission = build_admission(SelectionConfig(selector=selector))
    admission.begin(3)
    _offer(admission, {"a": True})
    _offer(admission, {"a": True, "b": True})
    assert admission.admitted == ("a", "b")


def test_a_step_begins_empty_and_may_be_offered_nothing() -> None:
    admission = build_admission(SelectionConfig(selector="ds"))
    admission.begin(1)
    _offer(admission, {"a": True, "b": False})
    admission.begin(2)
    _offer(admission, {})
    assert admission.admitted == ()
    assert admission.num_missing == 2


@pytest.mark.parametrize(
    ("config", "useful_only", "max_rounds"),
    [
        (SelectionConfig(selector="uniform"), False, 1),
        (SelectionConfig(selector="ds"), True, 10),
        (SelectionConfig(selector="greso"), True, 10),
        (SelectionConfig(selector="ds", max_rounds=4), True, 4),
        (SelectionConfig(selector="gps", admission="useful_only"), True, 10),
        (SelectionConfig(selector="ds", admission="keep_all"), False, 1),
    ],
)
def test_the_rule_follows_the_selector_unless_set(config: SelectionConfig, useful_only: bool, max_rounds: int) -> None:
    admission = build_admission(config)
    assert (admission.useful_only, admission.max_rounds) == (useful_only, max_rounds)
