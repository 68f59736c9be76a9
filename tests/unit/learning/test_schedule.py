import math

import pytest

from gps_ray.config import LearningConfig
from gps_ray.learning.schedule import learning_rate_factor


def _course(num_updates: int, **settings: object) -> list[float]:
    config = LearningConfig.model_validate(settings)
    return [learning_rate_factor(update, config, num_updates) for update in range(num_updates)]


def test_the_default_never_changes_the_learning_rate() -> None:
    assert _course(5) == [1.0] * 5


def test_warm_up_rises_linearly_and_then_each_schedule_takes_its_course() -> None:
    assert _course(4, lr_warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    linear = _course(6, lr_warmup_steps=1, lr_scheduler_type="linear", min_lr_ratio=0.2)
    assert linear == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    cosine = _course(5, lr_scheduler_type="cosine")
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(5)])
    assert cosine[-1] == pytest.approx(0)


def test_a_run_that_goes_on_beyond_its_plan_stays_at_the_end() -> None:
    config = LearningConfig.model_validate({"lr_scheduler_type": "linear", "min_lr_ratio": 0.1})
    assert learning_rate_factor(50, config, 10) == pytest.approx(0.1)
    assert learning_rate_factor(0, config, 1) == 1.0
