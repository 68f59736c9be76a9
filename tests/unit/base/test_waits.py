import asyncio

import pytest

from gps_ray.base.waits import Waits, waiting_for, waits_of_run


def test_a_report_names_phase_and_waits_with_their_ages() -> None:
    now = [0.0]
    waits = Waits(lambda: now[0])
    now[0] = 5
    assert waits.quiet_s == 0  # nothing is watched before the first phase
    now[0] = 0
    waits.phase("rollout")
    now[0] = 10
    with waits.during("chunk 3 on rollout-worker-1"):
        now[0] = 30
        with waits.during("learner.update"):
            now[0] = 70
            assert waits.quiet_s == 70
            assert waits.report() == (
                "no progress for 70 s, in phase rollout for 70 s; waited for: chunk 3 on rollout-worker-1 (60 s); "
                "learner.update (40 s)"
            )
            assert "chunk 3 on rollout-worker-1 (60 s); 1 more" in waits.report(num=1)
        assert waits.quiet_s == 0  # what ends is progress
    now[0] = 80
    assert "nothing remote: the driver itself is at work, or stuck" in waits.report()
    waits.moved()
    assert waits.quiet_s == 0


def test_a_wait_that_fails_is_over_too() -> None:
    waits = Waits()
    with pytest.raises(ValueError), waits.during("a chunk"):
        raise ValueError
    assert waits.oldest() == []


def test_the_runs_of_one_driver_keep_their_waits_apart() -> None:
    async def run(name: str) -> list[str]:
        waits = Waits()
        waits_of_run.set(waits)

        async def inner() -> list[str]:
            with waiting_for(name):
                await asyncio.sleep(0)
                return [wait.what for wait in waits.oldest()]

        return await asyncio.create_task(inner())

    async def both() -> list[list[str]]:
        return await asyncio.gather(run("a"), run("b"))

    assert asyncio.run(both()) == [["a"], ["b"]]
    with waiting_for("nobody's"):
        assert waits_of_run.get() is None
