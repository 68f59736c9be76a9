"""The batch of one step: what was picked, why, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import IntArray
from gps_ray.study.report.render import visible
from gps_ray.study.report.run_data import GroupTable

__all__ = ["BatchRow", "batch_of"]

_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One prompt of the batch, in words. ``kind`` is what it was picked by: "random", "score" or "order"."""

    slot: str
    kind: str
    why: str
    prompt_id: str
    prompt: str
    level: str
    predicted: str
    useful: str
    record: str
    text: str
    result: str
    is_useful: bool
    reward: str
    length: str


def batch_of(groups: GroupTable, step: int, texts: Mapping[str, str]) -> list[BatchRow]:
    """The groups of a step by round and slot; ``texts`` by prompt id. A prompt's own record is what the selector knew
    of it when it chose: the groups of the steps that it had observed."""
    at = np.flatnonzero(groups.step == step)
    at = at[np.lexsort((groups.slot[at], groups.round[at]))]
    groups_of: dict[str, list[int]] = {groups.prompt_id[i]: [] for i in at}
    for i, prompt_id in enumerate(groups.prompt_id):
        if prompt_id in groups_of:
            groups_of[prompt_id].append(i)
    return [_row(groups, int(i), np.array(groups_of[groups.prompt_id[i]]), texts) for i in at]


def _row(groups: GroupTable, i: int, of_prompt: IntArray, texts: Mapping[str, str]) -> BatchRow:
    prompt_id = str(groups.prompt_id[i])
    observed = int(groups.num_steps_observed[i])
    known = observed if observed >= 0 else int(groups.step[i]) - 1
    before = of_prompt[groups.step[of_prompt] <= known]
    num_before = len(before)
    right, tried = int(groups.num_right[before].sum()), int(groups.num_tried[before].sum())
    mean, text = float(groups.predicted_mean[i]), float(groups.text_mean[i])
    predicts = bool(np.isfinite(mean))
    if not predicts:
        kind, why = "order", "without a prediction: in the selector's own order"
    elif groups.random_slot[i]:
        kind, why = "random", "random slot"
    else:
        kind, why = "score", "score: " + _evidence(mean, text, num_before)
    spread = f" ± {100 * groups.predicted_std[i]:.0f}" if np.isfinite(groups.predicted_std[i]) else ""
    return BatchRow(
        slot=f"{groups.round[i]}.{groups.slot[i]}" if groups.round[i] else str(groups.slot[i]),
        kind=kind,
        why=why,
        prompt_id=prompt_id,
        prompt=visible(texts.get(prompt_id, prompt_id), 400),
        level=visible(str(groups.level[i]), 40),
        predicted=_percent(mean) + spread if predicts else "-",
        useful=_percent(float(groups.expected_useful[i])),
        record=f"{right} of {tried} in {num_before}" if num_before else "-",
        text=_percent(text),
        result=f"{groups.num_right[i]} of {groups.num_tried[i]}",
        is_useful=bool(groups.useful[i]),
        reward=f"{groups.mean_reward[i]:.2f}" if np.isfinite(groups.mean_reward[i]) else "-",
        length=f"{groups.mean_length[i]:.0f}" if np.isfinite(groups.mean_length[i]) else "-",
    )


def _evidence(mean: float, text: float, num_before: int) -> str:
    """What the score could rest on, in words."""
    if not np.isfinite(text):
        return "its own record" if num_before else "no record yet"
    if not num_before:
        return "its text, never tried"
    return "its text" if abs(mean - text) < _SAME else "its own record and its text"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else "-"
