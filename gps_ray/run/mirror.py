"""Keep a run's mirror up to date beside the training: a thread that uploads the newest checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from gps_ray.base.errors import CheckpointError, ConfigError, GpsRayError, one_line
from gps_ray.config import TrainConfig
from gps_ray.run.checkpoint import CheckpointStore, Manifest
from gps_ray.run.folder import RunFolder
from gps_ray.run.metrics import MIRROR_FAILED, MIRROR_STEPS_BEHIND, MIRROR_UPLOAD_S
from gps_ray.run.mirror_claim import MirrorClaim, MirrorTaken
from gps_ray.run.mirror_store import MirrorStore
from gps_ray.run.object_folder import STORE_ERRORS, ObjectFolder

__all__ = ["Mirror", "attach_mirror", "check_mirror", "fetch_warm_start"]

_RETRY_S = 2.0
_RELEASE_S = 5.0


def check_mirror(config: TrainConfig, resume: bool) -> None:
    """Raise ConfigError where ``run.mirror`` cannot be read and written, or holds another run, CheckpointError where
    another driver holds it.

    Leaves nothing behind.
    """
    if config.run.mirror is not None:
        place = ObjectFolder(config.run.mirror)
        store, claim = MirrorStore(place), MirrorClaim(place, config.run.lease_s)
        with _reaching(config.run.mirror):
            _check_same_run(config.run.mirror, store, RunFolder(config.run.directory.absolute()), resume)
            store.try_writing()
            claim.take()
            claim.release()


def fetch_warm_start(config: TrainConfig) -> None:
    """Bring the model that the run began from into the run folder, if the mirror has it and the folder has not. A
    store that is away is left to ``attach_mirror``, which says so. Raises ConfigError where the mirror holds another
    run."""
    run = RunFolder(config.run.directory.absolute())
    if config.run.mirror is not None and not run.warm_start.exists():
        store = MirrorStore(ObjectFolder(config.run.mirror))
        with contextlib.suppress(_Unreachable), _reaching(config.run.mirror):
            _check_same_run(config.run.mirror, store, run, resume=True)
            store.fetch_warm_start(run.root)


def attach_mirror(config: TrainConfig, resume: bool) -> Mirror | None:
    """The mirror of a run that is about to begin or go on, None where the config names none. A resume fetches from it
    what the run folder does not have.

    Raises ConfigError where the mirror holds another run, or cannot be reached and the folder has nothing to go on
    from, CheckpointError where neither has a whole checkpoint though there are some, or another driver holds the
    mirror.
    """
    if config.run.mirror is None:
        return None
    run, place = RunFolder(config.run.directory.absolute()), ObjectFolder(config.run.mirror)
    claim = MirrorClaim(place, config.run.lease_s)
    try:
        return _attach(config, config.run.mirror, run, place, claim, resume)
    except BaseException:
        claim.release()
        raise


def _attach(
    config: TrainConfig, uri: str, run: RunFolder, place: ObjectFolder, claim: MirrorClaim, resume: bool
) -> Mirror:
    store = MirrorStore(place, claim)
    try:
        found, damage = CheckpointStore(run.root, 1).newest() if resume else None, None
    except CheckpointError as error:
        found, damage = None, error
    own, there = -1 if found is None else found[1].num_steps_done, None
    try:
        with _reaching(uri):
            there = MirrorStore(place).newest_step()  # so that it is known where nothing can be written
            store.try_writing()
            claim.take()
            claim.keep_alive()
            there = store.newest_step()  # nobody else changes it from here on
            _check_same_run(uri, store, run, resume)
            if there is not None and there > own:
                _fetch(store, run, uri, own)
    except _Unreachable as error:
        if found is None or (there is not None and there > own):
            raise  # to go on from less than there is would be to throw it away
        claim.release()  # whose run lies there is looked at when the store is back
        print(f"{error}; the run goes on from its folder", flush=True)
    if damage is not None and there is None:
        raise damage
    return Mirror(store, claim, run, config, -1 if there is None else there)


class _Unreachable(ConfigError):
    pass


@contextlib.contextmanager
def _reaching(uri: str) -> Iterator[None]:
    try:
        yield
    except STORE_ERRORS as error:
        if isinstance(error, GpsRayError):
            raise
        raise _Unreachable(
            f"run.mirror: {uri!r:.200} cannot be read and written ({one_line(error)}); see that it is there and open "
            "to you, or set run.mirror=null"
        ) from error


def _check_same_run(uri: str, store: MirrorStore, run: RunFolder, resume: bool) -> None:
    if not resume and store.newest_step() is not None:
        raise ConfigError(
            f"run.mirror: {uri!r:.200} already holds a run; go on with it by --resume, or choose another place"
        )
    own, there = (run.root / "run_id"), store.run_ids()
    if own.exists() and there and run.run_id() not in there:
        raise ConfigError(
            f"run.mirror: {uri!r:.200} holds the run {min(there)}, {run.root} the run {run.run_id()}; choose another "
            "run.mirror or run.directory"
        )


def _fetch(store: MirrorStore, run: RunFolder, uri: str, own: int) -> None:
    try:
        steps, passed_over = store.fetch(run.root, above=own)
    except CheckpointError as error:
        if own < 0:
            raise
        print(f"{error}; the run goes on from its folder", flush=True)
        return
    for line in passed_over:
        print(f"run.mirror: {line}", flush=True)
    had = f"whose newest is that of step {own}" if own >= 0 else "which had none"
    print(f"run.mirror: fetched the checkpoint of step {steps} from {uri} into {run.root}, {had}", flush=True)


class Mirror:
    """Uploads the newest checkpoint handed over, in a thread of its own; what waits while an upload is under way gives
    way to what is newer. An upload that fails is said and counted, and tried again with the next one."""

    def __init__(
        self, store: MirrorStore, claim: MirrorClaim, run: RunFolder, config: TrainConfig, steps_there: int = -1
    ) -> None:
        """``claim``: to be taken with the first upload where it is not taken yet, as the store was away."""
        self._store, self._claim, self._run, self._uri = store, claim, run, str(config.run.mirror)
        self._keep = config.checkpoint.keep_last, config.checkpoint.keep_best
        self._changed = threading.Condition()
        self._waiting: tuple[Path, Manifest] | None = None
        self._busy: tuple[Path, Manifest] | None = None
        self._model: Path | None = None
        self._is_due = self._is_ending = self._is_lost = self._is_over = False
        self._num_failed, self._failed_since = 0, 0
        self._steps_there = steps_there
        self._seconds = 0.0
        self._thread: threading.Thread | None = None

    def hand_over(self, path: Path, manifest: Manifest) -> None:
        """A checkpoint that was just committed; returns at once."""
        with self._changed:
            if not self._is_lost:
                self._waiting = path, manifest
                self._wake()

    def hand_over_model(self, directory: Path) -> None:
        with self._changed:
            self._model = directory
            self._wake()

    def in_use(self) -> Collection[Path]:
        """Checkpoints that are being uploaded, or are to be."""
        with self._changed:
            return {job[0] for job in (self._waiting, self._busy) if job is not None}

    def metrics(self, step: int) -> Mapping[str, float]:
        return {
            MIRROR_FAILED: float(self._num_failed),
            MIRROR_STEPS_BEHIND: float(step - max(self._steps_there, 0)),
            MIRROR_UPLOAD_S: self._seconds,
        }

    async def finish(self, deadline_s: float) -> None:
        """Wait for what was handed over, trying again for so long; then say what the mirror lacks, and give it up. To
        be cancelled ends the waiting alone."""
        end_at = time.monotonic() + deadline_s
        with self._changed:
            self._is_ending = True
            self._wake()
        with contextlib.suppress(asyncio.CancelledError):
            while self._is_behind() and not self._is_lost and time.monotonic() < end_at:
                await asyncio.sleep(0.05)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if deadline_s and not self._is_behind():
            await self._given_up()
        if self._is_behind() or self._is_lost:
            newest = "no checkpoint" if self._steps_there < 0 else f"the checkpoint of step {self._steps_there}"
            print(
                f"run.mirror: {self._uri} holds {newest}, not all that {self._run.root} holds: the time to upload it "
                "(run.mirror_deadline_s) is over, or another driver writes there",
                file=sys.stderr,
                flush=True,
            )

    async def _given_up(self) -> None:
        """Of a store that answers no more the claim runs out."""
        thread, end_at = self._thread, time.monotonic() + _RELEASE_S
        with contextlib.suppress(asyncio.CancelledError):
            while thread is not None and thread.is_alive() and time.monotonic() < end_at:
                await asyncio.sleep(0.01)

    def _is_behind(self) -> bool:
        with self._changed:
            return any(job is not None for job in (self._waiting, self._busy, self._model))

    def _wake(self) -> None:
        self._is_due = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while not (self._is_lost or self._is_over):
            with self._changed:
                while not (self._is_due or self._is_over):
                    self._changed.wait()
                is_due, self._is_due = self._is_due, False
                self._busy, self._waiting = self._waiting, None
            if is_due:
                self._try()
        self._claim.release()

    def _try(self) -> None:
        began = time.monotonic()
        try:
            self._upload()
        except MirrorTaken:
            self._lose(f"run.mirror: another driver has taken {self._uri}, or deleted this one's claim")
        except GpsRayError as error:  # held by another driver, or of another run
            self._lose(str(error))
        except Exception as error:  # whatever a store's driver says: it ends no run
            self._failed(error)
        else:
            self._seconds = time.monotonic() - began
            if self._failed_since:
                print(f"run.mirror: step {self._steps_there} is there, after {self._failed_since} uploads that failed")
            self._failed_since = 0

    def _lose(self, why: str) -> None:
        with self._changed:
            self._is_lost, self._busy, self._waiting = True, None, None
        print(f"{why}; this run mirrors no more", flush=True)

    def _upload(self) -> None:
        if not self._claim.is_taken:
            self._take_late()
        if self._busy is not None:
            self._store.commit(self._run, *self._busy)
            with self._changed:
                self._steps_there, self._busy = self._busy[1].num_steps_done, None
            self._store.prune(*self._keep)
        if self._model is not None and self._waiting is None:
            self._store.put_model(self._model)
            with self._changed:
                self._model = None

    def _take_late(self) -> None:
        """The store was away when the run began."""
        self._claim.take()
        try:
            _check_same_run(self._uri, self._store, self._run, resume=True)
        except BaseException:
            self._claim.release()
            raise
        self._claim.keep_alive()

    def _failed(self, error: Exception) -> None:
        self._num_failed += 1
        self._failed_since += 1
        if self._failed_since == 1:
            print(
                f"run.mirror: an upload to {self._uri} failed: {one_line(error)}; tried again at the next checkpoint",
                flush=True,
            )
        with self._changed:
            self._busy, self._waiting = None, self._waiting or self._busy
        if self._is_ending:
            time.sleep(_RETRY_S)
            self._is_due = True
