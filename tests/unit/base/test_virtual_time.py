import asyncio
import time

import pytest

from gps_ray.base.virtual_time import run_in_virtual_time


def test_hours_pass_at_once_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    async def worker(name: str, seconds: float, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(seconds)
            seen.append((name, asyncio.get_running_loop().time()))

    async def main() -> str:
        await asyncio.gather(worker("slow", 5000.0, 2), worker("quick", 2000.0, 4))
        return "done"

    begin = time.perf_counter()
    assert run_in_virtual_time(main()) == "done"
    assert time.perf_counter() - begin < 60
    assert [(name, round(at, 6)) for name, at in seen] == [
        ("quick", 2000),
        ("quick", 4000),
        ("slow", 5000),
        ("quick", 6000),
        ("quick", 8000),
        ("slow", 10000),
    ]


def test_a_deadlock_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="no timer is left"):
        run_in_virtual_time(main())
