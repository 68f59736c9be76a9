"""Every remote call has a deadline; a stalled one names what it waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from gps_ray.base.errors import DeadlineError, GpsRayError
from gps_ray.base.waits import waiting_for

__all__ = ["death", "within"]


async def within(deadline_s: float, reference: Any, what: str, key: str) -> Any:
    """The value of an object reference.

    Raises DeadlineError after ``deadline_s`` seconds (``key`` is the config key that sets them), the remote side's own
    ``GpsRayError`` as such, and Ray's errors otherwise.
    """
    try:
        with waiting_for(what):
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), deadline_s)
    except (TimeoutError, GetTimeoutError) as error:
        raise DeadlineError(
            f"{what} did not answer within {deadline_s:g} s; raise {key} if it only needs time"
        ) from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GpsRayError):
            raise cause from None
        raise


def death(error: RayActorError) -> str:
    """Of what Ray says about an actor's death the sentence that says why, without the ids around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    for start in ("Worker exit detail: ", "The actor is dead because "):
        text = text.partition(start)[2] or text
    return text.partition(" Some common causes")[0].partition(" Owner Id")[0].rstrip(".")[:200]
