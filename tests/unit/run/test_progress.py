"""A terminal gets a live line; everything else gets plain lines."""

from __future__ import annotations

import io
import re
import time

import pytest

from gps_ray.run.progress import PlainLines, Progress, format_duration

METRICS = {"selection/useful_group_ratio": 0.5, "reward/pass_rate": 0.25}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_without_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream, clock = io.StringIO(), Clock()
    with Progress(4, stream=stream, clock=clock) as progress:
        clock.now += 50  # the actors start
        progress.step(0, {"val/pass@1": 0.125})
        progress.phase("rollout")
        clock.now += 10
        progress.step(1, METRICS)
        clock.now += 30
        progress.step(4, METRICS | {"val/pass@1": 0.375})
    assert stream.getvalue().splitlines() == [
        "step 0/4  pass@1 0.125  ETA -",
        "step 1/4  useful 0.500  train pass rate 0.250  ETA 0:30",
        "step 4/4  useful 0.500  train pass rate 0.250  pass@1 0.375  done in 1:30",
    ]


def test_few_plain_lines_but_every_evaluation() -> None:
    stream = io.StringIO()
    with Progress(20, every_steps=10, stream=stream, clock=Clock()) as progress:
        progress.step(0, {"val/pass@1": 0.1})
        for step in range(1, 21):
            progress.step(step, METRICS | ({"val/pass@1": 0.2} if step == 7 else {}))
    assert [int(line.split()[1].split("/")[0]) for line in stream.getvalue().splitlines()] == [0, 7, 10, 20]


def test_a_silence_is_broken_by_what_goes_on_and_each_next_one_may_be_twice_as_long() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = PlainLines("starting", quiet_s=30, stream=stream, clock=clock)
    for second in range(1, 541):  # nine minutes
        clock.now += 1
        if second == 40:
            lines.doing("warm start 10/700, loss 2.000")
        lines.tick()
    assert stream.getvalue().splitlines() == [
        "0:30  starting",
        "1:30  warm start 10/700, loss 2.000",
        "3:30  warm start 10/700, loss 2.000",
        "7:30  warm start 10/700, loss 2.000",
    ]
    lines.say("step 0/4")
    clock.now += 30
    lines.tick()
    assert stream.getvalue().splitlines()[4:] == ["step 0/4", "9:30  warm start 10/700, loss 2.000"]


def test_a_run_whose_steps_are_fast_shows_no_phase() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(100, stream=stream, clock=clock)
    for step in range(1, 101):
        for phase in ("rollout", "update", "weights"):
            progress.phase(phase)
            clock.now += 5
            progress._plain.tick()
        progress.step(step, METRICS)
    assert len(stream.getvalue().splitlines()) == 100


def test_a_slow_step_shows_its_phase_without_a_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(4, stream=stream, clock=clock) as progress:
        progress.warm_start(5, 700, 1.5)
        clock.now += 31
        progress._plain.tick()
        progress.step(1, {})
        progress.phase("rollout")
        clock.now += 31
        progress._plain.tick()
    assert [line for line in stream.getvalue().splitlines() if not line.startswith("step")] == [
        "0:31  warm start 5/700, loss 1.500",
        "1:02  rollout, 1 of 4 steps done",
    ]


def test_the_clock_is_looked_at_without_being_asked() -> None:
    stream = io.StringIO()
    with PlainLines("starting", quiet_s=0.1, stream=stream):
        end_at = time.monotonic() + 20
        while not stream.getvalue() and time.monotonic() < end_at:
            time.sleep(0.05)
    assert stream.getvalue().endswith("starting\n")


def test_a_resumed_run_counts_only_its_own_steps_for_the_pace() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(90, stream=stream, clock=clock) as progress:
        progress.step(61, METRICS)
        clock.now += 4
        progress.step(65, METRICS)
    assert "ETA 0:25" in stream.getvalue()


def test_a_terminal_shows_step_phase_ratio_pass_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    stream, clock = Terminal(), Clock()
    with Progress(10, stream=stream, clock=clock) as progress:
        progress.step(0, {})
        clock.now += 60
        progress.step(2, METRICS | {"val/pass@1": 0.31})
        progress.phase("update")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for part in ("2/10", "useful 0.500", "pass@1 0.310", "ETA 4:00", "update"):
        assert part in text, text


def test_durations() -> None:
    assert [format_duration(s) for s in (0, 59.9, 75, 3700)] == ["0:00", "0:59", "1:15", "1:01:40"]
