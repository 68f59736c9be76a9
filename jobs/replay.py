"""Replay selectors against recorded success rates: ``gps-ray replay``, as a job. No language model needed."""

from gps_ray.integrations.commands.replay import main
from jobs.cli import run_job

if __name__ == "__main__":
    run_job(main)
