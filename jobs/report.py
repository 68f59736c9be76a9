"""Report on runs: ``gps-ray report``, as a job."""

from gps_ray.integrations.commands.report import main
from jobs.cli import run_job

if __name__ == "__main__":
    run_job(main)
