"""Every error that gps-ray raises on purpose.

Each message says what was expected, what came, and which config key to change. The entry points turn a
``GpsRayError`` into one line on stderr and exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class GpsRayError(Exception):
    """Base of all expected errors."""


class ConfigError(GpsRayError):
    """A config that cannot work: unknown key, wrong unit, impossible combination."""


class UsageError(GpsRayError, ValueError):
    """The library was called with what cannot be: counts, rows or names that make no sense."""


class DataError(GpsRayError):
    """A data set that cannot be read or does not have the expected columns."""


class ModelError(GpsRayError):
    """A model folder that cannot be loaded, or weights that do not fit it."""


class CheckpointError(GpsRayError):
    """A checkpoint that is not whole, or that belongs to another config or pool."""


class ResourceError(GpsRayError):
    """The cluster does not have what the config asks for."""


class DeadlineError(GpsRayError):
    """A remote call took longer than its configured deadline."""


class RolloutError(GpsRayError):
    """Rollouts could not be made: no healthy worker left, or a chunk failed too often."""


class LearnerError(GpsRayError):
    """The learner's attempt ended, or its update is not usable (for instance a non-finite loss)."""


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, on one line and not longer than people read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
