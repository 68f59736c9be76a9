"""One driver per mirror: never two, whatever happens between two operations of the store."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gps_ray.base.errors import CheckpointError
from gps_ray.run.checkpoint import MANIFEST
from gps_ray.run.lease import Driver
from gps_ray.run.mirror_claim import MirrorClaim, MirrorTaken
from gps_ray.run.mirror_store import MirrorStore
from gps_ray.run.object_folder import ObjectFolder
from tests.unit.run.test_mirror_store import ToyRun

LEASE_S = 60.0
NUM_DRIVERS = 4
AT = st.integers(0, NUM_DRIVERS - 1)
ELSEWHERE = Driver("elsewhere", "boot", 1, 1)


class Store(ObjectFolder):
    """An object store with a clock of its own. ``before`` comes between any two operations, as other drivers do."""

    def __init__(self, clock: Callable[[], float], before: Callable[[], None]) -> None:
        self.uri, self._clock, self._before = "store://there", clock, before
        self.files: dict[str, tuple[bytes, float]] = {}

    def put_bytes(self, name: str, data: bytes) -> None:
        self._before()
        self.files[name] = data, self._clock()

    def read(self, name: str) -> bytes:
        self._before()
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name][0]

    def times(self, folder: str) -> dict[str, float | None]:
        self._before()
        return {name: float(int(at)) for name, (_, at) in self.files.items() if name.startswith(f"{folder}/")}

    def delete(self, name: str) -> None:
        self._before()
        if self.files.pop(name, None) is None:
            raise FileNotFoundError(name)

    def delete_folder(self, name: str) -> None:
        self._before()
        self.files = {k: v for k, v in self.files.items() if not k.startswith(f"{name}/")}


class ClaimMachine(RuleBasedStateMachine):
    """Drivers on two hosts; each can be interrupted between any two operations on the store by all that others do."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.dead = 1e9, set[int]()
        self.interruptions: dict[int, list[tuple[str, int, float]]] = {}  # by the number of operations to come
        self.num_operations = 0
        self.busy: list[int] = []  # in the middle of something, the innermost last
        self.store = Store(lambda: self.now, self._interrupted)
        self.claims = [self._claim(pid) for pid in range(NUM_DRIVERS)]

    def sign(self, at: int) -> float:
        """When the driver gave its last sign of life, by the store."""
        own = f"drivers/{self.claims[at]._token}/"
        return max(written for name, (_, written) in self.store.files.items() if name.startswith(own))

    def _claim(self, pid: int) -> MirrorClaim:
        driver = Driver(f"host{pid % 2}", "boot", pid, 1)
        return MirrorClaim(self.store, LEASE_S, driver=driver, is_dead=lambda d: d.pid in self.dead)

    def _interrupted(self) -> None:
        self.num_operations += 1
        for what, other, seconds in self.interruptions.pop(self.num_operations, ()):
            self.now += seconds
            self.do(what, other)

    def do(self, what: str, at: int) -> None:
        if at in self.dead or at in self.busy:
            return
        self.busy.append(at)
        try:
            if what == "take" and not self.claims[at].is_taken:
                self._take(at)
            elif what == "beat":
                self.claims[at].beat()
            elif what == "release":
                self.claims[at].release()
        finally:
            self.busy.remove(at)

    def _take(self, at: int) -> None:
        with contextlib.suppress(CheckpointError):
            self.claims[at].take()

    def holders(self) -> list[int]:
        interruptions, self.interruptions = self.interruptions, {}
        found = [at for at in range(NUM_DRIVERS) if self._holds(at)]
        self.interruptions = interruptions
        return found

    def _holds(self, at: int) -> bool:
        if at in self.busy:  # it writes nothing before its taking has come to an end
            return False
        try:
            self.claims[at].check()
        except MirrorTaken:
            return False
        return True

    @rule(
        what=st.sampled_from(["take", "beat", "release"]),
        at=AT,
        others=st.lists(
            st.tuples(
                st.integers(1, 8), st.sampled_from(["take", "beat", "release"]), AT, st.sampled_from([0.0, 1.0, 70.0])
            ),
            max_size=4,
        ),
    )
    def be_interrupted(self, what: str, at: int, others: list[tuple[int, str, int, float]]) -> None:
        self.num_operations = 0
        self.interruptions = {}
        for number, *event in others:
            self.interruptions.setdefault(number, []).append(tuple(event))  # type: ignore[arg-type]
        self.do(what, at)
        self.interruptions = {}

    @rule(at=AT, seconds=st.sampled_from([1.0, 55.0, 65.0]))
    def take_later(self, at: int, seconds: float) -> None:
        self.now += seconds
        before = {other: self.now - self.sign(other) for other in self.holders() if other != at}
        if at in self.dead or self.claims[at].is_taken:
            return
        self.do("take", at)
        took = self.claims[at].is_taken
        assert not took or all(pid in self.dead or silent > LEASE_S for pid, silent in before.items()), "it lives"
        over = all((pid in self.dead and pid % 2 == at % 2) or silent > LEASE_S + 2 for pid, silent in before.items())
        assert took or not over, "a free mirror was refused"

    @rule(at=AT)
    def die(self, at: int) -> None:
        self.dead.add(at)

    @invariant()
    def one_at_most(self) -> None:
        assert len(self.holders()) <= 1


ClaimMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestClaim = ClaimMachine.TestCase


def _place(tmp_path: Path) -> ObjectFolder:
    return ObjectFolder((tmp_path / "mirror").as_uri())


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    place = _place(tmp_path)
    first = MirrorClaim(place, LEASE_S, driver=ELSEWHERE)
    first.take()
    with pytest.raises(
        CheckpointError, match=r"run\.mirror: 'file://.*' is held by process 1 on elsewhere, which gave"
    ):
        MirrorClaim(place, LEASE_S).take()
    first.check()
    first.release()
    assert place.times("drivers") == {}
    MirrorClaim(place, LEASE_S).take()


def test_a_dead_process_of_this_host_frees_it_at_once(tmp_path: Path) -> None:
    gone = Driver.this()
    gone = Driver(gone.host, gone.place, gone.pid, gone.started - 1)  # its number is another process's now
    MirrorClaim(_place(tmp_path), LEASE_S, driver=gone).take()
    MirrorClaim(_place(tmp_path), LEASE_S).take()


def test_a_driver_elsewhere_that_is_silent_for_its_lease_loses_it(tmp_path: Path) -> None:
    place = _place(tmp_path)
    slept = MirrorClaim(place, 0.01, driver=ELSEWHERE)
    slept.take()
    waited = threading.Event()
    waited.wait(1.2)
    MirrorClaim(place, LEASE_S).take()
    slept.beat()  # which brings nothing back
    with pytest.raises(MirrorTaken):
        slept.check()


def test_a_thread_gives_the_signs_of_life(tmp_path: Path) -> None:
    place = _place(tmp_path)
    claim = MirrorClaim(place, 0.06, driver=ELSEWHERE)
    claim.take()
    claim.keep_alive()
    seen, waited = set[float | None](), threading.Event()
    for _ in range(1000):
        seen |= {at for name, at in place.times("drivers").items() if name.endswith("/beat")}
        if len(seen) > 2:
            break
        waited.wait(0.01)
    claim.release()
    assert len(seen) > 2


def test_a_claim_that_cannot_be_read_counts_as_that_of_a_driver_that_lives(tmp_path: Path) -> None:
    place = _place(tmp_path)
    place.put_bytes("drivers/abc/claim.json", b"{")
    with pytest.raises(CheckpointError, match=r"is held by another driver.*delete drivers/abc there"):
        MirrorClaim(place, LEASE_S).take()


def test_a_driver_that_slept_commits_nothing_more(tmp_path: Path) -> None:
    run, place = ToyRun(tmp_path / "run"), _place(tmp_path)
    slept, new = MirrorClaim(place, LEASE_S, driver=ELSEWHERE), MirrorClaim(place, LEASE_S)
    slept.take()
    old = MirrorStore(place, slept)
    old.commit(run.folder, *run.step(1))
    place.delete_folder("drivers")  # as whoever finds it silent
    new.take()
    before = place.sizes()
    with pytest.raises(MirrorTaken):
        old.commit(run.folder, *run.step(2))
    with pytest.raises(MirrorTaken):
        old.prune(1, 0)
    with pytest.raises(MirrorTaken):
        old.put_model(tmp_path)
    assert place.sizes() == before


def test_what_two_drivers_left_in_one_checkpoint_is_never_read(tmp_path: Path) -> None:
    """Each half is whole by itself: one's manifest and another's list of the other files."""
    place, one, two = _place(tmp_path), ToyRun(tmp_path / "one"), ToyRun(tmp_path / "two")
    MirrorStore(place).commit(one.folder, *one.step(1))
    two.folder.metrics.append({"step": 0, "x": "of another driver"})
    path, manifest = two.step(2)
    MirrorStore(place).commit(two.folder, path, manifest)
    listed = place.read("checkpoints/step_000002.0/mirror.json")
    MirrorStore(place).commit(one.folder, *one.step(2))
    place.put_bytes("checkpoints/step_000002.0/mirror.json", listed)
    steps, passed_over = MirrorStore(place).fetch(tmp_path / "elsewhere")
    assert steps == 1
    assert passed_over == [f"step_000002.0 is passed over: mirror.json is of another {MANIFEST}"]
