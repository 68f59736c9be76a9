"""A run that does not move says who waits for what; then it goes on, stops, or its process ends."""

import asyncio

import pytest

from actors.stalls import WaitsSink, stall_watched
from gps_ray.base.errors import StallError
from gps_ray.base.waits import waiting_for
from gps_ray.config import RunConfig
from tests.processes import run_code


async def _stuck(config: RunConfig, wait: asyncio.Event) -> str:
    with stall_watched("a-run", config) as waits:
        sink = WaitsSink(waits)
        sink.phase("rollout")
        with waiting_for("chunk 7 of step 3 (prompts p1, p2) on rollout-worker-0"):
            await wait.wait()
    return "went on"


def test_it_stops_with_who_waits_for_what_where_that_is_asked_for() -> None:
    with pytest.raises(StallError) as raised:
        asyncio.run(_stuck(RunConfig(stall_timeout_s=0.4, on_stall="stop"), asyncio.Event()))
    said = str(raised.value)
    assert said.startswith("a-run: no progress for ")
    assert "in phase rollout" in said
    assert "waited for: chunk 7 of step 3 (prompts p1, p2) on rollout-worker-0 (" in said
    assert "(run.stall_timeout_s=0.4); --resume goes on" in said
    assert raised.value.exit_code == 3


def test_else_it_says_so_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> str:
        released = asyncio.Event()
        task = asyncio.ensure_future(_stuck(RunConfig(stall_timeout_s=0.2, on_stall="warn"), released))
        while "no progress" not in capsys.readouterr().err:
            await asyncio.sleep(0.05)
        released.set()
        return await task

    assert asyncio.run(run()) == "went on"


def test_an_error_of_the_run_and_somebody_elses_cancel_stay_what_they_are() -> None:
    config = RunConfig(stall_timeout_s=0.4, on_stall="stop")

    async def fail() -> None:
        with stall_watched("a-run", config):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(fail())

    async def cancelled() -> None:
        task = asyncio.ensure_future(_stuck(RunConfig(stall_timeout_s=None), asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


BLOCKED = """
import asyncio, time
from actors.stalls import stall_watched
from gps_ray.config import RunConfig

async def run():
    with stall_watched("a-run", RunConfig(stall_timeout_s=0.4, on_stall="stop"), end_s=0.4) as waits:
        waits.phase("checkpoint")
        time.sleep(100)  # as a write to a file system that is away

asyncio.run(run())
"""


def test_a_driver_that_is_stuck_itself_is_ended() -> None:
    done = run_code(BLOCKED, timeout_s=90)
    assert done.returncode == 3, done.stderr
    assert "error: a-run: no progress for " in done.stderr
    assert "nothing remote: the driver itself is at work, or stuck" in done.stderr
