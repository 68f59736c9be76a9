"""Wrong input and tampering by kind, each to a whole job: one line that names key and remedy, an exit code, no hang."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gps_ray.run.object_folder import ObjectFolder
from tests.loop.ports import Run, simulated_config
from tests.processes import SMALL_RUN, run_job
from tests.reliability import record
from tests.unit.config.test_wrong_input import BOMB

pytestmark = [pytest.mark.faults, pytest.mark.slow]  # a driver's imports each

# (arguments, made in a new folder; what is said). Every one of them ends with exit code 2 before Ray starts.
Case = tuple[Callable[[Path], list[str]], str]


def _config(content: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "config.yaml").write_bytes(content)
        return ["--config", str(folder / "config.yaml")]

    return make


def _settings(*settings: str) -> Callable[[Path], list[str]]:
    return lambda folder: [setting.replace("FOLDER", str(folder)) for setting in settings]


def _fifo(folder: Path) -> list[str]:
    os.mkfifo(folder / "config.yaml")
    return ["--config", str(folder / "config.yaml")]


def _module(content: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        name = f"odd_{abs(hash(str(folder)))}"
        (folder / f"{name}.py").write_text(content)
        os.environ["PYTHONPATH"] = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        return [f"data.task={name}:Task"]

    return make


def _file(name: str, content: bytes = b"x") -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return [f"run.directory={folder / name}"]

    return make


def _finished(change: Callable[[Path], None], *arguments: str) -> Callable[[Path], list[str]]:
    """A run that was made, then something done to its folder."""

    def make(folder: Path) -> list[str]:
        Run(simulated_config(folder / "run", "run.num_steps=2"))()
        change(folder / "run")
        return [f"run.directory={folder / 'run'}", *arguments]

    return make


def _no_checkpoint(run: Path) -> None:
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()


def _flip_all(run: Path) -> None:
    for state in run.glob("checkpoints/*/selector/*"):
        state.write_bytes(state.read_bytes()[::-1])


def _of_another_format(run: Path) -> None:
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))


def _empty_model(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    return [f"model.path={folder / 'model'}"]


def _mirror_in_use(folder: Path) -> list[str]:
    place = (folder / "mirror").as_uri()
    Run(simulated_config(folder / "other", "run.num_steps=2", f"run.mirror={place}"))()
    return [f"run.mirror={place}"]


CASES: dict[str, Case] = {
    "a config in Latin-1": (_config("run: {directory: 'größe'}".encode("latin-1")), "is not UTF-8"),
    "a YAML bomb": (_config(BOMB.encode()), "its anchors unfold to more"),
    "3000 levels of YAML": (_config(b"run: " + b"[" * 3000), "expected at most 32 levels"),
    "a key that stands twice": (_config(b"run: {seed: 3, seed: 4}"), "seed stands twice; keep one"),
    "a FIFO as config": (_fifo, "give an existing YAML file"),
    "a boolean for a number": (_settings("run.num_steps=true"), "expected a number, got true"),
    "minutes and seconds for a number": (_settings("run.num_steps=1:30"), "run.num_steps: "),
    "infinity": (_settings("learning.learning_rate=.inf"), "learning.learning_rate: "),
    "an integer of 65 bits": (_settings(f"run.seed={1 << 64}"), "at most 64 bits"),
    "an unknown key": (_settings("run.nothing=1"), "run.nothing: unknown key"),
    "a task whose module raises": (_module("raise ValueError('no way')"), "ValueError: no way"),
    "a task whose module exits": (_module("import sys; sys.exit(0)"), "SystemExit"),
    "an empty run.directory": (_settings("run.directory="), "run.directory: "),
    "a file as run.directory": (_file("a_file"), "run.directory: "),
    "a run.directory that cannot be written": (_settings("run.directory=/proc/run"), "cannot be written"),
    "a pool file that is cut off": (
        lambda folder: [
            f"data.pool_file={_write(folder / 'pool.parquet', b'PAR1 and no more')}",
            f"data.evaluation_file={folder / 'pool.parquet'}",
        ],
        "data.pool_file: ",
    ),
    "an empty model folder": (_empty_model, "model.path: "),
    "no model folder": (_settings("model.path=FOLDER/nowhere"), "model.path: "),
    "more workers than CPUs": (_settings("rollout.num_workers=1000"), "rollout.num_workers: the run needs 501 CPUs"),
    "an address where nobody listens": (_settings("cluster.address=127.0.0.1:9"), "nobody answers at 127.0.0.1:9"),
    "a folder that holds a run": (_finished(lambda run: None), "already holds a run"),
    "manifests deleted": (_finished(_no_checkpoint, "--resume"), "results and no whole checkpoint"),
    "bytes of every checkpoint changed": (_finished(_flip_all, "--resume"), "no whole checkpoint under"),
    "manifests of another format": (_finished(_of_another_format, "--resume"), "expected a manifest of format 2"),
    "another seed on a resume": (_finished(lambda run: None, "--resume", "run.seed=5"), "run.seed: the run was made"),
    "a mirror that is no URI": (_settings("run.mirror=somewhere"), "run.mirror: expected a URI"),
    "keys in the mirror's URI": (_settings("run.mirror=s3://key:secret@bucket/run"), "run.mirror: keys in a URI"),
    "a mirror that cannot be written": (_settings("run.mirror=file:///proc/run"), "cannot be read and written"),
    "a mirror that holds another run": (_mirror_in_use, "run.mirror: "),
}
# What the resumes above change of a SMALL_RUN, so that only what was done to the folder is wrong.
SIMULATED = tuple(
    f"{key}={value}"
    for key, value in (
        ("run.num_steps", 2),
        ("rollout.engine", "simulated"),
        ("selection.selector", "uniform"),
    )
)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_one_line_and_code_2(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # what _module changes is put back
    make, said = CASES[case]
    arguments = make(tmp_path)
    directory = [] if any(a.startswith("run.directory=") for a in arguments) else [f"run.directory={tmp_path / 'new'}"]
    began = time.monotonic()
    done = run_job("train", *SMALL_RUN, *SIMULATED, *directory, *arguments, timeout_s=150)
    seconds = time.monotonic() - began
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ")
    assert said in lines[-1]
    assert len(lines) == 1, done.stderr
    assert len(lines[0]) < 1000
    record(case, lines[0].replace(str(tmp_path), "..."), 2, seconds)
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


@contextmanager
def _silent_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_never_speaks_is_one_line(tmp_path: Path) -> None:
    with _silent_port() as port:
        began = time.monotonic()
        done = run_job("train", *SMALL_RUN, f"run.directory={tmp_path / 'new'}", f"cluster.address=127.0.0.1:{port}")
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert f"nobody answers at 127.0.0.1:{port} (no answer within 4 s)" in line
        record("an address that takes connections and says nothing", line, 2, time.monotonic() - began)


def test_a_mirror_that_lies_outside_of_what_it_lists_is_left(tmp_path: Path) -> None:
    """A manifest that names a file beyond the run folder, on a mirror that somebody else can write."""
    place = (tmp_path / "mirror").as_uri()
    Run(simulated_config(tmp_path / "run", "run.num_steps=2", f"run.mirror={place}"))()
    there = ObjectFolder(place)
    for name in [name for name in there.sizes() if name.endswith("mirror.json")]:
        there.put_bytes(name, there.read(name).replace(b"metrics.jsonl", b"../../m.jsonl"))
    arguments = (*SIMULATED, f"run.directory={tmp_path / 'new'}", f"run.mirror={place}", "--resume")
    began = time.monotonic()
    done = run_job("train", *SMALL_RUN, *arguments, timeout_s=150)
    assert done.returncode == 2, done.stderr
    assert "run.mirror: no whole checkpoint: step_00000" in done.stderr
    record("names on the mirror that lead out of the folder", done.stderr.splitlines()[-1], 2, time.monotonic() - began)
    assert not (tmp_path / "m.jsonl").exists()
