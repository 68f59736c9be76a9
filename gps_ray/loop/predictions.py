"""What the selector said of a step's prompts before they were rolled out, for the learner."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from gps_ray.base.types import Selection, SuccessPrediction

__all__ = ["UNKNOWN", "success_predictions"]

# Before the first outcome nothing is known: the uniform distribution of a rate.
UNKNOWN = SuccessPrediction(mean=0.5, std=math.sqrt(1.0 / 12.0))


def success_predictions(selections: Sequence[Selection], admitted: Collection[str]) -> dict[str, SuccessPrediction]:
    """Of the admitted prompts, by id. They stand in the selections, which were made before any outcome of the step was
    known. A selector that had seen outcomes and predicts nothing of a prompt leaves it out."""
    predictions = {}
    for selection in selections:
        moments = zip(selection.prompt_ids, selection.predicted_mean, selection.predicted_std, strict=True)
        for prompt_id, mean, std in moments:
            if prompt_id not in admitted:
                continue
            if math.isfinite(mean) and math.isfinite(std):
                predictions[prompt_id] = SuccessPrediction(mean=float(mean), std=float(std))
            elif not selection.num_steps_observed:
                predictions[prompt_id] = UNKNOWN
    return predictions
