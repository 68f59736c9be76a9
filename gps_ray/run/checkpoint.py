"""Checkpoints: learner, selector, history and loop become valid together, by one manifest, or not at all.

The parts are written first; ``manifest.json``, written last, lists every file with size and SHA-256. Its existence is
the commit (no directory is renamed: object stores have no such thing), and a step without it is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, FiniteFloat

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.json_files import parse_json
from gps_ray.base.storage import check_room, writing
from gps_ray.base.types import Selection
from gps_ray.config import Resume, TrainConfig, key_facts, parse_config
from gps_ray.run.folder import FolderPosition
from gps_ray.run.identity import Identity
from gps_ray.run.stored import Count, FileEntry, Stored, entry_of

__all__ = [
    "MANIFEST",
    "CheckpointStore",
    "Manifest",
    "SelectionRecord",
    "best",
    "check_same_config",
    "check_same_run",
    "checkpoint_order",
    "checksum",
]

MANIFEST = "manifest.json"
# 1 had a Parquet file of outcomes per step, all listed by each manifest.
FORMAT = 2


class SelectionRecord(Stored):
    """A ``Selection`` as JSON."""

    step: int
    round: int
    prompt_ids: tuple[str, ...]
    num_rollouts: tuple[int, ...]
    predicted_mean: tuple[float | None, ...]
    predicted_std: tuple[float | None, ...]
    slot_kind: tuple[int, ...]
    num_candidates: int
    cpu_s: float
    expected_useful: tuple[float | None, ...] | None = None
    text_mean: tuple[float | None, ...] | None = None
    num_steps_observed: int | None = None
    expected_lengths: tuple[float, ...] = ()

    @classmethod
    def of(cls, selection: Selection) -> SelectionRecord:
        def finite(values: Any) -> tuple[float | None, ...]:
            return tuple(None if np.isnan(v) else float(v) for v in values)

        return cls(
            step=selection.step,
            round=selection.round,
            prompt_ids=selection.prompt_ids,
            num_rollouts=tuple(selection.num_rollouts.tolist()),
            predicted_mean=finite(selection.predicted_mean),
            predicted_std=finite(selection.predicted_std),
            slot_kind=tuple(selection.slot_kind.tolist()),
            num_candidates=selection.num_candidates,
            cpu_s=selection.cpu_s,
            expected_useful=None if selection.expected_useful is None else finite(selection.expected_useful),
            text_mean=None if selection.text_mean is None else finite(selection.text_mean),
            num_steps_observed=selection.num_steps_observed,
            expected_lengths=tuple(selection.expected_lengths.tolist()),
        )

    def selection(self) -> Selection:
        def floats(values: tuple[float | None, ...]) -> Any:
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

        return Selection(
            step=self.step,
            round=self.round,
            prompt_ids=self.prompt_ids,
            num_rollouts=np.array(self.num_rollouts, dtype=np.int32),
            predicted_mean=floats(self.predicted_mean),
            predicted_std=floats(self.predicted_std),
            slot_kind=np.array(self.slot_kind, dtype=np.int8),
            num_candidates=self.num_candidates,
            cpu_s=self.cpu_s,
            expected_useful=None if self.expected_useful is None else floats(self.expected_useful),
            text_mean=None if self.text_mean is None else floats(self.text_mean),
            num_steps_observed=self.num_steps_observed,
            expected_lengths=np.array(self.expected_lengths, dtype=np.float64),
        )


class Manifest(FolderPosition):
    """The commit record of one step: how far the run folder goes, and the checkpoint. ``num_steps_done`` = policy
    version; ``next_selection`` belongs to the next step.

    ``files`` are relative to the checkpoint's folder.
    ``model``, ``code``, ``warm_start`` and ``verifier`` are as in ``run/identity.py``, empty in manifests of earlier
    versions.
    ``pass_at_1`` is the step's val/pass@1 where it was evaluated. ``checksum`` is of all other fields, and empty in
    manifests of earlier versions.
    """

    format: int = FORMAT
    num_steps_done: Count
    counters: dict[str, FiniteFloat]
    next_selection: SelectionRecord | None
    config: dict[str, Any]
    pool_fingerprint: str
    model: str = ""
    code: str = ""
    warm_start: str = ""
    verifier: str = ""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    pass_at_1: FiniteFloat | None = None
    checksum: str = ""

    @property
    def identity(self) -> Identity:
        known = {name: getattr(self, name) for name in Identity.model_fields if name != "pool"}
        return Identity(pool=self.pool_fingerprint, **known)

    def text(self) -> str:
        """As it is written to disk, checksum filled in."""
        fields = json.loads(self.model_dump_json())
        return json.dumps(fields | {"checksum": checksum(fields)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises ValueError (pydantic's is one) or OSError where the file is not a whole manifest, CheckpointError
        where it is one of another format."""
        return cls.parse(path.read_text(), str(path))

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> Manifest:
        """As ``read``, of what stands at ``source``."""
        fields = parse_json(text)
        if not isinstance(fields, dict):
            raise ValueError("expected an object")
        if fields.get("format") != FORMAT:
            raise CheckpointError(
                f"{source}: expected a manifest of format {FORMAT}, got {fields.get('format')!r}; resume with the "
                "version of gps-ray that wrote it or use another run.directory"
            )
        manifest = cls.model_validate(fields)
        if manifest.checksum and manifest.checksum != checksum(fields):
            raise ValueError("its checksum is another")
        return manifest


def checksum(fields: dict[str, Any]) -> str:
    """Of all fields but ``checksum`` itself."""
    others = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def checkpoint_order(name: str) -> tuple[int, int]:
    """Step and attempt of ``step_000020.10``."""
    step, _, attempt = name.removeprefix("step_").partition(".")
    return int(step), int(attempt)


def best(scores: Mapping[str, float | None], num: int) -> list[str]:
    """The checkpoints of the ``num`` highest scores, of equals the earlier; None: not evaluated."""
    evaluated = [name for name, score in scores.items() if score is not None]
    return sorted(evaluated, key=lambda name: (-(scores[name] or 0.0), checkpoint_order(name)))[:num]


class CheckpointStore:
    """The checkpoints of one run, under ``run_root/checkpoints``: the newest ``keep_last`` and the best ``keep_best``.
    ``fence`` raises where this driver may no longer commit; what ``in_use`` names stays until a later commit."""

    def __init__(
        self,
        run_root: Path,
        keep_last: int,
        fence: Callable[[], None] = lambda: None,
        *,
        keep_best: int = 0,
        in_use: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        self._directory = run_root / "checkpoints"
        self._keep_last, self._keep_best = keep_last, keep_best
        self._fence, self._in_use = fence, in_use
        self._num_bytes = 0  # of the last one

    def begin(self, num_steps_done: int) -> Path:
        """A new, empty folder for this step; the attempt number keeps it apart from an unfinished earlier one. Raises
        StorageError where there is no room for one like the last."""
        earlier = self._directory.glob(f"step_{num_steps_done:06d}.*")
        attempt = max((checkpoint_order(path.name)[1] for path in earlier), default=-1) + 1
        path = self._directory / f"step_{num_steps_done:06d}.{attempt}"
        if self._num_bytes:
            check_room(self._directory, self._num_bytes)
        with writing(path):
            self._directory.mkdir(exist_ok=True)  # not the run folder, which somebody may have deleted
            path.mkdir()
        return path

    def discard(self, path: Path) -> None:
        """Delete one that was begun and cannot be finished."""
        shutil.rmtree(path, ignore_errors=True)

    def has_any(self) -> bool:
        return bool(self._committed())

    def commit(self, path: Path, manifest: Manifest) -> Manifest:
        """Hash what the parts wrote, then write the manifest; afterwards older checkpoints that are not to be kept and
        unfinished ones go. Raises StorageError where it cannot be written."""
        files = {p.relative_to(path).as_posix(): entry_of(p) for p in sorted(path.rglob("*")) if p.is_file()}
        whole = manifest.model_copy(update={"files": files})
        partial = path / (MANIFEST + ".partial")
        with writing(partial), partial.open("w") as file:
            file.write(whole.text())
            file.flush()
            os.fsync(file.fileno())
        self._fence()
        with writing(partial):
            partial.replace(path / MANIFEST)
        self._num_bytes = sum(entry.num_bytes for entry in files.values())
        self._prune()
        return whole

    def _committed(self) -> list[Path]:
        """Folders with a manifest, newest first."""
        return sorted(
            (p.parent for p in self._directory.glob(f"step_*/{MANIFEST}")),
            key=lambda path: checkpoint_order(path.name),
            reverse=True,
        )

    def _prune(self) -> None:
        older = self._committed()[self._keep_last :]
        for path in set(older) - self._best() - set(self._in_use()):
            # The manifest goes first: a half-deleted checkpoint must not look whole.
            (path / MANIFEST).unlink()
            shutil.rmtree(path)
        for path in self._directory.glob("step_*"):
            if not (path / MANIFEST).exists():  # left by a kill: whoever could finish it is gone
                shutil.rmtree(path)

    def _best(self) -> set[Path]:
        if not self._keep_best:
            return set()
        scores = {path.name: Manifest.read(path / MANIFEST).pass_at_1 for path in self._committed()}
        return {self._directory / name for name in best(scores, self._keep_best)}

    def newest_manifest(self) -> Manifest | None:
        """The newest that can be read, whatever became of the files beside it: to hash those takes its time."""
        for path in self._committed():
            try:
                return Manifest.read(path / MANIFEST)
            except (ValueError, OSError):
                continue
        return None

    def newest(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint whose every file has the size and hash of its manifest; None if there is none.

        A damaged one is passed over for the one before it; if none of several is whole, CheckpointError says why.
        """
        first_reason = ""
        for path in self._committed():
            try:
                manifest = Manifest.read(path / MANIFEST)
            except (ValueError, OSError) as error:
                first_reason = first_reason or f"{path.name}: {MANIFEST} cannot be read ({type(error).__name__})"
                continue
            reason = self._damage(path, manifest)
            if not reason:
                return path, manifest
            first_reason = first_reason or reason
        if first_reason:
            raise CheckpointError(
                f"no whole checkpoint under {self._directory}: {first_reason}; start anew with another run.directory"
            )
        return None

    def _damage(self, path: Path, manifest: Manifest) -> str:
        for name, entry in manifest.files.items():
            file = path / name
            if not file.is_file():
                return f"{path.name}: {name} is missing"
            if entry_of(file) != entry:
                return f"{path.name}: {name} does not have the size and hash of the manifest"
        return ""


def check_same_run(
    config_made_with: Mapping[str, Any], made_with: Identity, config: TrainConfig, identity: Identity
) -> list[str]:
    """What ends the run's equality to the bit where a run of these config and identity goes on with others: a line
    each, mostly none.

    Raises CheckpointError, naming both sides, where another config, pool or model would make it another run.
    """
    notes = identity.notes_against(made_with)
    try:
        # Read as a config, so that keys that are newer than the run have their defaults.
        old = parse_config(TrainConfig, dict(config_made_with))
    except ConfigError as error:
        raise CheckpointError(f"the checkpoint's config: {error}; start anew with another run.directory") from error
    return notes + [
        f"resume: {key} {before!r} -> {after!r}: the run goes on, no longer equal to the bit to one that was never "
        "stopped"
        for key, before, after in check_same_config(old, config)
    ]


def check_same_config(made_with: TrainConfig, config: TrainConfig) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of all that changes the result of a run that was ``made_with`` another config, but
    by rounding only. Raises CheckpointError where it would have come out otherwise."""
    old, new = made_with.model_dump(mode="json"), config.model_dump(mode="json")
    fixed = {Resume.FIXED, Resume.FREE_IN_STEP} if made_with.run.max_policy_lag else {Resume.FIXED}
    approximate = []
    for key, facts in key_facts(TrainConfig).items():
        before, after = _value(old, key), _value(new, key)
        if before != after and facts.resume in fixed:
            raise CheckpointError(
                f"{key}: the run was made with {before!r}, this config says {after!r}; "
                f"set {key} back or use another run.directory (--out of a comparison)"
            )
        if before != after and facts.resume is Resume.APPROXIMATE:
            approximate.append((key, before, after))
    return approximate


def _value(tree: dict[str, Any], key: str) -> Any:
    return reduce(lambda node, name: node[name], key.split("."), tree)
