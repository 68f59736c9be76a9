"""Wrong input and tampering by kind, each to a job in this process, as its imports take longer than all of them: one
line that names key and remedy, exit code 2, at once, nothing started."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.cli import run_job
from jobs.train import main
from tests.loop.ports import Run, simulated_config
from tests.processes import SMALL_RUN
from tests.reliability import record
from tests.unit.config.test_wrong_input import BOMB

pytestmark = pytest.mark.ray  # jobs import it; no Ray is started

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
        (folder / "odd_task.py").write_text(content)
        sys.path.insert(0, str(folder))
        sys.modules.pop("odd_task", None)
        return ["data.task=odd_task:Task"]

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


def _of_another_format(run: Path) -> None:
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))


def _a_pipe(run: Path) -> None:
    (run / "identity.json").unlink()
    os.mkfifo(run / "identity.json")


def _pool(folder: Path, text: str) -> list[str]:
    """Countdown problems, the first one with this text, for a model that reads them."""
    for name, first in (("pool", text), ("evaluation", "first")):
        rows = [
            {
                "data_source": "countdown",
                "prompt": [{"role": "user", "content": f"{first if i == 0 else name} {i}"}],
                "ability": "math",
                "reward_model": {
                    "style": "rule",
                    "ground_truth": '{"numbers": [3, 7], "operators": "+-", "target": 10}',
                },
                "extra_info": {"index": i},
            }
            for i in range(60)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    files = [f"data.{name}_file={folder / name}.parquet" for name in ("pool", "evaluation")]
    return [*files, "rollout.engine=torch"]


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
    "a prompt of 1 MB": (
        lambda folder: _pool(folder, "w " * 500_000),
        "max_position_embeddings: expected room for every",
    ),
    "JSON lines nested 200,000 deep": (
        lambda folder: [
            f"data.train=[{{path: {_write(folder / 'deep.jsonl', b'[' * 200_000)}}}]",
            f"data.evaluation=[{{path: {folder / 'deep.jsonl'}}}]",
        ],
        "nested too deeply",
    ),
    "a task that is no function": (_settings("data.task=os:environ"), "got one of type _Environ; change data.task"),
    "a warm start's cache that cannot be written": (
        _settings("warm_start.cache_directory=/proc/warm", "rollout.engine=torch"),
        "warm_start.cache_directory: '/proc/warm' cannot be written",
    ),
    "a features' cache that cannot be written": (
        _settings("selection.features.cache_directory=/proc/features"),
        "selection.features.cache_directory: '/proc/features' cannot be written",
    ),
    "the folder above as run.directory": (_settings("run.directory=.."), "expected a folder of its own"),
    "an empty model folder": (_empty_model, "model.path: "),
    "no model folder": (_settings("model.path=FOLDER/nowhere"), "model.path: "),
    "more workers than CPUs": (_settings("rollout.num_workers=1000"), "rollout.num_workers: the run needs 501 CPUs"),
    "an address where nobody listens": (_settings("cluster.address=127.0.0.1:9"), "nobody answers at 127.0.0.1:9"),
    "a folder that holds a run": (_finished(lambda run: None), "already holds a run"),
    "manifests deleted": (_finished(_no_checkpoint, "--resume"), "results and no whole checkpoint"),
    "manifests of another format": (_finished(_of_another_format, "--resume"), "expected a manifest of format 2"),
    "a pipe in the run folder": (_finished(_a_pipe, "--resume"), "identity.json: expected a plain file"),
    "other data on a resume": (_finished(lambda run: None, "--resume"), "the checkpoint's pool is "),
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


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, float]]:
    """``jobs.train`` with these arguments: its line on stderr, and the seconds that it took. It has ended with code 2,
    has said nothing else there, and has started no Ray."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("jobs.cli.end_on_signals", lambda: None)  # this process keeps its own ways
    monkeypatch.setattr("actors.cluster._start_local", lambda config: pytest.fail("a Ray was started"))

    def run(*arguments: str) -> tuple[str, float]:
        monkeypatch.setattr(sys, "argv", ["train", *SMALL_RUN, *SIMULATED, *arguments])
        capsys.readouterr()
        began = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        seconds = time.monotonic() - began
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        (line,) = said.splitlines()
        assert line.startswith("error: ")
        assert len(line) < 1000
        assert not ray.is_initialized()
        return line, seconds

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_finds_it_too(tmp_path: Path, case: str, job: Callable[..., tuple[str, float]]) -> None:
    make, said = CASES[case]
    arguments = make(tmp_path)
    directory = [] if any(a.startswith("run.directory=") for a in arguments) else [f"run.directory={tmp_path / 'new'}"]
    line, _ = job("--dry-run", *directory, *arguments)
    assert said in line


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_one_line_and_code_2(tmp_path: Path, case: str, job: Callable[..., tuple[str, float]]) -> None:
    make, said = CASES[case]
    arguments = make(tmp_path)
    directory = [] if any(a.startswith("run.directory=") for a in arguments) else [f"run.directory={tmp_path / 'new'}"]
    line, seconds = job(*directory, *arguments)
    assert said in line
    record(case, line.replace(str(tmp_path), "..."), 2, seconds)
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


def test_a_restart_whose_mirror_holds_the_run_leaves_the_folder_where_it_is(
    tmp_path: Path, job: Callable[..., tuple[str, float]]
) -> None:
    place = (tmp_path / "mirror").as_uri()
    Run(simulated_config(tmp_path / "run", "run.num_steps=2", f"run.mirror={place}"))()
    before = sorted(path.name for path in tmp_path.iterdir())
    line, _ = job(f"run.directory={tmp_path / 'run'}", f"run.mirror={place}", "--restart")
    assert "already holds a run" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_port_that_never_speaks_is_one_line(tmp_path: Path, job: Callable[..., tuple[str, float]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        line, seconds = job(f"run.directory={tmp_path / 'new'}", f"cluster.address=127.0.0.1:{port}")
    assert f"nobody answers at 127.0.0.1:{port} (no answer within 4 s)" in line
    record("an address that takes connections and says nothing", line.replace(str(port), "PORT"), 2, seconds)
