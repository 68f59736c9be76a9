"""Every error that gps-ray raises on purpose.

Each message says what was expected, what came, and which config key to change. The entry points turn a
``GpsRayError`` into one line on stderr and its exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class GpsRayError(Exception):
    """Base of all expected errors. ``exit_code`` 2: something has to be changed first."""

    exit_code = 2


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


class LostError(GpsRayError):
    """What the run needs was lost from outside: a process, a node, its folder, the room on a disk. It goes on by
    ``--resume`` once that is there again."""

    exit_code = 3


class StallError(LostError):
    """Nothing moved for too long, and the config says that the run ends then."""


class StorageError(LostError):
    """A file of the run cannot be written: no room, not there any more, read-only."""


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, on one line and not longer than people read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
