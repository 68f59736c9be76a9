"""What `python -m jobs.bench` measures of real processes: the rest lies in ``gps_ray.study.benchmarks``."""
