"""A run's records on an object store: what goes there in which order, and how it comes back.

::

    checkpoints/step_000020.0/...           as in the run folder
    checkpoints/step_000020.0/mirror.json   the pieces that make up all other files of the run folder
    checkpoints/step_000020.0/manifest.json as in the run folder, and the last to come: it is the commit
    pieces/<SHA-256>                        pieces of metrics, outcomes, probes, ...
    final_model/...                         config.json last
    drivers/...                             who writes here (run/mirror_claim.py)

Files that grow are cut every ``PIECE_BYTES``, and a piece is called by its hash. So what was uploaded once never goes
again but for each file's last piece, nothing that a manifest leads to is ever written over, and a half-finished upload
is never read. Every byte that comes back is held to its hash.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gps_ray.base.errors import CheckpointError, one_line
from gps_ray.base.json_files import parse_json
from gps_ray.base.storage import storage_error
from gps_ray.run.checkpoint import MANIFEST, Manifest, best, checkpoint_order, checksum
from gps_ray.run.folder import RunFolder
from gps_ray.run.mirror_claim import MirrorClaim
from gps_ray.run.object_folder import ObjectFolder
from gps_ray.run.stored import FileEntry, Stored, entry_of

__all__ = ["MirrorStore"]

PIECE_BYTES = 8 << 20
_EXTENT, _WARM_START = "mirror.json", "warm_start"
_FORMAT = 1


class _Extent(Stored):
    """``files``: the pieces of every file that grows, in order. ``run_id`` is the run's. ``manifest``: SHA-256 of the
    manifest beside it, "" in mirrors of earlier versions."""

    format: int = _FORMAT
    run_id: str
    manifest: str = ""
    files: dict[str, tuple[FileEntry, ...]]
    checksum: str = ""

    def text(self) -> bytes:
        fields = json.loads(self.model_dump_json())
        return json.dumps(fields | {"checksum": checksum(fields)}).encode()

    @classmethod
    def parse(cls, text: bytes) -> _Extent:
        fields = parse_json(text)
        extent = cls.model_validate(fields)
        if extent.format != _FORMAT or extent.checksum != checksum(fields):
            raise ValueError(f"{_EXTENT} has another format or checksum")
        return extent

    def pieces(self) -> set[str]:
        return {piece.sha256 for pieces in self.files.values() for piece in pieces}


class MirrorStore:
    """The mirror of one run. Methods raise OSError, or an error of pyarrow, where the store does not do it."""

    def __init__(
        self, place: ObjectFolder, claim: MirrorClaim | None = None, *, piece_bytes: int = PIECE_BYTES
    ) -> None:
        """``claim``: keeps other drivers out, None where there can be no other."""
        self._place, self._claim, self._piece_bytes = place, claim, piece_bytes
        self._is_known = False
        self._sizes: dict[str, int] = {}  # what lies there
        self._scores: dict[str, float | None] = {}  # of the whole checkpoints there, by name
        self._extents: dict[str, _Extent] = {}
        self._own: set[str] = set()  # what this driver has put there
        self._newest = (-1, -1)  # the newest checkpoint of this driver
        self._cut: dict[str, list[FileEntry]] = {}  # the pieces of each file as it was uploaded: bytes never change

    def newest_step(self) -> int | None:
        """Steps done of the newest checkpoint whose manifest is there; None: there is none."""
        self._look()
        return max((checkpoint_order(name)[0] for name in self._scores), default=None)

    def run_ids(self) -> set[str]:
        self._look()
        return {extent.run_id for extent in self._extents.values()}

    def try_writing(self) -> None:
        """Write a file, read it and delete it again. Raises OSError where what comes back is not what was written: moto
        keeps the frames of an upload that comes without keys."""
        name, text = f"try.{secrets.token_hex(8)}", b"can it be written?"
        self._place.put_bytes(name, text)
        found = self._place.read(name)
        self._place.delete(name)
        if found != text:
            raise OSError(f"what was written comes back as {found[:60]!r}")

    def commit(self, run: RunFolder, path: Path, manifest: Manifest) -> None:
        """Upload a whole checkpoint and the files of the run up to it. Raises MirrorTaken."""
        self._check()
        self._look()
        text = manifest.text().encode()
        extent = _Extent(
            run_id=run.run_id(),
            manifest=hashlib.sha256(text).hexdigest(),
            files={name: tuple(self._put_file(run, name, size)) for name, size in run.files_at(manifest).items()},
        )
        folder = f"checkpoints/{path.name}"
        if f"{folder}/{MANIFEST}" in set(self._sizes) - self._own:
            self._delete(f"{folder}/{MANIFEST}")  # one that was passed over: what stands beside it is about to change
        for name in manifest.files:
            if f"{folder}/{name}" not in self._own:  # an earlier try of this driver may have got so far
                self._put(f"{folder}/{name}", path / name)
        self._put_bytes(f"{folder}/{_EXTENT}", extent.text())
        self._check()
        self._put_bytes(f"{folder}/{MANIFEST}", text)
        self._scores[path.name], self._extents[path.name] = manifest.pass_at_1, extent
        self._newest = max(self._newest, checkpoint_order(path.name))

    def prune(self, keep_last: int, keep_best: int) -> None:
        """Delete what no checkpoint needs that is to be kept, and those that the run has not gone on from. A manifest
        goes before what it lists. Raises MirrorTaken."""
        self._check()
        own = {name: score for name, score in self._scores.items() if checkpoint_order(name) <= self._newest}
        newest = sorted(own, key=checkpoint_order, reverse=True)
        kept = {*newest[:keep_last], *best(own, keep_best)}
        for name in set(self._scores) - kept:
            self._delete(f"checkpoints/{name}/{MANIFEST}")
            del self._scores[name]
            self._extents.pop(name, None)
        folders = {name.split("/")[1] for name in self._sizes if name.startswith("checkpoints/step_")}
        for folder in folders - set(self._scores):
            self._place.delete_folder(f"checkpoints/{folder}")
            self._sizes = {k: v for k, v in self._sizes.items() if not k.startswith(f"checkpoints/{folder}/")}
        needed = {f"pieces/{piece}" for extent in self._extents.values() for piece in extent.pieces()}
        for name in [name for name in self._sizes if name.startswith("pieces/") and name not in needed]:
            self._delete(name)

    def put_model(self, directory: Path) -> None:
        """The final model; its config.json, by which a folder is a model, comes last."""
        self._check()
        self._look()
        if "final_model/config.json" in self._sizes:
            self._delete("final_model/config.json")
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == directory / "config.json"):
            self._put(f"final_model/{path.relative_to(directory).as_posix()}", path)

    def fetch(self, root: Path, above: int = -1) -> tuple[int, list[str]]:
        """Bring the newest whole checkpoint of more than ``above`` steps, and its files, into the run folder; returns
        its steps and what was passed over, a line each. What was there of the run's files moves to ``discarded/``; a
        fetch that is killed leaves no checkpoint. Raises CheckpointError where none is whole, StorageError where there
        is no room for it."""
        self._look()
        passed_over: list[str] = []
        for name in sorted(self._scores, key=checkpoint_order, reverse=True):
            if checkpoint_order(name)[0] <= above:
                break
            partial = root / "fetched.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                self._fetch(name, partial, left_out=_WARM_START if (root / _WARM_START).exists() else None)
            except (FileNotFoundError, ValueError) as error:  # damage; of a store that is away the others would be too
                passed_over.append(f"{name} is passed over: {one_line(error)}")
                continue
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise storage_error(partial, error) from error
                raise
            _move_in(partial, root, name)
            return checkpoint_order(name)[0], passed_over
        raise CheckpointError(f"run.mirror: no whole checkpoint: {'; '.join(passed_over) or 'there is none'}")

    def fetch_warm_start(self, root: Path) -> None:
        """Bring the model that the run began from into its folder, where the newest checkpoint has it. A fetch that is
        killed, or fails, leaves nothing."""
        self._look()
        newest = max(self._extents, key=checkpoint_order, default=None)
        files = {} if newest is None else self._extents[newest].files
        partial = root / f"{_WARM_START}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for file, pieces in files.items():
            if PurePosixPath(file).parts[:1] == (_WARM_START,):
                self._fetch_pieces(_inside(partial, file), pieces)
        if partial.exists():
            (partial / _WARM_START).rename(root / _WARM_START)
            partial.rmdir()

    def _fetch(self, name: str, target: Path, left_out: str | None = None) -> None:
        """``left_out``: a folder that need not come."""
        folder = f"checkpoints/{name}"
        text = self._place.read(f"{folder}/{MANIFEST}")
        manifest = Manifest.parse(text, f"{folder}/{MANIFEST}")
        extent = _Extent.parse(self._place.read(f"{folder}/{_EXTENT}"))
        if extent.manifest and extent.manifest != hashlib.sha256(text).hexdigest():
            raise ValueError(f"{_EXTENT} is of another {MANIFEST}")
        for file, pieces in extent.files.items():
            if PurePosixPath(file).parts[:1] != (left_out,):
                self._fetch_pieces(_inside(target, file), pieces)
        for file, entry in manifest.files.items():
            path = _inside(target / folder, file)
            self._place.get(f"{folder}/{file}", path)
            if entry_of(path) != entry:
                raise ValueError(f"{file} does not have the size and hash of the manifest")
        (target / folder / MANIFEST).write_bytes(text)

    def _fetch_pieces(self, path: Path, pieces: Sequence[FileEntry]) -> None:
        path.touch()
        for piece in pieces:
            start = path.stat().st_size
            self._place.get(f"pieces/{piece.sha256}", path)
            _check_piece(path, start, piece)

    def _look(self) -> None:
        """See what lies there, once."""
        if self._is_known:
            return
        sizes = self._place.sizes()
        for name in sizes:
            folder, _, file = name.rpartition("/")
            if file == MANIFEST and folder.startswith("checkpoints/step_"):
                step = folder.removeprefix("checkpoints/")
                self._scores[step] = None
                try:
                    self._scores[step] = Manifest.parse(self._place.read(name), name).pass_at_1
                    self._extents[step] = _Extent.parse(self._place.read(f"{folder}/{_EXTENT}"))
                except (ValueError, CheckpointError, FileNotFoundError):
                    continue  # damaged: fetch says so
        self._sizes, self._is_known = sizes, True

    def _put_file(self, run: RunFolder, name: str, size: int) -> Iterator[FileEntry]:
        """Upload what is not there yet of a file's first ``size`` bytes."""
        path, cut = run.root / name, self._cut.setdefault(name, [])
        size = min(size, path.stat().st_size) if path.exists() else 0  # a damaged file ends no upload
        for index, start in enumerate(range(0, size, self._piece_bytes)):
            num = min(self._piece_bytes, size - start)
            if index < len(cut) and cut[index].num_bytes == num:
                piece = cut[index]
            else:
                with path.open("rb") as file:
                    file.seek(start)
                    piece = FileEntry(num_bytes=num, sha256=hashlib.sha256(file.read(num)).hexdigest())
            if self._sizes.get(f"pieces/{piece.sha256}") != num:
                self._put(f"pieces/{piece.sha256}", path, start, num)
            cut[index : index + 1] = [piece]
            yield piece

    def _check(self) -> None:
        if self._claim is not None:
            self._claim.check()

    def _put(self, name: str, source: Path, start: int = 0, num_bytes: int | None = None) -> None:
        self._sizes.pop(name, None)
        self._place.put(name, source, start, num_bytes)
        self._sizes[name] = source.stat().st_size if num_bytes is None else num_bytes
        self._own.add(name)

    def _put_bytes(self, name: str, data: bytes) -> None:
        self._sizes.pop(name, None)
        self._place.put_bytes(name, data)
        self._sizes[name] = len(data)
        self._own.add(name)

    def _delete(self, name: str) -> None:
        self._place.delete(name)
        self._sizes.pop(name, None)


def _inside(root: Path, name: str) -> Path:
    """``root/name`` with its folder made. Raises ValueError for a name that leads elsewhere: others may have written
    the mirror."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(f"the file name {name!r:.100} leads out of the run folder")
    path = root.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _check_piece(path: Path, start: int, piece: FileEntry) -> None:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    if len(data) != piece.num_bytes or hashlib.sha256(data).hexdigest() != piece.sha256:
        raise ValueError(f"a piece of {path.name} does not have its size and hash")


def _move_in(partial: Path, root: Path, name: str) -> None:
    """What was fetched takes its place, the checkpoint last."""
    number = 0
    while (root / "discarded" / f"before_fetch_{number}").exists():
        number += 1
    aside, checkpoint = root / "discarded" / f"before_fetch_{number}", Path("checkpoints") / name
    files = [path.relative_to(partial) for path in partial.rglob("*") if path.is_file()]
    # Whole folders, so that no file of another state stays beside them.
    tops = sorted({Path(file.parts[0]) for file in files if checkpoint not in file.parents})
    for top in (*tops, checkpoint):
        if (root / top).exists():
            (aside / top).parent.mkdir(parents=True, exist_ok=True)
            (root / top).rename(aside / top)
        (root / top).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (partial / top).rename(root / top)
    shutil.rmtree(partial)
