"""A live page of a run that goes on or has ended: ``gps-ray watch RUN [--port 8270] [--every SECONDS]``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from gps_ray.base.errors import ConfigError
from gps_ray.study.watch.server import WatchServer


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit code. Raises GpsRayError for wrong input."""
    parser = argparse.ArgumentParser(description="A live page of one run, on this machine's loopback alone.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that run.directory names")
    parser.add_argument("--port", type=int, default=8270, help="on 127.0.0.1; 0 takes a free one (default: 8270)")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often the page looks for news")
    args = parser.parse_args(argv)
    if not 0.2 <= args.every <= 3600:
        raise ConfigError(f"--every: expected 0.2 to 3600 seconds, got {args.every:g}; give another")
    with WatchServer(args.run, args.port, args.every) as server:
        print(f"live page: {server.address}   (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0
