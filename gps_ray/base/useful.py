"""A useful group: some of its responses are right and some are wrong, so that comparing them teaches something.

Useful goes by success, never by reward: shaping (a length penalty, a bonus for a format) makes rewards differ in groups
that are all wrong, and training on those alone has spoilt policies elsewhere. Groups whose rewards differ without being
useful are counted by the learner (``train/num_groups_shaped_only``).
"""

from __future__ import annotations

from gps_ray.base.types import BoolArray, FloatArray, IntArray

__all__ = ["is_useful", "useful_probability"]


def is_useful(num_right: IntArray, num_tried: IntArray) -> BoolArray:
    """[K] bool: 0 < k < n for k right of n responses with a verdict. Failed ones count for neither."""
    return (num_right > 0) & (num_right < num_tried)


def useful_probability(rate: FloatArray, group_size: int) -> FloatArray:
    """P(0 < k < G) = 1 - g^G - (1 - g)^G for success rates g of any shape and k ~ Binomial(G, g)."""
    return 1.0 - rate**group_size - (1.0 - rate) ** group_size
