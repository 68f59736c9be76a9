"""Checkpoints that could not be written: so many in a row the run goes on without."""

from __future__ import annotations

import sys

from gps_ray.base.errors import StorageError

__all__ = ["SkippedCheckpoints"]


class SkippedCheckpoints:
    """``limit``: so many in a row (checkpoint.max_skipped); ``num`` counts all of this process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self.num = 0

    def written(self) -> None:
        self._in_a_row = 0

    def skipped(self, step: int, error: StorageError) -> None:
        """Say so, or raise StorageError where it is one too many."""
        self.num += 1
        self._in_a_row += 1
        if self._in_a_row > self._limit:
            raise StorageError(
                f"{error} ({self._in_a_row} checkpoints in a row, checkpoint.max_skipped={self._limit})"
            ) from error
        print(
            f"step {step}: checkpoint skipped, number {self._in_a_row} in a row of at most {self._limit} "
            f"(checkpoint.max_skipped): {error}",
            file=sys.stderr,
            flush=True,
        )
