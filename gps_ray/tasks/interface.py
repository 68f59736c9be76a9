"""The task seam: how a problem is put to the policy and how a response is judged."""

from __future__ import annotations

from typing import Protocol

from gps_ray.types import Prompt, RolloutStatus

__all__ = ["Task", "Verdict"]

# (reward, status): the reward trains the policy (shaping may change it), the status feeds the predictor.
Verdict = tuple[float, RolloutStatus]


class Task(Protocol):
    """A verifiable task. Responses are hostile text: ``verify`` never evaluates them as code."""

    name: str

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judge one response. Anything that is not a correct answer is WRONG; FAILED is for a verifier that could not
        come to a verdict (time-out)."""
        ...
