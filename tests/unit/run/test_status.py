"""What a run writes down of the moment, and what is made of it from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.run.lease import Driver, Lease, look_at_driver
from gps_ray.run.status import RunStatus, StatusFile, WorkerStatus, read_status

WORKER = WorkerStatus(name="rollout-worker-0", state="healthy", num_restarts=1, num_in_flight=2, tokens_per_s=81.5)


def test_phases_steps_and_workers_are_written_as_they_come(tmp_path: Path) -> None:
    now, path = [100.0], tmp_path / "status.json"
    workers = [WORKER]
    status = StatusFile(path, lambda: workers, 3, clock=lambda: now[0])
    assert read_status(path) is None
    status.phase("rollout")
    now[0] = 107.0
    status.step(4, {})
    expected = RunStatus(written_at=107.0, num_steps_done=4, phase="rollout", phase_since=100.0, workers=(WORKER,))
    assert read_status(path) == expected
    workers.append(WorkerStatus(name="rollout-worker-1", state="dead", num_restarts=0, num_in_flight=0))
    status.write()
    found = read_status(path)
    assert found is not None
    assert found.workers == tuple(workers)
    path.write_text('{"written_at": 1')
    assert read_status(path) is None


def test_a_driver_that_lost_the_folder_writes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise CheckpointError("lost")

    with pytest.raises(CheckpointError):
        StatusFile(tmp_path / "status.json", lambda: [], fence=lost).phase("rollout")
    assert not (tmp_path / "status.json").exists()


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = StatusFile(tmp_path / "absent" / "status.json", lambda: [])
    status.phase("rollout")
    status.step(1, {})
    assert capsys.readouterr().out.count("cannot be written") == 1


def test_the_driver_is_looked_at_without_touching_its_lease(tmp_path: Path) -> None:
    assert look_at_driver(tmp_path) is None
    lease = Lease(tmp_path, 60.0, clock=lambda: 1000.0)
    lease.take()
    sign = look_at_driver(tmp_path, clock=lambda: 1012.0)
    assert sign is not None
    assert (sign.pid, sign.silent_s, sign.is_dead) == (os.getpid(), 12.0, False)
    lease.check()
    lease.release()
    given_up = look_at_driver(tmp_path)
    assert given_up is not None
    assert given_up.silent_s is None


def test_a_driver_whose_process_is_gone_is_dead(tmp_path: Path) -> None:
    this = Driver.this()
    Lease(tmp_path, 60.0, driver=Driver(this.host, this.place, 2**22 + 1, 1)).take()
    sign = look_at_driver(tmp_path)
    assert sign is not None
    assert sign.is_dead
    other = tmp_path / "other"
    Lease(other, 60.0, driver=Driver("elsewhere", this.place, 2**22 + 1, 1)).take()
    far = look_at_driver(other)
    assert far is not None
    assert (far.host, far.is_dead) == ("elsewhere", False)
