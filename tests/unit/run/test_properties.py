"""Lease and manifest under any order of events, as hypothesis finds them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gps_ray.base.errors import CheckpointError, GpsRayError, StorageError
from gps_ray.run.checkpoint import MANIFEST, CheckpointStore, Manifest
from gps_ray.run.lease import Driver, Lease

LEASE_S = 60.0
NUM_DRIVERS = 4
AT = st.integers(0, NUM_DRIVERS - 1)


class LeaseMachine(RuleBasedStateMachine):
    """Drivers on two hosts. A driver can be interrupted in the middle of taking the folder, by anything that others
    do: the clock is asked between looking and linking."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="gps-lease"))
        self.now, self.dead = 1e9, set[int]()
        self.interruption: Callable[[], None] | None = None
        self.leases = [self._driver(pid) for pid in range(NUM_DRIVERS)]
        self.signs: dict[int, float] = {}  # of those that hold, when they gave the last sign of life

    def _driver(self, pid: int) -> Lease:
        driver = Driver(f"host{pid % 2}", "boot", pid, 1)
        return Lease(self.root, LEASE_S, driver=driver, is_dead=lambda d: d.pid in self.dead, clock=self._clock)

    def _clock(self) -> float:
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            interruption()
        return self.now

    def _take(self, at: int) -> None:
        if at in self.dead or self.holds(at):
            return
        before = self.holders()
        try:
            self.leases[at].take()
        except CheckpointError:
            assert before or self.holders(), "a free folder was refused"
            return
        except StorageError as error:
            raise AssertionError("a folder that is there") from error
        for other in before:
            alive = other not in self.dead and self.now - self.signs[other] <= LEASE_S
            assert not alive or other == at, "taken from one that lives"
        self.signs[at] = self.now

    def holds(self, at: int) -> bool:
        try:
            self.leases[at].check()
        except GpsRayError:
            return False
        return True

    def holders(self) -> list[int]:
        return [at for at in range(NUM_DRIVERS) if self.holds(at)]

    @rule(at=AT)
    def take(self, at: int) -> None:
        self._take(at)

    @rule(at=AT, others=st.lists(st.tuples(st.sampled_from(["take", "beat", "release"]), AT), max_size=3))
    def take_and_be_interrupted(self, at: int, others: list[tuple[str, int]]) -> None:
        def interrupt() -> None:
            for what, other in others:
                if other == at:
                    continue
                if what == "take":
                    self._take(other)
                elif what == "beat":
                    self.beat(other)
                else:
                    self.release(other)

        if at in self.dead or self.holds(at):
            return
        self.interruption = interrupt
        try:
            self.leases[at].take()
            self.signs[at] = self.now
            assert self.holds(at), "said to be taken, and is another's"
        except CheckpointError:
            pass
        self.interruption = None

    @rule(at=AT)
    def beat(self, at: int) -> None:
        if at not in self.dead:
            try:
                self.leases[at].beat()
            except FileNotFoundError:  # lost, as the thread that beats finds out
                return
            if self.holds(at):
                self.signs[at] = self.now

    @rule(at=AT)
    def release(self, at: int) -> None:
        if at not in self.dead:
            self.leases[at].release()

    @rule(at=AT)
    def die(self, at: int) -> None:
        self.dead.add(at)

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0]))
    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def one_at_most(self) -> None:
        assert len(self.holders()) <= 1

    def teardown(self) -> None:
        shutil.rmtree(self.root)


class ManifestMachine(RuleBasedStateMachine):
    """Commits, commits that break off at any point, and damage to any file. What ``newest`` gives is always one that
    was committed whole and is as it was then, and the newest of those."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="gps-manifest"))
        self.store = CheckpointStore(self.root, keep_last=3)
        (self.root / "checkpoints").mkdir()
        self.steps = 0
        self.committed: dict[Path, dict[str, bytes]] = {}

    def _begin(self) -> tuple[Path, Manifest]:
        path = self.store.begin(self.steps)
        for name, size in (("learner/shard", 40), ("selector/state", 20)):
            (path / name).parent.mkdir()
            (path / name).write_bytes(bytes([self.steps % 250]) * size)
        manifest = Manifest(
            num_steps_done=self.steps, counters={"n": 1.0}, next_selection=None, config={}, pool_fingerprint="f"
        )
        return path, manifest

    @staticmethod
    def _content(path: Path) -> dict[str, bytes]:
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def _is_whole(self, path: Path) -> bool:
        return path.exists() and self._content(path) == self.committed[path]

    @rule(more=st.integers(0, 2))
    def commit(self, more: int) -> None:
        """``more`` 0: the same step once more, as after a resume."""
        self.steps += more
        path, manifest = self._begin()
        self.store.commit(path, manifest)
        self.committed[path] = self._content(path)

    @rule(left=st.sampled_from(["nothing", "parts", "half a manifest", "an empty manifest"]))
    def break_off(self, left: str) -> None:
        self.steps += 1
        path, manifest = self._begin()
        if left == "nothing":
            shutil.rmtree(path / "learner")
        elif left == "half a manifest":
            (path / MANIFEST).write_text(manifest.text()[: len(manifest.text()) // 2])
        elif left == "an empty manifest":
            (path / MANIFEST).write_text("")

    def _files(self) -> list[Path]:
        return sorted(file for path in self.committed if path.exists() for file in path.rglob("*") if file.is_file())

    @precondition(lambda self: self._files())
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "delete", "longer"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        file = data.draw(st.sampled_from(self._files()))
        content = file.read_bytes()
        if not content:
            return
        at = data.draw(st.integers(0, len(content) - 1))
        if how == "flip":
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        elif how == "cut":
            file.write_bytes(content[:at])
        elif how == "longer":
            file.write_bytes(content + b"x")
        else:
            file.unlink()

    @invariant()
    def the_newest_whole_one_is_read(self) -> None:
        whole = [path for path in self.committed if self._is_whole(path)]
        try:
            found = CheckpointStore(self.root, keep_last=3).newest()
        except CheckpointError:
            assert not whole
            return
        if found is None:
            assert not whole
            return
        path, manifest = found
        # A manifest may have changed in white space alone, whose meaning is the same.
        assert path in self.committed
        parts = {name: content for name, content in self.committed[path].items() if name != MANIFEST}
        assert {name: (path / name).read_bytes() for name in parts} == parts
        assert manifest.num_steps_done == int(path.name.removeprefix("step_").partition(".")[0])
        newer = [other for other in whole if _order(other) > _order(path)]
        assert not newer

    def teardown(self) -> None:
        shutil.rmtree(self.root)


def _order(path: Path) -> tuple[int, int]:
    step, _, attempt = path.name.removeprefix("step_").partition(".")
    return int(step), int(attempt)


# Always the same examples: so many that a lease that is copied in place of linked, or a manifest without its hashes, is
# found.
LeaseMachine.TestCase.settings = settings(
    max_examples=75, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ManifestMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestLease = LeaseMachine.TestCase
TestManifest = ManifestMachine.TestCase
