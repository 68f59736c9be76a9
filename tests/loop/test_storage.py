"""A disk that is full, a folder that is deleted, one that may not be written: one line, and on or out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gps_ray.base.errors import StorageError
from gps_ray.loop.breaks import RunStopped
from gps_ray.run.lease import Lease
from gps_ray.run.metrics import read_metrics
from tests.loop.ports import Run, results, simulated_config


def _fill(disk: Path, leave: int = 0) -> Path:
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    return ballast


def _at(run: Run, point: str, number: int, what: object) -> None:
    """Call ``what`` at the ``number``-th call of a port."""
    original, seen = run.point, [0]

    def instead(name: str) -> None:
        if name == point:
            seen[0] += 1
            if seen[0] == number:
                what()  # type: ignore[operator]
        original(name)

    run.point = instead  # type: ignore[method-assign]


def test_a_full_disk_skips_checkpoints_and_the_run_ends_as_without(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ("checkpoint.every_steps=1", "checkpoint.keep_last=1")
    Run(simulated_config(tmp_path / "whole", *every))()
    run = Run(simulated_config(small_disk / "run", *every))
    # Room for the lines of some steps, none for a checkpoint with its padding.
    _pad(run)
    _at(run, "save learner", 3, lambda: _fill(small_disk, leave=100_000))
    _at_step_end(run, 4, lambda: (small_disk / "ballast").unlink())
    run()
    rows = read_metrics(run.folder.metrics.path)
    assert [row.get("checkpoint/num_skipped") for row in rows] == [None, None, None, 1, 2, 2, 2]
    assert _without_skips(results(small_disk / "run")) == _without_skips(results(tmp_path / "whole"))
    said = capsys.readouterr().err
    assert "step 2: checkpoint skipped, number 1 in a row of at most 3 (checkpoint.max_skipped): " in said
    assert "learner.json: no room: the disk is full, " in said  # by what the write met
    assert "step 3: checkpoint skipped, number 2 in a row" in said
    # By what the last one took, before anything was written.
    assert re.search(r"no room for 29\d\.\d KiB: the disk is full, ", said)
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step_000006.0"]


def _pad(run: Run) -> None:
    """Checkpoints of some size."""
    save = run.learner.save

    async def padded(directory: Path) -> None:
        await save(directory)
        from gps_ray.base.storage import writing

        with writing(directory / "learner.json"):
            (directory / "padding").write_bytes(b"x" * 300_000)

    run.learner.save = padded  # type: ignore[method-assign]


def _at_step_end(run: Run, step: int, what: object) -> None:
    original = run.folder.metrics.append

    def instead(row: dict[str, float]) -> None:
        original(row)
        if row["step"] == step:
            what()  # type: ignore[operator]

    run.folder.metrics.append = instead  # type: ignore[method-assign,assignment]


def _without_skips(found: tuple[object, ...]) -> tuple[object, ...]:
    steps = [{k: v for k, v in row.items() if k != "checkpoint/num_skipped"} for row in found[0]]  # type: ignore[attr-defined]
    return (steps, *found[1:])


def test_too_many_in_a_row_end_the_run_and_it_goes_on_from_the_last_whole_one(small_disk: Path, tmp_path: Path) -> None:
    config = simulated_config(small_disk / "run", "checkpoint.every_steps=1", "checkpoint.max_skipped=1")
    run = Run(config)
    _pad(run)
    _at(run, "save learner", 3, lambda: _fill(small_disk, leave=100_000))
    with pytest.raises(StorageError, match=r"no room .*2 checkpoints in a row, checkpoint\.max_skipped=1") as raised:
        run()
    assert raised.value.exit_code == 3
    (small_disk / "ballast").unlink()
    Run(config, resume=True)()
    Run(simulated_config(tmp_path / "whole", "checkpoint.every_steps=1"))()
    assert results(small_disk / "run") == results(tmp_path / "whole")


@pytest.mark.parametrize("point", ["observe", "generate"])
def test_records_that_find_no_room_end_the_run_whole(small_disk: Path, tmp_path: Path, point: str) -> None:
    """Outcomes, and the line of metrics: no step without its records."""
    config = simulated_config(small_disk / "run")
    run = Run(config)
    _at(run, point, 5, lambda: _fill(small_disk))
    with pytest.raises(StorageError, match=r"(arrows|jsonl): no room: the disk is full, 0 B free; make room, then"):
        run()
    assert all(line.endswith("}") for line in run.folder.metrics.path.read_text().splitlines())
    (small_disk / "ballast").unlink()
    Run(config, resume=True)()
    Run(simulated_config(tmp_path / "whole"))()
    assert results(small_disk / "run") == results(tmp_path / "whole")


def test_without_a_first_checkpoint_there_is_no_going_on(small_disk: Path) -> None:
    run = Run(simulated_config(small_disk / "run"))
    _at(run, "save selector", 1, lambda: _fill(small_disk))
    with pytest.raises(StorageError, match="no room"):
        run()


def test_a_stop_that_cannot_checkpoint_says_so(small_disk: Path) -> None:
    run = Run(simulated_config(small_disk / "run", "checkpoint.every_steps=5"))
    _pad(run)

    def stop() -> None:
        run.stop.ask("SIGTERM")
        _fill(small_disk, leave=100_000)

    _at_step_end(run, 2, stop)
    with pytest.raises(RunStopped, match=r"stopped after step 3 without one, which could not be written"):
        run()


@pytest.mark.parametrize("point", ["generate", "update", "observe", "save learner"])
def test_a_deleted_folder_is_said_and_not_made_anew(tmp_path: Path, point: str) -> None:
    root = tmp_path / "run"
    with Lease(root, 60) as lease:
        run = Run(simulated_config(root))
        run.folder.fence = run.folder.metrics._fence = run.store._fence = lease.check
        _at(run, point, 3, lambda: shutil.rmtree(root))
        with pytest.raises(
            StorageError, match=r"(run is gone, or its lease|its folder is gone): deleted, or its disk is away"
        ):
            run()
    assert not root.exists()


def test_a_file_system_that_turns_read_only_ends_in_one_line(small_disk: Path) -> None:
    run = Run(simulated_config(small_disk / "run"))
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    _at(run, "generate", 5, lambda: subprocess.run(remount, check=True))
    with pytest.raises(StorageError, match=r"may not be written \(.*Read-only file system"):
        run()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere: the read-only file system above is its test")
def test_a_folder_that_may_not_be_written_ends_in_one_line(tmp_path: Path) -> None:
    run = Run(simulated_config(tmp_path / "run"))
    _at(run, "generate", 5, lambda: run.folder.root.chmod(0o500))
    with pytest.raises(StorageError, match="may not be written"):
        run()
    run.folder.root.chmod(0o700)
