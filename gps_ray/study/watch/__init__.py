"""A live page of one run: what ``jobs.watch`` serves on loopback while the run goes on."""

from gps_ray.study.watch.server import WatchServer

__all__ = ["WatchServer"]
