"""Runs that are asked to end, or checkpoint by the clock: nothing that they leave or do later is another's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors.signals import stopping_on_signals
from gps_ray.base.errors import ConfigError
from gps_ray.loop.breaks import Breaks, RunStopped, StopRequest
from tests.loop.ports import Run, simulated_config
from tests.loop.test_loop import result_of

# Nothing but its last step is due by number.
LONG = ("checkpoint.every_steps=6", "evaluation.every_steps=6", "evaluation.probe_every_steps=6")


def _ask_at(point: str, number: int) -> object:
    """Ask the run to end at the n-th call of that kind."""

    def change(run: Run) -> None:
        run_point = run.point

        def asking(name: str) -> None:
            run_point(name)
            if run.points.count(point) == number and name == point:
                run.stop.ask("SIGTERM")

        run.point = asking  # type: ignore[method-assign]

    return change


@pytest.mark.parametrize(
    ("selector", "point"),
    [
        ("uniform", "generate"),
        ("uniform", "update"),
        ("gps", "observe"),
        ("gps", "select"),
        ("ds", "generate"),
        ("ds", "load_weights"),
        ("oracle", "observe"),
        ("oracle", "select"),
    ],
)
def test_a_run_that_is_asked_to_end_leaves_a_checkpoint_and_resumes_the_same(
    tmp_path: Path, selector: str, point: str
) -> None:
    overrides = (f"selection.selector={selector}", *LONG)
    whole = Run(simulated_config(tmp_path / "whole", *overrides))
    whole()
    config = simulated_config(tmp_path / "stopped", *overrides)
    run = Run(config, change=_ask_at(point, 4))  # type: ignore[arg-type]
    with pytest.raises(RunStopped, match=r"^SIGTERM: stopped after step \d with a checkpoint") as stopped:
        run()
    assert stopped.value.exit_code == 143
    found = run.store.newest()
    assert found is not None
    assert 0 < found[1].num_steps_done < 6
    assert found[1].num_steps_done == run.learner.version
    resumed = Run(config, resume=True)
    resumed()
    assert result_of(resumed) == result_of(whole)


def test_under_a_lag_a_run_ends_only_where_nothing_is_under_way(tmp_path: Path) -> None:
    lag = ("run.max_policy_lag=2", "checkpoint.every_steps=6", "evaluation.every_steps=3")
    whole = Run(simulated_config(tmp_path / "whole", *lag))
    whole()
    config = simulated_config(tmp_path / "stopped", *lag)
    with pytest.raises(RunStopped, match="after step 3"):
        Run(config, change=_ask_at("update", 2))()  # type: ignore[arg-type]
    resumed = Run(config, resume=True)
    resumed()
    assert result_of(resumed) == result_of(whole)
    with pytest.raises(ConfigError, match=r"checkpoint\.every_s: with a policy lag"):
        simulated_config(tmp_path, *lag, "checkpoint.every_s=1")


def test_checkpoints_by_the_clock_change_nothing(tmp_path: Path) -> None:
    whole = Run(simulated_config(tmp_path / "whole", *LONG))
    whole()
    often = Run(simulated_config(tmp_path / "often", *LONG, "checkpoint.every_s=1e-6", "checkpoint.keep_last=9"))
    often()
    assert result_of(often) == result_of(whole)
    # Those of steps 0 and 6 are there anyway.
    assert len(list((tmp_path / "often" / "checkpoints").glob("*/manifest.json"))) > 3


def test_a_time_limit_counts_the_longest_step_and_the_checkpoint() -> None:
    clock = [0.0]
    config = simulated_config(Path("unused"), "run.time_limit_s=100")
    breaks = Breaks(config, StopRequest(), lambda: clock[0])
    assert not breaks.is_wanted()
    for clock[0] in (30.0, 40.0):
        breaks.step_done()
    clock[0] = 45.0
    breaks.saved(began=40.0)
    clock[0] = 64.0
    assert not breaks.is_wanted()
    clock[0] = 66.0  # a step may take 30 s, a checkpoint 5 s
    assert breaks.is_wanted()
    assert breaks.reason == "run.time_limit_s=100"
    assert RunStopped(breaks.reason, "").exit_code == 0


@pytest.mark.parametrize("grace_s", [60.0, 0.05])
def test_a_signal_asks_first_and_ends_what_does_not_follow(grace_s: float) -> None:
    config = simulated_config(Path("unused"), f"run.preemption_grace_s={grace_s}").run

    async def run() -> None:
        stop = StopRequest()
        with stopping_on_signals(stop, config):
            os.kill(os.getpid(), signal.SIGINT)
            while not stop.reason:
                await asyncio.sleep(0.01)
            assert stop.reason == "SIGINT"
            if grace_s > 1:
                os.kill(os.getpid(), signal.SIGTERM)  # a second one does not wait for the step
            await asyncio.Event().wait()

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(RunStopped, match="SIGINT: ended within a step") as stopped:
        asyncio.run(run())
    assert stopped.value.exit_code == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
