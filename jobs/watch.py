"""A live page of a run: ``python -m jobs.watch RUN [--port 8270] [--every SECONDS]``.

It reads the run's folder while the run goes on, on 127.0.0.1 alone; from elsewhere forward the port
(``ssh -L 8270:127.0.0.1:8270 HOST``) and open the address that it prints.
"""

from __future__ import annotations

from gps_ray.integrations.commands.watch import main
from jobs.cli import run_job

if __name__ == "__main__":
    run_job(main)
