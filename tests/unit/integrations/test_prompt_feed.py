"""The core of an adapter: batches in flight, their lag, and the same batches after a kill."""

from __future__ import annotations

import numpy as np
import pytest

import gps_ray

PROMPTS = [f"prompt number {number}" for number in range(40)]


def _feed(num_prompts: int = 4) -> gps_ray.PromptFeed:
    return gps_ray.PromptFeed(gps_ray.Selector(PROMPTS, seed=2), num_prompts)


def test_a_batch_read_ahead_counts_as_lag() -> None:
    feed = _feed()
    feed.choose()
    feed.choose()  # read ahead
    lags = []
    for _step in range(3):
        lags.append(feed.observe([0, 4, 8, 0], 8)["lag"])
        feed.choose()
    assert lags == [0.0, 1.0, 1.0]
    assert feed.num_out == 2
    assert feed.metrics["share_useful"] == 0.25
    assert feed.metrics["success_rate"] == 12 / 32


def test_a_resumed_trainer_is_given_the_batches_that_were_out_and_then_the_same_choices() -> None:
    feed, resumed = _feed(), _feed()
    feed.choose()
    feed.choose()
    feed.observe([1, 2, 3, 4], 8)
    out = [feed.choose(), feed.choose()]
    resumed.load_state(feed.state())
    again = _feed()
    again.load_state(resumed.state())  # killed once more before it asked for anything
    second = feed.state()["out"][0]
    assert [batch.tolist() for batch in (again.choose(), again.choose(), again.choose())] == [
        second.tolist(),
        *(batch.tolist() for batch in out),
    ]
    for each in (feed, again):
        each.observe([8, 0, 5, 5], 8)
    assert feed.choose().tolist() == again.choose().tolist()
    assert feed.metrics == again.metrics


def test_wrong_use_is_one_line_and_learns_nothing() -> None:
    feed = _feed()
    with pytest.raises(gps_ray.UsageError, match="no batch is out; call choose first"):
        feed.observe(1, 8)
    rows = feed.choose()
    with pytest.raises(gps_ray.UsageError, match="expected the groups of the batch"):
        feed.observe(1, 8, rows=(rows + 1) % 40)
    with pytest.raises(gps_ray.UsageError, match="num_right: expected 4 whole numbers or one"):
        feed.observe([1, 2], 8)
    assert (feed.num_out, feed.selector.num_updates) == (1, 0)
    feed.observe(np.arange(4), 8, rows=rows[::-1])
    assert feed.num_out == 0
    with pytest.raises(gps_ray.CheckpointError, match="batches of 4 prompts, this trainer takes 5"):
        _feed(5).load_state(feed.state())
    with pytest.raises(gps_ray.UsageError, match="num_prompts: expected at least 1"):
        _feed(0)
