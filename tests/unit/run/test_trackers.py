"""Trackers: each is read back by the reader that its users have, and none of them can harm a run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.config import TrackingConfig, TrainConfig, load_config
from gps_ray.run.trackers import MetricNames, TrackedRun, Tracker, TrackerSink, check_tracking, open_trackers

STEPS: list[tuple[int, dict[str, float]]] = [
    (0, {"step": 0, "val/pass@1": 0.25, "bad": float("nan")}),
    (1, {"step": 1, "train/loss": -0.5, "val/pass@1/level/CD-4 hard": 0.125}),
    (2, {"step": 2, "train/loss": -0.75, "val/pass@1": 0.5}),
]


def _run(folder: Path, **changes: Any) -> TrackedRun:
    facts: dict[str, Any] = {"name": "run", "run_id": "ab12cd34", "folder": folder, "config": {"run": {"seed": 7}}}
    return TrackedRun(**(facts | changes))


def _track(run: TrackedRun, tracker: str, steps: list[tuple[int, dict[str, float]]] = STEPS, **options: Any) -> None:
    (sink,) = open_trackers(TrackingConfig(trackers=(tracker,), options={tracker: options} if options else {}), run)
    for step, metrics in steps:
        sink.step(step, metrics)
    sink.close(True)


def _tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the reader: pip install tensorboard"
    )
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_was_tracked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX", reason="the writer comes with the extras cpu and gpu")
    _track(_run(tmp_path), "tensorboard")
    assert "tracking" not in capsys.readouterr().err
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    scalars = _tensorboard(tmp_path / "tensorboard")
    assert scalars["train/loss"] == [(1, -0.5), (2, -0.75)]
    assert scalars["val/pass_at_1"] == [(0, 0.25), (2, 0.5)]
    assert scalars["val/pass_at_1/level/CD-4_hard"] == [(1, 0.125)]
    assert "bad" not in scalars


def test_tensorboard_forgets_the_steps_that_a_resumed_run_makes_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the writer comes with the extras cpu and gpu")
    _track(_run(tmp_path), "tensorboard")
    _track(_run(tmp_path, goes_on_at=2), "tensorboard", [(2, {"train/loss": -0.8}), (3, {"train/loss": -1.0})])
    assert _tensorboard(tmp_path / "tensorboard")["train/loss"] == [
        (1, -0.5),
        (2, pytest.approx(-0.8)),
        (3, -1.0),
    ]


def _wandb_records(path: Path) -> list[Any]:
    """A .wandb file through wandb's own messages: a LevelDB log of them, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2  # type: ignore[import-not-found]

    data, at, parts, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little is left of the block for a header
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_wandb_reads_what_was_tracked_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="an extra: pip install 'gps-ray[wandb]'")
    # A process of its own: wandb leaves a service and hooks behind.
    code = (
        "import sys; from pathlib import Path; from tests.unit.run.test_trackers import _run, _track\n"
        "_track(_run(Path(sys.argv[1])), 'wandb', project='p')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert "tracking:" not in ended.stderr
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = _wandb_records(file)
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["_step"] for row in rows] == [0, 1, 2]
    assert [row.get("train/loss") for row in rows] == [None, -0.5, -0.75]
    assert [row.get("val/pass_at_1") for row in rows] == [0.25, None, 0.5]
    (run, *_) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.display_name, run.project) == ("ab12cd34", "run", "p")


def test_mlflow_reads_what_was_tracked_and_goes_on_in_the_same_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="an extra: pip install 'gps-ray[mlflow]'")
    _track(_run(tmp_path), "mlflow", experiment="e")
    _track(_run(tmp_path, goes_on_at=3), "mlflow", [(3, {"train/loss": -1.0})], experiment="e")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["run.seed"] == "7"
    losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(1, -0.5), (2, -0.75), (3, -1.0)]
    assert [m.value for m in client.get_metric_history(run.info.run_id, "val/pass_at_1")] == [0.25, 0.5]
    level = client.get_metric_history(run.info.run_id, "val/pass_at_1.level.CD-4 hard")
    assert [(m.step, m.value) for m in level] == [(1, 0.125)]


class Kept:
    """A tracker of the user's own."""

    def __init__(self, run: TrackedRun, *, into: str) -> None:
        self._path = run.folder / into

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([step, dict(metrics)]) + "\n")

    def close(self, finished: bool) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(["finished", finished]) + "\n")


def test_a_tracker_from_outside_takes_its_options(tmp_path: Path) -> None:
    name = f"{__name__}:Kept"
    check_tracking(TrackingConfig(trackers=(name,), options={name: {"into": "kept.jsonl"}}))
    _track(_run(tmp_path), name, into="kept.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert lines[0] == [0, {"step": 0.0, "val/pass_at_1": 0.25}]
    assert lines[-1] == ["finished", True]
    assert len(lines) == 4


def _sink(make: Callable[[], Tracker], deadline_s: float = 30.0) -> tuple[TrackerSink, list[str]]:
    said: list[str] = []
    return TrackerSink("broken", make, said.append, deadline_s), said


class Failing:
    """Fails at ``at``: in log, or in close; ``how`` is what it raises."""

    def __init__(self, at: str, how: type[BaseException]) -> None:
        self._at, self._how = at, how

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._at == "log":
            raise self._how("no\nspace left")

    def close(self, finished: bool) -> None:
        if self._at == "close":
            raise self._how("no\nspace left")


@pytest.mark.parametrize("how", [OSError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["make", "log", "close"])
def test_a_tracker_that_fails_is_given_up_and_said_once(at: str, how: type[BaseException]) -> None:
    def make() -> Tracker:
        if at == "make":
            raise how("no\nspace left")
        return Failing(at, how)

    sink, said = _sink(make)
    for step in range(5):
        sink.step(step, {"a": 1.0})
    sink.close(True)
    sink.step(6, {"a": 1.0})
    sink.close(True)
    (line,) = said
    assert line.startswith(f"tracking: broken failed ({how.__name__}: ")
    assert "\n" not in line
    assert "the run goes on without it, metrics.jsonl has everything" in line


def test_a_tracker_that_hangs_holds_nobody_up() -> None:
    entered, free = threading.Event(), threading.Event()

    def make() -> Tracker:
        entered.set()
        free.wait()
        return Failing("", OSError)

    sink, said = _sink(make, deadline_s=0.1)
    entered.wait()
    began = time.monotonic()
    for step in range(1500):
        sink.step(step, {"a": 1.0})
    sink.close(True)
    assert time.monotonic() - began < 20
    assert said == [
        "tracking: broken has not taken 1000 steps in a row; the run goes on without it, metrics.jsonl has everything"
    ]
    late, said = _sink(make, deadline_s=0.1)
    late.close(True)
    assert "did not end within 0.1 s" in said[0]
    free.set()


def test_one_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    _track(_run(tmp_path), "wandb")
    said = capsys.readouterr().err
    assert "tracking: wandb is not installed (pip install 'gps-ray[wandb]'); the run goes on" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.trackers=[tensorbord]", r"tracking\.trackers: expected some of tensorboard, wandb, mlflow or an"),
        ("tracking.trackers=['absent.module:X']", r"tracking\.trackers: cannot import 'absent\.module'"),
        ("tracking.options.tensorboard.folder=x", r"tracking\.options\.tensorboard: TensorBoardTracker takes"),
        ("tracking.options.wandb.project=x", r"tracking\.options\.wandb: is for a tracker that is not among"),
    ],
)
def test_wrong_settings_are_one_line_before_the_run(override: str, message: str) -> None:
    config = load_config(TrainConfig, None, [override])
    with pytest.raises(ConfigError, match=message):
        check_tracking(config.tracking)


def test_names_stay_apart() -> None:
    names = MetricNames()
    assert [names.of(n) for n in ("val/a@1", "val/a_at_1", "val/é", "val/ü", "val/a@1")] == [
        "val/a_at_1",
        "val/a_at_1_2",
        "val/_",
        "val/__2",
        "val/a_at_1",
    ]
