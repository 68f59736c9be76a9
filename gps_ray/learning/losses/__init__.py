"""Losses, one file each: the formula, what it assumes, a few lines of torch.

A policy loss maps ``PolicyTokens`` and a ``ClipRange`` to a ``TokenLoss``; how token losses become one number is
``gps_ray.learning.aggregation``'s business.
"""
