"""Small sets of reasoning_gym's prompts."""

from __future__ import annotations

from typing import Any

from gps_ray.base.types import Prompt
from gps_ray.config import DataConfig
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.interface import DataSets

SUMS = {"generator": "chain_sum", "settings": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
OPTIONS: dict[str, Any] = {
    "families": {"sum": {**SUMS, "weight": 2}, "gcd": {"generator": "gcd"}},
    "num_pool_prompts": 60,
    "num_evaluation_prompts": 15,
    "num_heldout_probe_prompts": 9,
    "prompt_suffix": "Reply with the number only.",
    "answer_format": "last_integer",
}


def gym_sets(**changes: Any) -> DataSets:
    return load_data(DataConfig(task="reasoning_gym", task_options={**OPTIONS, **changes}), 9)


def gym_prompt(generator: str, entry: dict[str, Any], **settings: Any) -> Prompt:
    info = {"generator": generator, "settings": settings, "entry": entry}
    return Prompt(prompt_id="p", text=entry["question"], answer=entry["answer"], task="reasoning_gym", extra_info=info)
