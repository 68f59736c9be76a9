"""Runs of TRL's own trainers on a model that says random numbers, with rewards that are known beforehand.

TRL takes ten seconds to import, and is imported by the first test that needs it: not where tests are only collected.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gps_ray
from gps_ray.base.states import below
from tests.own_data import make_own_model

__all__ = ["GROUP_SIZE", "PROMPTS", "is_right", "kill_at", "learnt", "make_trainer", "right_of", "trl_adapter"]

PROMPTS = tuple(f"{row} {row % 7}" for row in range(20))
GROUP_SIZE = 4


def trl_adapter() -> Any:
    """``gps_ray.integrations.trl``; skips the test where TRL is not installed."""
    # TRL reports to the Hub that it is used; huggingface_hub reads this when it is imported.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL about the version of vLLM
        pytest.importorskip("trl", reason="TRL is not installed: pip install 'gps-ray[trl]'")
        from gps_ray.integrations import trl
    return trl


def right_of(row: int) -> int:
    """How many of a group's rollouts are rewarded."""
    return row % (GROUP_SIZE + 1)


def is_right(prompts: list[str], **_: Any) -> list[float]:
    """The n-th response to a prompt is right where n is at most ``right_of`` its row."""
    seen: dict[str, int] = {}
    rewards = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, 0) + 1
        rewards.append(float(seen[prompt] <= right_of(PROMPTS.index(prompt))))
    return rewards


def make_trainer(folder: Path, *, rloo: bool = False, selector: gps_ray.Selector | None = None, **changes: Any) -> Any:
    """A trainer of 4 groups a batch. Its model is written to ``folder`` once; all that trains there starts from it."""
    adapter = trl_adapter()
    from datasets import Dataset
    from trl import GRPOConfig, RLOOConfig

    model = folder / "model"
    if not model.is_dir():
        make_own_model(model)
    settings: dict[str, Any] = {
        "output_dir": str(folder / "run"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_completion_length": 4,
        "num_generations": GROUP_SIZE,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "max_steps": 4,
    }
    arguments = (RLOOConfig if rloo else GRPOConfig)(**(settings | changes))
    return (adapter.SelectingRLOOTrainer if rloo else adapter.SelectingGRPOTrainer)(
        str(model),
        [is_right],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        eval_dataset=Dataset.from_dict({"prompt": list(PROMPTS[-2:])}),
        selector=selector or gps_ray.Selector(PROMPTS, group_size=GROUP_SIZE, seed=3),
        success=adapter.Solved("is_right"),
    )


def kill_at(trainer: Any, step: int, kill: Callable[[], None]) -> None:
    """``kill`` is called in the middle of the step after that one."""
    from transformers import TrainerCallback

    class KillAt(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                kill()

    trainer.add_callback(KillAt())


def learnt(trainer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rows, num_right, num_tried, [N] each: all that the selector was told, in order."""
    history = below("selector/history", trainer.feed.state())
    return history["rows"], history["num_right"], history["num_tried"]
