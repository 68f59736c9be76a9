"""The console command ``gps-ray``: what needs no cluster and no model.

A command is one file with ``main(arguments) -> exit code`` and a row of ``COMMANDS``, imported when it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gps_ray.base.errors import GpsRayError

__all__ = ["COMMANDS", "main"]

# name -> (module below this one, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "replay": ("replay", "judge selectors on recorded success rates"),
    "allocate": ("allocate", "share test-time samples out by predicted difficulty, on recorded success rates"),
    "report": ("report", "write the page of a run, or of several beside each other"),
    "watch": ("watch", "serve a live page of a run while it goes on"),
    "explain": ("explain", "say what a config key or section is for"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """``gps-ray COMMAND ...``. An expected error is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: gps-ray: expected one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{__name__}.{COMMANDS[name][0]}")
    try:
        code: int = module.main(rest)
    except GpsRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: gps-ray COMMAND ...", *rows, "gps-ray COMMAND --help says more."])
