"""The whole loop over a mirror: it delays nothing, ends nothing, and brings the run back bit for bit."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError, ConfigError, StorageError
from gps_ray.config import TrainConfig
from gps_ray.run.metrics import read_metrics
from gps_ray.run.mirror import check_mirror
from gps_ray.run.object_folder import ObjectFolder
from gps_ray.run.outcomes import read_outcomes
from tests.loop.ports import Killed, Run, results, simulated_config
from tests.reliability import record


def _config(tmp_path: Path, name: str, *overrides: str) -> TrainConfig:
    mirror = (tmp_path / "mirror").as_uri()
    return simulated_config(
        tmp_path / name, f"run.mirror={mirror}", "run.mirror_deadline_s=20", "checkpoint.keep_last=1", *overrides
    )


def test_killed_anywhere_with_its_folder_lost_it_ends_as_one_never_killed(tmp_path: Path) -> None:
    Run(_config(tmp_path, "whole", "run.mirror=null"))()
    for kill_at in (4, 12, 20, 29, 37):
        case = tmp_path / f"killed_{kill_at}"
        run = Run(_config(case, "run"), kill_at=kill_at)
        with pytest.raises(Killed):
            run()
        shutil.rmtree(case / "run")
        Run(_config(case, "run"), resume=True)()
        assert results(case / "run") == results(tmp_path / "whole")
        assert read_outcomes(case / "run" / "outcomes")["step"].unique().to_pylist() == list(range(1, 7))
        # The mirror holds the end: another empty machine has the final model and nothing left to do.
        there = ObjectFolder((case / "mirror").as_uri())
        assert there.read("final_model/config.json") == (case / "run" / "final_model" / "config.json").read_bytes()
        assert {n.split("/")[1] for n in there.sizes() if n.startswith("checkpoints/")} == {"step_000006.0"}


def test_an_upload_that_hangs_delays_no_step_and_its_checkpoint_stays(tmp_path: Path) -> None:
    opened = threading.Event()
    run = Run(_config(tmp_path, "run", "run.mirror_deadline_s=0"))
    assert run.mirror is not None
    _on_commit(run, lambda: opened.wait(30))
    run()  # all steps, though no upload comes to its end
    last = read_metrics(run.folder.metrics.path)[-1]
    assert last["mirror/num_steps_behind"] == 6
    names = {path.name for path in run.folder.checkpoints.iterdir()}
    # keep_last=1, the one that is being uploaded, and the one that waited when the last was committed.
    assert names == {"step_000000.0", "step_000004.0", "step_000006.0"}
    opened.set()


def test_uploads_that_fail_are_counted_and_said_and_made_up_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, left = Run(_config(tmp_path, "run")), [3]

    def fail() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("the store is away")

    _on_commit(run, fail)
    assert run.mirror is not None
    original = run.mirror.hand_over

    def hand_over(path: Path, manifest: object) -> None:  # the next checkpoint waits for the upload, as in a long run
        original(path, manifest)  # type: ignore[arg-type]
        number = 3 - left[0]
        while 3 - left[0] == number and left[0] > 0:
            pass

    run.mirror.hand_over = hand_over  # type: ignore[method-assign,assignment]
    run()
    out = capsys.readouterr().out
    assert out.count("failed: the store is away; tried again at the next checkpoint") == 1
    assert "step 6 is there, after 3 uploads that failed" in out
    assert "mirror/num_failed" in read_metrics(run.folder.metrics.path)[-1]
    shutil.rmtree(tmp_path / "run")
    resumed = Run(_config(tmp_path, "run"), resume=True)
    assert resumed.loop is not None
    assert {path.name for path in resumed.folder.checkpoints.iterdir()} == {"step_000006.0"}


def _on_commit(run: Run, what: Callable[[], object]) -> None:
    assert run.mirror is not None
    store = run.mirror._store
    commit = store.commit

    def instead(*arguments: object) -> None:
        what()
        commit(*arguments)  # type: ignore[arg-type]

    store.commit = instead  # type: ignore[method-assign,assignment]


def test_the_newest_of_folder_and_mirror_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(_config(tmp_path, "run", "run.num_steps=4"))()
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    Run(_config(tmp_path, "run", "run.num_steps=6"), resume=True)()
    assert "fetched" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "run")  # a disk that is behind
    run = Run(_config(tmp_path, "run"), resume=True)
    assert "fetched the checkpoint of step 6" in capsys.readouterr().out
    assert run.learner.version == 6


def test_a_mirror_of_another_run_is_left_alone(tmp_path: Path) -> None:
    Run(_config(tmp_path, "one"))()
    with pytest.raises(ConfigError, match=r"run\.mirror: .* already holds a run; go on with it by --resume"):
        Run(_config(tmp_path, "two"))
    Run(_config(tmp_path, "two", "run.mirror=null")).folder.run_id()
    with pytest.raises(ConfigError, match=r"run\.mirror: .* holds the run .*, .* the run "):
        Run(_config(tmp_path, "two"), resume=True)


def test_a_second_driver_with_a_folder_of_its_own_is_refused(tmp_path: Path) -> None:
    first = Run(_config(tmp_path, "one"))
    named = rf"run\.mirror: 'file://.*' is held by process {os.getpid()} on "
    for resume in (False, True):
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=named) as refused:
            Run(_config(tmp_path, "two"), resume=resume)
        record("a second driver of a mirror", str(refused.value), 2, time.monotonic() - began)
        with pytest.raises(CheckpointError, match=named):
            check_mirror(_config(tmp_path, "two"), resume)
    first()
    Run(_config(tmp_path, "two", "run.num_steps=8"), resume=True)()  # it was given up at the end
    there = ObjectFolder((tmp_path / "mirror").as_uri())
    assert there.times("drivers") == {}
    assert {n.split("/")[1] for n in there.sizes() if n.startswith("checkpoints/")} == {"step_000008.0"}


def test_a_mirror_that_comes_back_and_is_anothers_by_then_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(_config(tmp_path, "one", "run.num_steps=2", "run.mirror=null"))
    run.folder.run_id()
    run()
    with monkeypatch.context() as patched:
        patched.setattr(ObjectFolder, "put_bytes", _away)
        late = Run(_config(tmp_path, "one"), resume=True)
    assert "the run goes on from its folder" in capsys.readouterr().out
    Run(_config(tmp_path, "two"))()
    before = ObjectFolder((tmp_path / "mirror").as_uri()).sizes()
    late()
    assert "this run mirrors no more" in capsys.readouterr().out
    assert ObjectFolder((tmp_path / "mirror").as_uri()).sizes() == before


def _away(self: ObjectFolder, name: str, data: bytes) -> None:
    raise OSError("the connection is lost")


def test_a_mirror_that_is_away_stops_a_run_only_where_nothing_else_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "run.mirror=file:///proc/gps-ray/mirror"
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"run\.mirror: .* cannot be read and written .*run\.mirror=null"):
            Run(_config(tmp_path, "run", away), resume=resume)
    with pytest.raises(ConfigError, match=r"run\.mirror: .* cannot be read and written"):
        check_mirror(_config(tmp_path, "run", away), resume=True)
    Run(_config(tmp_path, "run", "run.num_steps=4", "run.mirror=null"))()
    run = Run(_config(tmp_path, "run", away, "run.mirror_deadline_s=0"), resume=True)
    run()
    said = capsys.readouterr()
    assert "the run goes on from its folder" in said.out
    assert "run.mirror_deadline_s) is over" in said.err
    assert run.folder.is_finished(6)


def test_to_look_leaves_nothing_and_takes_nothing(tmp_path: Path) -> None:
    config = _config(tmp_path, "run")
    check_mirror(config, resume=False)
    assert not [path for path in (tmp_path / "mirror").rglob("*") if path.is_file()]


def test_damage_of_the_folder_is_healed_from_the_mirror(tmp_path: Path) -> None:
    Run(_config(tmp_path, "run"))()
    (shard,) = (tmp_path / "run" / "checkpoints").glob("step_000006.0/learner/*")
    shard.write_text("damaged")
    run = Run(_config(tmp_path, "run"), resume=True)
    assert run.learner.version == 6
    (shard,) = (tmp_path / "run" / "checkpoints").glob("step_000006.0/learner/*")
    shard.write_text("damaged")
    shutil.rmtree(tmp_path / "mirror")
    with pytest.raises(CheckpointError, match="no whole checkpoint under"):
        Run(_config(tmp_path, "run"), resume=True)


def test_a_newer_checkpoint_that_cannot_be_fetched_now_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(_config(tmp_path, "run", "run.num_steps=4"))()
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    Run(_config(tmp_path, "run", "run.num_steps=6"), resume=True)()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "run")

    def away(self: ObjectFolder, name: str, target: Path) -> None:
        raise OSError("the connection is lost")

    monkeypatch.setattr(ObjectFolder, "get", away)
    with pytest.raises(ConfigError, match=r"run\.mirror: .* cannot be read and written \(the connection is lost\)"):
        Run(_config(tmp_path, "run"), resume=True)
    monkeypatch.undo()
    assert Run(_config(tmp_path, "run"), resume=True).learner.version == 6


def test_no_room_for_what_is_fetched_is_said(tmp_path: Path, small_disk: Path) -> None:
    Run(_config(tmp_path, "run"))()
    shutil.rmtree(tmp_path / "run")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))
    config = _config(tmp_path, "disk/run")
    with pytest.raises(StorageError, match="no room: the disk is full"):
        Run(config, resume=True)
    ballast.unlink()
    assert Run(config, resume=True).learner.version == 6
