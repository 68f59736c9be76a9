"""The loop on in-process ports: what a step does, what timing cannot change, what a kill cannot lose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Chunk, GenerateRequest, UpdateRequest, UpdateResult
from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from gps_ray.run.outcomes import read_outcomes
from gps_ray.run.segments import read_segments
from tests.loop.ports import Killed, Run, simulated_config


def _rows(run: Run) -> list[dict[str, Any]]:
    return read_outcomes(run.folder.outcomes).to_pylist()  # type: ignore[no-any-return]


def result_of(run: Run) -> dict[str, Any]:
    """Everything of a run that must not depend on timing or kills."""
    metrics = [
        {k: v for k, v in row.items() if not k.startswith(("timing_s/", "cost/cpu_s", "cost/wall_s")) and "_s" not in k}
        for row in read_metrics(run.folder.metrics.path)
    ]
    probes = [row for segment in read_segments(run.folder.probes) for row in segment.table.to_pylist()]
    return {
        "metrics": metrics,
        "outcomes": json.dumps(_rows(run)),  # as text, where NaN equals NaN
        "probes": json.dumps(probes),
        "samples": run.folder.samples.path.read_text(),
        "final": (run.folder.final_model / "config.json").read_text(),
    }


def test_a_run_does_its_steps_and_counts_everything(tmp_path: Path) -> None:
    run = Run(simulated_config(tmp_path / "run"))
    last = run()
    metrics = read_metrics(run.folder.metrics.path)
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in metrics if "val/pass@1" in row] == [0, 3, 6]
    assert last["cost/num_rollouts"] == 6 * 8 * 8
    assert last["cost/num_rollouts_evaluation"] == 3 * 10 * 4
    assert last["cost/num_rollouts_probe"] == 3 * (10 + 10) * 4
    rows = _rows(run)
    assert len(rows) == 6 * 8
    keys = {(row["step"], row["prompt_id"]) for row in rows}
    assert len(keys) == len(rows)
    # Step s rolls out with version s - 1, and the pool serves each version in turn.
    assert {(row["step"], row["policy_version"]) for row in rows} == {(s, s - 1) for s in range(1, 7)}
    assert run.pool.versions == [0, 1, 2, 3, 4, 5, 6]
    assert run.learner.version == 6


def test_uniform_uses_each_prompt_once_per_epoch(tmp_path: Path) -> None:
    run = Run(simulated_config(tmp_path / "run"))
    run()
    assert len({row["prompt_id"] for row in _rows(run)}) == 48


@pytest.mark.parametrize(("selector", "lag"), [("gps", 0), ("gps", 1), ("gps", 2), ("ds", 1), ("ds", 2)])
def test_the_order_in_which_chunks_finish_changes_nothing(tmp_path: Path, selector: str, lag: int) -> None:
    results = []
    for shuffle in (0, 1, 2):
        config = simulated_config(
            tmp_path / f"run{shuffle}",
            f"selection.selector={selector}",
            f"run.max_policy_lag={lag}",
            "evaluation.every_steps=6",
            "checkpoint.every_steps=6",
        )
        run = Run(config, shuffle=shuffle)
        run()
        results.append(result_of(run))
    assert results[0] == results[1] == results[2]


def test_the_next_selection_is_made_during_the_update(tmp_path: Path) -> None:
    def wait(run: Run) -> None:
        run.learner.wait_for_selection = True

    Run(simulated_config(tmp_path / "run"), change=wait)()


@pytest.mark.parametrize(
    ("selector", "lag"), [("uniform", 0), ("gps", 0), ("ds", 0), ("oracle", 0), ("uniform", 1), ("gps", 2), ("ds", 1)]
)
def test_killed_at_any_call_and_resumed_it_ends_the_same(tmp_path: Path, selector: str, lag: int) -> None:
    # Running ahead needs stretches between checkpoints that are longer than the lag.
    steps = ("run.num_steps=4",) if lag == 0 else ("checkpoint.every_steps=4", "evaluation.every_steps=4")
    overrides = (f"selection.selector={selector}", f"run.max_policy_lag={lag}", *steps)
    whole = Run(simulated_config(tmp_path / "whole", *overrides))
    whole()
    expected = result_of(whole)
    every = 7 if selector != "uniform" else 3 if lag else 1
    for kill_at in range(1, len(whole.points) + 1, every):
        config = simulated_config(tmp_path / f"killed{kill_at}", *overrides)
        with pytest.raises(Killed):
            Run(config, kill_at=kill_at)()
        resumed = Run(config, resume=True)
        resumed()
        assert result_of(resumed) == expected, f"killed at call {kill_at}: {whole.points[kill_at - 1]}"


def test_there_is_something_to_resume_before_the_first_step(tmp_path: Path) -> None:
    config = simulated_config(tmp_path / "run", "checkpoint.every_steps=6")
    run = Run(config)
    run.pool.generate = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        run()  # not even the evaluation of step 0
    assert CheckpointStore(run.folder.root, 2).newest() is None

    async def killed(request: UpdateRequest) -> UpdateResult:
        raise Killed("update")

    run = Run(config, resume=True)
    run.learner.update = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run()
    found = CheckpointStore(run.folder.root, 2).newest()
    assert found is not None
    assert found[1].num_steps_done == 0
    assert found[1].next_selection is not None
    assert found[1].next_selection.step == 1


def test_killed_twice_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    whole = Run(simulated_config(tmp_path / "whole"))
    whole()
    config = simulated_config(tmp_path / "killed")
    with pytest.raises(Killed):
        Run(config, kill_at=len(whole.points) // 2)()
    with pytest.raises(Killed):
        Run(config, resume=True, kill_at=12)()
    resumed = Run(config, resume=True)
    resumed()
    assert result_of(resumed) == result_of(whole)


def test_a_finished_run_goes_on_to_more_steps_as_if_never_stopped(tmp_path: Path) -> None:
    overrides = ("evaluation.every_steps=2", "evaluation.probe_every_steps=2", "run.sample_every_steps=1")
    whole = Run(simulated_config(tmp_path / "whole", *overrides))
    whole()
    Run(simulated_config(tmp_path / "parts", *overrides, "run.num_steps=4"))()
    longer = Run(simulated_config(tmp_path / "parts", *overrides), resume=True)
    longer()
    assert result_of(longer) == result_of(whole)


def test_dynamic_sampling_trains_on_useful_groups_and_charges_all(tmp_path: Path) -> None:
    # Hard prompts: one batch of eight can hardly hold eight useful groups.
    hard = "rollout.simulated.initial_logit_mean=-2.5"
    run = Run(simulated_config(tmp_path / "run", "selection.selector=ds", "run.num_steps=2", hard))
    last = run()
    rows = _rows(run)
    assert last["selection/num_admitted"] == 8
    assert last["selection/num_rounds"] > 1
    assert last["cost/num_rollouts"] == sum(len(row["rewards"]) for row in rows) > 2 * 8 * 8
    assert len({(row["step"], row["prompt_id"]) for row in rows}) == len(rows)


def test_a_selector_may_share_out_the_rollouts_of_a_step(tmp_path: Path) -> None:
    overrides = ("selection.selector=gps_fused", "selection.group_size_range=[2, 24]")
    run = Run(simulated_config(tmp_path / "run", *overrides))
    last = run()
    groups: dict[int, list[int]] = {}
    for row in _rows(run):
        groups.setdefault(row["step"], []).append(len(row["rewards"]))
    assert set(groups.pop(1)) == {8}, "nothing is known before the first step"
    assert all(sum(sizes) == 8 * 8 and min(sizes) >= 2 for sizes in groups.values())
    assert any(len(set(sizes)) > 2 for sizes in groups.values())
    assert last["selection/largest_group"] == max(groups[6])

    config = simulated_config(tmp_path / "killed", *overrides)
    with pytest.raises(Killed):
        Run(config, kill_at=len(run.points) // 2)()
    resumed = Run(config, resume=True)
    resumed()
    assert result_of(resumed) == result_of(run)


def test_the_oracle_is_told_its_candidates_rates_and_charged_apart(tmp_path: Path) -> None:
    selector = "selection.selector=oracle"
    runs = {
        name: Run(simulated_config(tmp_path / name, *overrides))
        for name, overrides in {"uniform": (), "oracle": (selector, "selection.candidate_multiple=4")}.items()
    }
    last = {name: run() for name, run in runs.items()}
    rows = {name: _rows(run) for name, run in runs.items()}
    assert len(rows["oracle"]) == len(rows["uniform"])
    assert last["oracle"]["cost/num_rollouts"] == last["uniform"]["cost/num_rollouts"] == 6 * 8 * 8
    # One more than there are steps: the choice for a step that a longer run would make.
    assert last["oracle"]["cost/num_rollouts_oracle"] == 7 * 4 * 8 * 8
    assert "cost/num_rollouts_oracle" not in last["uniform"]

    def useful(name: str) -> int:
        return sum(0 < sum(row["rewards"]) < len(row["rewards"]) for row in rows[name])

    assert useful("oracle") > useful("uniform")


AHEAD = ("run.num_steps=12", "evaluation.every_steps=6", "checkpoint.every_steps=6", "evaluation.probe_every_steps=12")


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_rollouts_run_ahead_by_the_lag_and_no_further(tmp_path: Path, lag: int) -> None:
    run = Run(simulated_config(tmp_path / "run", *AHEAD, f"run.max_policy_lag={lag}"))
    run()
    seen = {request.step: (request, version) for request, version in run.pool.requests if request.stream == "rollout"}
    for step, (request, version) in seen.items():
        # After step 6 there was an evaluation: the stretch begins anew with the newest weights.
        begin = 6 * ((step - 1) // 6)
        assert request.policy_version == max(begin, step - 1 - lag)
        assert request.policy_version <= version <= step - 1
    metrics = [row for row in read_metrics(run.folder.metrics.path) if row["step"] > 0]
    assert [row["rollout/policy_lag"] for row in metrics] == [min((s - 1) % 6, lag) for s in range(1, 13)]
    evaluated = [request for request, version in run.pool.requests if request.stream == "evaluation"]
    assert [request.policy_version for request in evaluated] == [0, 6, 12]


def test_rollouts_are_made_during_the_update(tmp_path: Path) -> None:
    def wait(run: Run) -> None:
        update = run.learner.update

        async def waiting(request: UpdateRequest) -> UpdateResult:
            async def next_rollouts() -> None:
                while not any(other.step == request.step + 1 for other, _ in run.pool.requests):
                    await asyncio.sleep(0.01)

            if request.step % 6 != 0:  # the last of a stretch is waited for
                await asyncio.wait_for(next_rollouts(), 10)
            return await update(request)

        run.learner.update = waiting  # type: ignore[method-assign]

    Run(simulated_config(tmp_path / "run", *AHEAD, "run.max_policy_lag=1"), change=wait)()


def test_rollouts_of_a_step_begin_while_those_of_the_step_before_are_made(tmp_path: Path) -> None:
    """No step waits for the slowest rollout of the one before; the learner still sees them in order."""

    def change(run: Run) -> None:
        generate = run.pool.generate

        async def until_the_next_has_begun(request: GenerateRequest) -> AsyncIterator[Chunk]:
            async for chunk in generate(request):
                yield chunk
            if request.stream == "rollout" and request.step % 6 != 0:
                async with asyncio.timeout(10):
                    while not any(other.step == request.step + 1 for other, _ in run.pool.requests):
                        await asyncio.sleep(0.01)

        run.pool.generate = until_the_next_has_begun  # type: ignore[method-assign]

    run = Run(simulated_config(tmp_path / "run", *AHEAD, "run.max_policy_lag=1"), change=change)
    run()
    assert [row["step"] for row in read_metrics(run.folder.metrics.path)] == list(range(13))


def test_prompts_in_flight_are_not_selected_again(tmp_path: Path) -> None:
    run = Run(simulated_config(tmp_path / "run", *AHEAD, "selection.selector=gps", "run.max_policy_lag=2"))
    run()
    by_step: dict[int, set[str]] = {}
    for row in _rows(run):
        by_step.setdefault(row["step"], set()).add(row["prompt_id"])
    for step in range(1, 13):
        begin = 6 * ((step - 1) // 6)
        in_flight = set().union(*(by_step[other] for other in range(max(begin + 1, step - 2), step)))
        assert not by_step[step] & in_flight


def test_the_oracle_cannot_run_ahead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.max_policy_lag"):
        simulated_config(tmp_path / "run", "selection.selector=oracle", "run.max_policy_lag=1")
