"""One driver per mirror, on stores that know neither locks nor conditional writes (pyarrow's S3 offers none).

::

    drivers/<token>/claim.json   who claims the mirror; written once, never again
    drivers/<token>/beat         its time of change is the driver's sign of life

A driver writes its own claim, then looks who else has one: where another lives it takes its own back. Of two that come
at once the later to write sees the other; both may give way, never both go on. A claim is over where its process is
dead (same host) or it gave no sign for its ``run.lease_s``, by the store's own clock alone; whoever comes deletes it,
and a holder that slept finds it gone before its next commit. What was on its way at that moment may still arrive:
manifests and hashes see to it that it is never read in part.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass

from gps_ray.base.errors import CheckpointError
from gps_ray.base.json_files import parse_json
from gps_ray.run.lease import Driver, driver_of
from gps_ray.run.object_folder import STORE_ERRORS, ObjectFolder

__all__ = ["MirrorClaim", "MirrorTaken"]

_DRIVERS, _CLAIM, _BEAT = "drivers", "claim.json", "beat"
_ROUNDING_S = 1.0  # S3 tells times in whole seconds


class MirrorTaken(Exception):
    """Another driver writes to the mirror."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """``silent_s``: since its last sign of life, None where the store tells no times. ``holder``: None where the claim
    cannot be read, as while it is being written."""

    token: str
    holder: Driver | None
    lease_s: float
    silent_s: float | None


class MirrorClaim:
    """The mirror at ``place`` is this driver's from ``take`` to ``release``. Methods raise what the store raises."""

    def __init__(
        self,
        place: ObjectFolder,
        lease_s: float,
        *,
        driver: Driver | None = None,
        is_dead: Callable[[Driver], bool] = Driver.is_dead,
    ) -> None:
        self._place, self._lease_s, self._is_dead = place, lease_s, is_dead
        self._driver = driver or Driver.this()
        self._token = ""  # a new one with each claim
        self._ended = threading.Event()

    def take(self) -> None:
        """Claim the mirror. Raises CheckpointError, naming the holder, where another driver lives that has it."""
        token = secrets.token_hex(8)
        record = asdict(self._driver) | {"lease_s": self._lease_s}
        try:
            self._place.put_bytes(_name(token, _CLAIM), json.dumps(record).encode())
            others = self._others(token)
            for other in others:
                if not self._is_over(other):
                    raise CheckpointError(self._held_by(other))
            for other in others:
                self._forget(other.token)
        except BaseException:
            with contextlib.suppress(*STORE_ERRORS):
                self._forget(token)
            raise
        self._token = token

    def check(self) -> None:
        """Raise MirrorTaken where the claim is gone, as after this driver was stopped for too long."""
        if not self._token:
            raise MirrorTaken
        try:
            self._place.read(_name(self._token, _CLAIM))
        except FileNotFoundError:
            raise MirrorTaken from None

    @property
    def is_taken(self) -> bool:
        """As far as this driver knows."""
        return bool(self._token)

    def beat(self) -> None:
        """The sign of life. It never brings a claim back that somebody deleted."""
        if token := self._token:
            self._place.put_bytes(_name(token, _BEAT), b"")

    def keep_alive(self) -> None:
        """Beat from a thread of its own until ``release``: an upload may take longer than the lease."""
        self._ended = threading.Event()
        threading.Thread(target=self._beat_on, args=(self._ended,), name="mirror claim", daemon=True).start()

    def release(self) -> None:
        """Give the mirror up; no harm where it was lost. A store that is away keeps the claim, which then runs out."""
        self._ended.set()
        token, self._token = self._token, ""
        if token:
            with contextlib.suppress(*STORE_ERRORS):
                self._forget(token)

    def _beat_on(self, ended: threading.Event) -> None:
        while not ended.wait(self._lease_s / 6):
            with contextlib.suppress(*STORE_ERRORS):  # a store that is away for a moment
                self.beat()

    def _others(self, own: str) -> list[_Claim]:
        """All claims but that of the token ``own``, which was just written: its time is now."""
        times = self._place.times(_DRIVERS)
        if _name(own, _CLAIM) not in times:
            raise CheckpointError(
                f"run.mirror: {self._place.uri!r:.200}: this driver's claim is gone again: another one was quicker; "
                "end that one, or choose another run.mirror"
            )
        now = times[_name(own, _CLAIM)]
        tokens = {name.split("/")[1] for name in times if name.endswith(f"/{_CLAIM}")} - {own}
        return [self._read(token, times, now) for token in sorted(tokens)]

    def _read(self, token: str, times: dict[str, float | None], now: float | None) -> _Claim:
        signs = [sign for file in (_CLAIM, _BEAT) if (sign := times.get(_name(token, file))) is not None]
        silent_s = max(0.0, now - max(signs)) if signs and now is not None else None
        try:
            record = parse_json(self._place.read(_name(token, _CLAIM)))
            return _Claim(token, driver_of(record), float(record["lease_s"]), silent_s)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return _Claim(token, None, self._lease_s, silent_s)

    def _is_over(self, claim: _Claim) -> bool:
        if claim.silent_s is not None and claim.silent_s > claim.lease_s + _ROUNDING_S:
            return True
        holder = claim.holder
        return holder is not None and self._driver.is_beside(holder) and self._is_dead(holder)

    def _forget(self, token: str) -> None:
        """The claim goes first: without it nothing else counts."""
        with contextlib.suppress(FileNotFoundError):
            self._place.delete(_name(token, _CLAIM))
        with contextlib.suppress(FileNotFoundError):
            self._place.delete_folder(f"{_DRIVERS}/{token}")

    def _held_by(self, claim: _Claim) -> str:
        who = "another driver" if claim.holder is None else f"process {claim.holder.pid} on {claim.holder.host}"
        sign = "" if claim.silent_s is None else f", which gave a sign of life {claim.silent_s:.0f} s ago"
        return (
            f"run.mirror: {self._place.uri!r:.200} is held by {who}{sign} (its run.lease_s = {claim.lease_s:g}); end "
            f"it, choose another run.mirror or, where it is gone for good, delete {_DRIVERS}/{claim.token} there"
        )


def _name(token: str, file: str) -> str:
    return f"{_DRIVERS}/{token}/{file}"
