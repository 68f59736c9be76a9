"""One driver per run folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.run.checkpoint import CheckpointStore, Manifest
from gps_ray.run.folder import RunFolder
from gps_ray.run.lease import Driver, Lease

LEASE_S = 60.0


class World:
    """Drivers on two hosts, a clock, and who is dead."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.dead = root, 1e9, set[int]()
        self.num_made = 0

    def driver(self) -> tuple[Driver, Lease]:
        self.num_made += 1
        driver = Driver(f"host{self.num_made % 2}", "boot", self.num_made, 1)
        return driver, Lease(
            self.root, LEASE_S, driver=driver, is_dead=lambda d: d.pid in self.dead, clock=lambda: self.now
        )


def _holds(lease: Lease) -> bool:
    try:
        lease.check()
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_events_makes_two_holders(tmp_path: Path, seed: int) -> None:
    """Take, sign of life, death, sleep, release in any order: one holder, never one taken over that is alive."""
    draw, world = random.Random(seed), World(tmp_path)
    drivers = [world.driver() for _ in range(6)]
    last_sign: dict[int, float] = {}
    for _ in range(120):
        at = draw.randrange(len(drivers))
        driver, lease = drivers[at]
        event = draw.choice(["take", "take", "beat", "die", "wait", "release"])
        holders = [d for d, other in drivers if _holds(other)]
        if event == "take" and driver not in holders:
            try:
                lease.take()
            except CheckpointError:
                assert holders, "a free folder was refused"
                continue
            for old in holders:
                silent = world.now - last_sign[old.pid] > LEASE_S
                assert silent or (old.pid in world.dead and old.host == driver.host)
            last_sign[driver.pid] = world.now
        elif event == "beat" and driver in holders:
            lease.beat()
            last_sign[driver.pid] = world.now
        elif event == "die":
            world.dead.add(driver.pid)
            drivers[at] = world.driver() if driver not in holders else drivers[at]
        elif event == "wait":
            world.now += draw.choice([1.0, 20.0, 61.0])
        elif event == "release" and driver.pid not in world.dead:
            lease.release()
        assert sum(_holds(other) for _, other in drivers) <= 1


def test_of_many_at_once_one_takes_a_dead_drivers_folder(tmp_path: Path) -> None:
    for _ in range(20):
        world = World(tmp_path)
        leases = [world.driver()[1] for _ in range(8)]
        world.now += 1e6  # silent, whoever had it

        def taken(lease: Lease) -> bool:
            try:
                lease.take()
            except CheckpointError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(taken, leases)) == 1
        assert sum(map(_holds, leases)) == 1
        next(lease for lease in leases if _holds(lease)).release()


def test_who_slept_finds_the_newer_holder_and_the_error_names_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    (_, slept), (second, lease) = world.driver(), world.driver()
    slept.take()
    with pytest.raises(CheckpointError, match=r"held by process 1 on host1, which gave a sign of life 0 s ago"):
        lease.take()
    world.now += LEASE_S + 1
    lease.take()
    with pytest.raises(CheckpointError, match=rf"process {second.pid} on host0.*writes nothing more"):
        slept.check()
    slept.release()
    lease.check()


def test_a_dead_process_of_this_host_frees_the_folder_at_once(tmp_path: Path) -> None:
    """A real one, not even waited for by its parent, and one whose number another process has now."""
    code = (
        "import sys; from pathlib import Path; from gps_ray.run.lease import Lease; Lease(Path(sys.argv[1]), 60).take()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with Lease(tmp_path, LEASE_S) as lease:
            lease.check()
    this = Driver.this()
    Lease(tmp_path, LEASE_S, driver=Driver(this.host, this.place, this.pid, this.started - 1)).take()
    with Lease(tmp_path, LEASE_S), pytest.raises(CheckpointError, match=f"process {this.pid} on"):
        Lease(tmp_path, LEASE_S).take()


def test_a_lease_that_says_nothing_ends_by_silence_only(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "driver.lease.000007").write_text("{")
    os.utime(tmp_path / "driver.lease.000007", (world.now, world.now))
    _, lease = world.driver()
    with pytest.raises(CheckpointError, match="held by another driver"):
        lease.take()
    world.now += LEASE_S + 1
    lease.take()
    assert [path.name for path in tmp_path.iterdir()] == ["driver.lease.000008"]


def test_who_lost_the_folder_appends_no_line_and_commits_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    (_, slept), (_, lease) = world.driver(), world.driver()
    slept.take()
    folder, store = RunFolder(tmp_path, slept.check), CheckpointStore(tmp_path, 2, slept.check)
    folder.metrics.append({"step": 0})
    path = store.begin(0)
    world.now += LEASE_S + 1
    lease.take()
    manifest = Manifest(
        num_steps_done=0,
        counters={},
        next_selection=None,
        config={},
        pool_fingerprint="f00",
    )
    with pytest.raises(CheckpointError, match="writes nothing more"):
        store.commit(path, manifest)
    with pytest.raises(CheckpointError, match="writes nothing more"):
        folder.metrics.append({"step": 1})
    assert folder.metrics.path.read_text() == '{"step": 0}\n'
    assert store.newest() is None
