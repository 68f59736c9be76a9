"""gps-ray: a small predictor says which prompts are worth the rollouts (GPS, arXiv 2602.01970).

``gps_ray.Selector`` chooses prompts for a trainer of your own, ``gps_ray.allocate`` shares out samples. Importing this
loads nothing: each name is imported when it is first used, and none of them needs ray, vllm or (``gps_fused``) torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gps_ray.base.errors import CheckpointError, ConfigError, DataError, GpsRayError, UsageError
    from gps_ray.base.useful import is_useful
    from gps_ray.config import SelectionConfig
    from gps_ray.config.reference import explain
    from gps_ray.integrations.prompt_feed import PromptFeed
    from gps_ray.integrations.selector import Prediction, Selector, selector_names
    from gps_ray.integrations.sharing import allocate, group_sizes

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GpsRayError",
    "Prediction",
    "PromptFeed",
    "SelectionConfig",
    "Selector",
    "UsageError",
    "allocate",
    "explain",
    "group_sizes",
    "is_useful",
    "selector_names",
]

_HOMES = {
    "gps_ray.base.errors": ("CheckpointError", "ConfigError", "DataError", "GpsRayError", "UsageError"),
    "gps_ray.base.useful": ("is_useful",),
    "gps_ray.config": ("SelectionConfig",),
    "gps_ray.config.reference": ("explain",),
    "gps_ray.integrations.prompt_feed": ("PromptFeed",),
    "gps_ray.integrations.selector": ("Prediction", "Selector", "selector_names"),
    "gps_ray.integrations.sharing": ("allocate", "group_sizes"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gps_ray' has no {name!r}; it has {', '.join(__all__)}")
    found = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
