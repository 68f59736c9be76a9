"""What the entry points share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gps_ray.errors import GpsRayError

__all__ = ["config_arguments", "run_job"]


def config_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with ``--config FILE key=value ... --dry-run``, the convention of all jobs that take a config."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; defaults hold for what it leaves out")
    parser.add_argument("--dry-run", action="store_true", help="show what would run, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for instance run.num_steps=5")
    return parser


def run_job(main: Callable[[Sequence[str]], int]) -> None:
    """Run a job's ``main`` and leave with its exit code; an expected error is one line on stderr and exit code 2."""
    try:
        code = main(sys.argv[1:])
    except GpsRayError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
