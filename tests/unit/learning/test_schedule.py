import math

import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.config import LearningConfig, TrainConfig
from gps_ray.learning.schedule import check_same_end, learning_rate_factor
from gps_ray.run.checkpoint import check_same_config


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


def _resumed(made_with: dict[str, object], more: dict[str, object], num_steps: int = 40) -> None:
    """Go on for ``num_steps`` steps with a run that was made for 20."""
    old = TrainConfig.model_validate({"run": {"num_steps": 20}, "learning": made_with})
    new = TrainConfig.model_validate({"run": {"num_steps": num_steps}, "learning": {**made_with, **more}})
    check_same_end(old.model_dump(mode="json"), new)
    check_same_config(old, new)


@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
@pytest.mark.parametrize("num_steps", [10, 40])
def test_a_resume_that_moves_the_schedules_end_is_refused(scheduler: str, num_steps: int) -> None:
    made_with: dict[str, object] = {"lr_scheduler_type": scheduler}
    with pytest.raises(
        CheckpointError, match=r"^learning\.total_training_steps: .*update 20.*=20.*run\.directory"
    ) as caught:
        _resumed(made_with, {}, num_steps)
    assert "\n" not in str(caught.value)
    # As the line says.
    _resumed(made_with, {"total_training_steps": 20}, num_steps)
    with pytest.raises(CheckpointError, match=r"learning\.total_training_steps"):
        _resumed({**made_with, "total_training_steps": 30}, {"total_training_steps": 40}, num_steps)


def test_a_resume_that_leaves_the_schedules_end_goes_on() -> None:
    _resumed({"lr_scheduler_type": "cosine"}, {}, num_steps=20)
    _resumed({"lr_scheduler_type": "cosine", "total_training_steps": 40}, {})
    _resumed({"lr_warmup_steps": 3}, {})  # constant: it has no end
