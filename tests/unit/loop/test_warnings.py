import logging

import pytest

from gps_ray.config import TrainConfig, parse_config
from gps_ray.loop.warnings import TruncationWatch, warn_of_sampling


def test_mostly_truncated_steps_are_said_once_until_the_share_falls(caplog: pytest.LogCaptureFixture) -> None:
    watch = TruncationWatch()
    with caplog.at_level(logging.WARNING):
        for step, ratio in enumerate([0.5, 0.6, 0.9, 0.2, 1.0, 1.0], start=1):
            watch.look(step, {"rollout/truncated_ratio": ratio})
        watch.look(7, {})
    assert [record.getMessage().split(" of")[0] for record in caplog.records] == ["step 2: 60 %", "step 5: 100 %"]
    assert "rollout.max_response_tokens" in caplog.messages[0]


@pytest.mark.parametrize(
    ("rollout", "rollout_is", "is_said"),
    [({}, None, False), ({"top_p": 0.9}, None, True), ({"min_p": 0.1}, None, True), ({"top_k": 5}, "token", False)],
)
def test_a_distribution_that_the_learner_does_not_score_is_said(
    caplog: pytest.LogCaptureFixture, rollout: dict[str, float], rollout_is: str | None, is_said: bool
) -> None:
    config = parse_config(TrainConfig, {"rollout": rollout, "learning": {"rollout_is": rollout_is}})
    with caplog.at_level(logging.WARNING):
        warn_of_sampling(config)
    assert ["learning.rollout_is" in message for message in caplog.messages] == [True] * is_said
