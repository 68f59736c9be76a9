import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.virtual_time import run_in_virtual_time
from gps_ray.study.benchmarks.batching_clock import BatchingClock, DecodeCost, saturated_s
from gps_ray.study.benchmarks.long_tail import Lengths
from jobs import bench

COST = DecodeCost(floor_s=0.0, base_s=0.006, per_context_token_s=1e-5, extra_s=0.001)


def _slow_clock(lengths: list[int], num_places: int, cost: DecodeCost, prompt_tokens: int) -> float:
    """Pass by pass, all responses there at the start."""
    waiting, running, seconds = list(lengths), [], 0.0
    while waiting or running:
        while waiting and len(running) < num_places:
            running.append([waiting.pop(0), 0])
        context = sum(prompt_tokens + done for _, done in running)
        seconds += max(cost.floor_s, cost.base_s + cost.extra_s + context * cost.per_context_token_s)
        running = [[left - 1, done + 1] for left, done in running if left > 1]
    return seconds


@pytest.mark.parametrize("cost", [COST, DecodeCost(0.009, 0.006, 1e-5, 0.001)])
def test_the_clock_is_that_of_one_pass_after_the_other(cost: DecodeCost) -> None:
    rng = np.random.default_rng(0)
    groups = [rng.integers(1, 150, 4).tolist() for _ in range(6)]

    async def main() -> float:
        clock = BatchingClock(5, cost, prompt_tokens=20)
        await asyncio.gather(*(clock.generate(lengths) for lengths in groups))
        clock.close()
        return asyncio.get_running_loop().time()

    whole = [length for lengths in groups for length in lengths]
    assert run_in_virtual_time(main()) == pytest.approx(_slow_clock(whole, 5, cost, 20))


def test_a_full_engine_is_what_many_equal_responses_approach() -> None:
    lengths = [200] * 400
    # Their starts are spread out, as they are where lengths differ: the context is half of the length on average.
    spread = [50, 100, 150, *lengths]
    seconds = _slow_clock(spread, 4, COST, 10)
    assert saturated_s(np.array(spread), 4, COST, 10) == pytest.approx(seconds, rel=0.02)


def test_lengths_have_the_mean_after_the_cap_and_a_prompt_keeps_its_scale() -> None:
    lengths = Lengths(3280, 8192, 0.5, 0.6, seed=1)
    drawn = np.array([lengths.of(f"p{i}", "rollout", step, 8) for i in range(400) for step in (1, 2)])
    assert drawn.max() == 8192
    assert drawn.mean() == pytest.approx(3280, rel=0.03)
    first, second = np.log(drawn[::2]).mean(1), np.log(drawn[1::2]).mean(1)
    assert np.corrcoef(first, second)[0, 1] > 0.6


def test_groups_keep_engines_busier_than_chunks_and_a_lag_busier_than_none(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    shape = "--engines 2 --prompts 16 --group-size 4 --places 16 --prompts-per-chunk 4 --pool 32"
    arguments = f"{shape} --mean-tokens 300 --cap 800 --context-ns 1000 --steps 6 --warm-up 2".split()
    assert bench.main(["long_tail", *arguments, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["parameters"]["prompts"] == 16
    rows = {row["arm"]: row for row in result["rows"]}
    shares = {arm: row["share"] for arm, row in rows.items()}
    assert list(shares) == ["all at once", "clairvoyant", "chunks, lag 0", "groups, lag 0", "groups, lag 1"]
    assert 1.2 * shares["chunks, lag 0"] < shares["groups, lag 0"] < 1
    assert shares["groups, lag 0"] < 1.02 * shares["clairvoyant"]
    assert rows["groups, lag 1"]["share"] <= rows["groups, lag 1"]["limit"]
    # The update comes between the rollouts at lag 0.
    assert rows["groups, lag 0"]["step_s"] > 1.5 * rows["groups, lag 0"]["seconds"]
    assert rows["groups, lag 1"]["step_s"] < 0.7 * rows["groups, lag 0"]["step_s"]
