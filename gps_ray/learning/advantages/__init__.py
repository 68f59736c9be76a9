"""Advantages, one file each: the formula, its source, a few lines. Groups may be ragged, down to one rollout."""
