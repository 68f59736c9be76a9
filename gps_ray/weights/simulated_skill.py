"""What a simulated policy forgets: the one weight that its learner publishes and its engine reads.

Only with ``rollout.simulated.trap_share``, whose section has the formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.config import SimulatedConfig

__all__ = ["SKILL", "in_trap", "skill_after"]

# The name of that weight: what is added to the logits of all prompts outside the trap.
SKILL = "skill"


def in_trap(config: SimulatedConfig, prompt_id: str) -> bool:
    """Is it one of the prompts that look useful and teach nothing? Drawn once per prompt."""
    if not config.trap_share:
        return False
    return float(generator(config.seed, "simulated/trap", prompt=prompt_id).random()) < config.trap_share


def skill_after(config: SimulatedConfig, skill: float, trained: Sequence[str]) -> float:
    """The skill after an update on groups of these prompts; as it was where there is no trap or none was trained."""
    if not config.trap_share or not trained:
        return skill
    share = float(np.mean([not in_trap(config, prompt_id) for prompt_id in trained]))
    lost = config.forgetting_logits * max(0.0, 1.0 - share / (1.0 - config.trap_share))
    return skill + config.forgetting_rate * (-lost - skill)
