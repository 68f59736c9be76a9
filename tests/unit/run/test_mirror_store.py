"""What goes to a mirror in which order, held to an upload that breaks off at every single operation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.run.checkpoint import CheckpointStore, Manifest, checksum
from gps_ray.run.folder import RunFolder
from gps_ray.run.mirror_store import MirrorStore
from gps_ray.run.object_folder import ObjectFolder
from gps_ray.run.segments import Segments


class Broken(OSError):
    """The upload breaks off here."""


class Fragile(ObjectFolder):
    """Breaks at the operation of number ``fuse``: a write leaves half of its bytes behind."""

    def __init__(self, uri: str, fuse: int | None = None) -> None:
        super().__init__(uri)
        self.fuse, self.num_operations = fuse, 0
        self.written: list[str] = []

    def _burn(self) -> bool:
        self.num_operations += 1
        return self.num_operations == self.fuse

    def put(self, name: str, source: Path, start: int = 0, num_bytes: int | None = None) -> None:
        data = source.read_bytes()[start:]
        self.put_bytes(name, data if num_bytes is None else data[:num_bytes])

    def put_bytes(self, name: str, data: bytes) -> None:
        if self._burn():
            super().put_bytes(name, data[: len(data) // 2])
            raise Broken(name)
        super().put_bytes(name, data)
        self.written.append(name)

    def delete(self, name: str) -> None:
        if self._burn():
            raise Broken(name)
        super().delete(name)

    def delete_folder(self, name: str) -> None:
        if self._burn():
            first = sorted(file for file in self.sizes() if file.startswith(name))[0]
            super().delete(first)
            raise Broken(name)
        super().delete_folder(name)


class ToyRun:
    """A run folder to which a step appends what a real one does. Its content depends on the steps alone."""

    def __init__(self, root: Path) -> None:
        self.folder = RunFolder(root)
        (root / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.folder.config.write_text("run: {}\n")
        self.outcomes = Segments(self.folder.outcomes)
        self.store = CheckpointStore(root, keep_last=2)

    def step(self, step: int) -> tuple[Path, Manifest]:
        self.folder.metrics.append({"step": step, "x": "y" * 70})
        # Every fourth step begins a segment.
        self.outcomes.append(step // 4 * 1000, pa.table({"step": [step] * 20}))
        path = self.store.begin(step)
        (path / "learner").mkdir()
        (path / "learner" / "shard").write_bytes(b"weights %d" % step * 30)
        manifest = Manifest(
            num_steps_done=step,
            counters={},
            next_selection=None,
            config={},
            pool_fingerprint="f",
            **dict(self.folder.position()),
        )
        return path, self.store.commit(path, manifest)

    def content(self) -> dict[str, bytes]:
        own = [self.folder.metrics.path, *self.folder.outcomes.glob("*")]
        return {path.relative_to(self.folder.root).as_posix(): path.read_bytes() for path in own}


def _mirror(tmp_path: Path, fuse: int | None = None) -> tuple[MirrorStore, Fragile]:
    place = Fragile((tmp_path / "mirror").as_uri(), fuse)
    return MirrorStore(place, piece_bytes=256), place


def _fetched(tmp_path: Path, target: Path) -> ToyRun:
    """A run on an empty machine that fetched what the mirror holds; held to its own manifest."""
    steps, _ = _mirror(tmp_path)[0].fetch(target)
    run = ToyRun(target)
    found = run.store.newest()
    assert found is not None
    assert found[1].num_steps_done == steps
    assert run.folder.roll_back(found[1]) == []  # no damage
    return run


def test_what_comes_back_is_the_run_at_its_newest_checkpoint(tmp_path: Path) -> None:
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    for step in range(1, 10):
        mirror.commit(run.folder, *run.step(step))
        mirror.prune(keep_last=2, keep_best=0)
    at_9 = run.content()
    run.step(10)  # not uploaded
    back = _fetched(tmp_path, tmp_path / "elsewhere")
    assert back.content() == at_9
    assert back.folder.run_id() == run.folder.run_id()
    folders = {name.split("/")[1] for name in place.sizes() if name.startswith("checkpoints/")}
    assert folders == {"step_000008.0", "step_000009.0"}


def test_the_warm_start_goes_there_once_and_comes_back_first(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 3)
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    _mirror(tmp_path)[0].fetch_warm_start(tmp_path / "run")  # there is none
    run.folder.keep_warm_start(made)
    mirror.commit(run.folder, *run.step(1))
    place.written.clear()
    mirror.commit(run.folder, *run.step(2))
    assert not {hashlib.sha256(path.read_bytes()).hexdigest() for path in made.iterdir()} & set(place.written)
    other = ToyRun(tmp_path / "elsewhere").folder
    _mirror(tmp_path)[0].fetch_warm_start(other.root)
    content = {path.name: path.read_bytes() for path in made.iterdir()}
    assert {path.name: path.read_bytes() for path in other.warm_start.iterdir()} == content
    _mirror(tmp_path)[0].fetch(other.root)
    assert {path.name: path.read_bytes() for path in other.warm_start.iterdir()} == content
    assert not (other.root / "discarded" / "before_fetch_0" / "warm_start").exists()
    _mirror(tmp_path)[0].fetch(tmp_path / "third")  # without a look ahead
    assert {path.name: path.read_bytes() for path in (tmp_path / "third" / "warm_start").iterdir()} == content


def test_a_warm_start_that_is_damaged_on_the_mirror_leaves_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    run.folder.keep_warm_start(made)
    mirror.commit(run.folder, *run.step(1))
    place.put_bytes(f"pieces/{hashlib.sha256(b'weights').hexdigest()}", b"WEIGHTS")
    with pytest.raises(ValueError, match=r"a piece of model\.safetensors does not have its size and hash"):
        _mirror(tmp_path)[0].fetch_warm_start(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "warm_start").exists()


def test_an_upload_does_not_grow_with_the_run(tmp_path: Path) -> None:
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    written = []
    for step in range(1, 60):
        place.written.clear()
        mirror.commit(run.folder, *run.step(step))
        mirror.prune(keep_last=2, keep_best=0)
        written.append(len(place.written))
    assert max(written) <= 9  # shard, manifest, mirror.json, and at most two pieces of each file that grows
    # Pieces that no manifest leads to are gone: the last ones of each file, written anew each time.
    pieces = sum(size for name, size in place.sizes().items() if name.startswith("pieces/"))
    assert pieces < sum(map(len, run.content().values())) + 1000


def test_what_is_finished_is_not_read_again(tmp_path: Path) -> None:
    """Nor does damage that comes to it later reach the mirror."""
    run, (mirror, _) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    for step in range(1, 10):
        mirror.commit(run.folder, *run.step(step))
        mirror.prune(keep_last=2, keep_best=0)
    finished = sorted(run.folder.outcomes.glob("*.arrows"))[:-1]
    assert len(finished) == 2
    whole = {path.name: path.read_bytes() for path in finished}
    checkpoint = run.step(10)
    for path in finished:
        path.write_bytes(bytes(path.stat().st_size))
    mirror.commit(run.folder, *checkpoint)
    _mirror(tmp_path)[0].fetch(tmp_path / "elsewhere")
    assert {name: (tmp_path / "elsewhere" / "outcomes" / name).read_bytes() for name in whole} == whole


def test_an_upload_that_breaks_off_anywhere_is_never_read(tmp_path: Path) -> None:
    """Steps 1 to 3 on one machine, whose uploads break at operation n and are tried again with the next step or, where
    the machine is lost, never; then two more on another machine."""
    whole = ToyRun(tmp_path / "whole")
    states = {0: {}} | {step: (whole.step(step), whole.content())[1] for step in range(1, 6)}
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    for step in range(1, 4):
        mirror.commit(run.folder, *run.step(step))
        mirror.prune(1, 0)
    num_operations = place.num_operations
    assert num_operations > 20
    for fuse in range(1, num_operations + 1):
        for is_lost in (False, True):
            case = tmp_path / f"{fuse}.{is_lost}"
            uploaded = _upload_steps(case, fuse, is_lost)
            if not uploaded:
                continue  # nothing was promised, and nothing may be there
            back = _fetched(case, case / "elsewhere")
            found = back.store.newest()
            assert found is not None
            steps = found[1].num_steps_done
            assert steps in (uploaded, uploaded + 1)  # a prune may break after its commit
            assert back.content() == states[steps]
            second, _ = _mirror(case)
            for step in (steps + 1, steps + 2):
                second.commit(back.folder, *back.step(step))
                second.prune(1, 0)
            assert _fetched(case, case / "third").content() == states[steps + 2]


def _upload_steps(case: Path, fuse: int, is_lost: bool) -> int:
    """The newest step that was uploaded without an error."""
    run, (mirror, _), uploaded = ToyRun(case / "run"), _mirror(case, fuse), 0
    for step in range(1, 4):
        checkpoint = run.step(step)
        try:
            mirror.commit(run.folder, *checkpoint)
            uploaded = step
            mirror.prune(1, 0)
        except Broken:
            if is_lost:
                break
    return uploaded


@pytest.mark.parametrize("damage", ["flip a piece", "flip a shard", "no mirror.json", "half a manifest", "lead out"])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, damage: str) -> None:
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    mirror.commit(run.folder, *run.step(1))
    before, at_1 = set(place.sizes()), run.content()
    mirror.commit(run.folder, *run.step(2))
    newer = "checkpoints/step_000002.0"
    if damage == "flip a piece":
        (name, *_) = (name for name in place.sizes() if name.startswith("pieces/") and name not in before)
        place.put_bytes(name, place.read(name)[::-1])
    elif damage == "flip a shard":
        place.put_bytes(f"{newer}/learner/shard", place.read(f"{newer}/learner/shard")[::-1])
    elif damage == "no mirror.json":
        place.delete(f"{newer}/mirror.json")
    elif damage == "half a manifest":
        place.put_bytes(f"{newer}/manifest.json", place.read(f"{newer}/manifest.json")[:200])
    else:
        manifest = Manifest.parse(place.read(f"{newer}/manifest.json"), "")
        (tmp_path / "outside").write_text("mine")
        files = {"../../../../outside": manifest.files["learner/shard"]}
        text = manifest.model_copy(update={"files": files}).text().encode()
        place.put_bytes(f"{newer}/manifest.json", text)
        fields = json.loads(place.read(f"{newer}/mirror.json")) | {"manifest": hashlib.sha256(text).hexdigest()}
        fields["checksum"] = checksum(fields)
        place.put_bytes(f"{newer}/mirror.json", json.dumps(fields).encode())
    steps, passed_over = _mirror(tmp_path)[0].fetch(tmp_path / "elsewhere")
    assert steps == 1
    assert len(passed_over) == 1
    assert passed_over[0].startswith("step_000002.0 is passed over: ")
    assert ToyRun(tmp_path / "elsewhere").content() == at_1
    if damage == "lead out":
        assert "leads out of the run folder" in passed_over[0]
        assert (tmp_path / "outside").read_text() == "mine"


def test_nothing_whole_is_said(tmp_path: Path) -> None:
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    mirror.commit(run.folder, *run.step(1))
    place.delete("checkpoints/step_000001.0/learner/shard")
    with pytest.raises(CheckpointError, match=r"run\.mirror: no whole checkpoint: step_000001\.0 is passed over"):
        _mirror(tmp_path)[0].fetch(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "checkpoints").exists()


def test_what_a_fetch_finds_in_the_run_folder_moves_aside(tmp_path: Path) -> None:
    run, (mirror, _) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    mirror.commit(run.folder, *run.step(1))
    other = ToyRun(tmp_path / "elsewhere")
    other.folder.metrics.append({"step": 77})
    mirror.fetch(tmp_path / "elsewhere")
    assert other.content() == run.content()
    aside = tmp_path / "elsewhere" / "discarded" / "before_fetch_0" / "metrics.jsonl"
    assert json.loads(aside.read_text()) == {"step": 77}


def test_the_best_are_kept_too_and_an_abandoned_future_goes(tmp_path: Path) -> None:
    run, (mirror, place) = ToyRun(tmp_path / "run"), _mirror(tmp_path)
    for step, score in enumerate((0.5, 0.9, 0.1, 0.2), start=1):
        path, manifest = run.step(step)
        mirror.commit(run.folder, path, manifest.model_copy(update={"pass_at_1": score}))
        mirror.prune(keep_last=1, keep_best=1)

    def there() -> set[str]:
        return {name.split("/")[1] for name in place.sizes() if name.startswith("checkpoints/")}

    assert there() == {"step_000002.0", "step_000004.0"}
    # Step 4 could not be read, so the run went on from step 2.
    other, second = ToyRun(tmp_path / "other"), _mirror(tmp_path)[0]
    for step in (1, 2, 3):
        checkpoint = other.step(step)
    second.commit(other.folder, *checkpoint)
    second.prune(keep_last=1, keep_best=1)
    assert there() == {"step_000002.0", "step_000003.0"}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("somewhere", "expected a URI"),
        ("s3://key:secret@bucket/run", "keys in a URI would stand in config.yaml"),
        ("nosuch://bucket/run", "cannot be opened"),
        ("fsspec+nosuch://bucket/run", "cannot be opened"),
    ],
)
def test_a_place_that_nothing_opens_is_said(uri: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.mirror: .*" + said) as raised:
        ObjectFolder(uri)
    assert "secret" not in str(raised.value)


def test_fsspec_places_do_too(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    place: Any = ObjectFolder("fsspec+memory:///gps-ray-tests/mirror")
    run, mirror = ToyRun(tmp_path / "run"), MirrorStore(place)
    mirror.commit(run.folder, *run.step(1))
    MirrorStore(place).fetch(tmp_path / "elsewhere")
    assert ToyRun(tmp_path / "elsewhere").content() == run.content()


def test_a_store_that_changes_what_it_is_given_is_found_before_anything_is_kept_there(tmp_path: Path) -> None:
    class Framing(ObjectFolder):
        """As a server that keeps the frames in which an upload comes."""

        def put_bytes(self, name: str, data: bytes) -> None:
            super().put_bytes(name, b"%x\r\n%s\r\n0\r\n" % (len(data), data))

    place = Framing((tmp_path / "mirror").as_uri())
    with pytest.raises(OSError, match="what was written comes back as b'12"):
        MirrorStore(place).try_writing()
    assert place.sizes() == {}
