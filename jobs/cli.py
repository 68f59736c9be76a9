"""What the entry points share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.signals import end_on_signals
from gps_ray.base.errors import GpsRayError, StorageError
from gps_ray.base.storage import storage_error
from gps_ray.integrations.commands.console import config_arguments, name_list, number_list, print_table
from gps_ray.loop.breaks import RunStopped

__all__ = ["config_arguments", "name_list", "number_list", "print_table", "run_job"]


def run_job(main: Callable[[Sequence[str]], int]) -> None:
    """Run a job's ``main`` and leave with its exit code; an expected error is one line on stderr and the code of its
    kind (2, or 3 where something was lost), a signal one line and what a shell makes of it."""
    end_on_signals()
    try:
        code = main(sys.argv[1:])
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        code = stopped.exit_code
    except GpsRayError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        print(f"error: {storage_error(Path(error.filename or '.'), error)}", file=sys.stderr)
        code = StorageError.exit_code
    sys.exit(code)
