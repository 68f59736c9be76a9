"""Prompts whose second word is a level, and features that give it away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.config import FeaturesConfig

__all__ = ["PROVIDER", "LevelFeatures"]


class LevelFeatures:
    name, dimension = "levels", 64

    def __init__(self, config: FeaturesConfig) -> None:
        pass

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.eye(64)[[int(text.split()[1]) for text in texts]]


PROVIDER = f"{__name__}:{LevelFeatures.__name__}"
