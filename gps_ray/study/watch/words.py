"""How a run is doing, in words, as far as its folder knows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gps_ray.run.lease import look_at_driver
from gps_ray.run.progress import format_duration
from gps_ray.run.status import RunStatus

__all__ = ["RunState", "state_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """``kind``: "running", "finished", "ended" or "lost"; ``text`` says it and since when."""

    kind: str
    text: str


def state_of(root: Path, status: RunStatus | None, num_done: int, num_planned: int, lease_s: float) -> RunState:
    """``num_done`` steps of ``num_planned`` (0: not known) are in the folder; ``lease_s`` is the run's own."""
    driver = look_at_driver(root)
    if num_planned and num_done >= num_planned and (root / "final_model" / "config.json").is_file():
        return RunState(kind="finished", text=f"finished: all {num_done} steps are made")
    at = f"{num_done} of {num_planned} steps" if num_planned else f"{num_done} steps"
    if driver is None:
        return RunState(kind="ended", text=f"no driver has taken this folder yet; {at}")
    if driver.silent_s is None:
        is_left = not num_planned or num_done < num_planned  # the simulated engine leaves no final model
        return RunState(kind="ended", text=f"ended after {at}{'; --resume goes on' if is_left else ''}")
    where = f"process {driver.pid} on {driver.host}" if driver.host else "the driver"
    if driver.is_dead:
        return RunState(kind="lost", text=f"{where} is gone, after {at}; --resume goes on")
    if driver.silent_s > lease_s:
        silent = format_duration(driver.silent_s)
        return RunState(kind="lost", text=f"{where} has given no sign of life for {silent}, after {at}")
    if status is None or (num_planned and num_done >= num_planned):
        return RunState(kind="running", text=f"running: {at} are made")
    lasts = format_duration(max(0.0, time.time() - status.phase_since))
    return RunState(kind="running", text=f"running: {at} are made; {status.phase} for {lasts}")
