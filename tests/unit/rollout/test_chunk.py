from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError, RolloutError
from gps_ray.base.tables import groups_from_table, outcomes_from_table
from gps_ray.base.types import (
    FinishReason,
    GenerateRequest,
    GroupFailure,
    Prompt,
    PublishedWeights,
    RolloutStatus,
    Sampling,
)
from gps_ray.base.useful import is_useful
from gps_ray.config import EmbeddedModelConfig, RolloutConfig, SelectionConfig, SimulatedConfig
from gps_ray.learning.groups import count_metrics, train_groups
from gps_ray.model import make_embedded_model
from gps_ray.rollout.chunk import ChunkRequest, ChunkRunner, build_engine, cut_chunks
from gps_ray.rollout.simulated_engine import SimulatedEngine, SimulatedTask, success_rates
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.selection.admission import build_admission
from gps_ray.tasks.interface import Verdict
from gps_ray.weights.object_store import ObjectStorePayload
from tests.unit.rollout.scripted_engine import ScriptedEngine

PROMPTS = {f"p{i}": Prompt(prompt_id=f"p{i}", text=f"{i} + 1", answer=f"{i + 1}", task="t") for i in range(7)}


class SumTask:
    """Judges by the answer; a response "?" cannot be judged."""

    name = "t"
    bounds_its_own_work = True

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        if response == "?":
            raise TimeoutError
        return (1.0, RolloutStatus.RIGHT) if response == prompt.answer else (0.0, RolloutStatus.WRONG)


SAMPLING = Sampling(temperature=0.9, max_response_tokens=9)


class EverythingIsRight(SumTask):
    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return 1.0, RolloutStatus.RIGHT


def _request(num: int = 7, **changes: Any) -> GenerateRequest:
    values = {
        "step": 4,
        "stream": "rollout",
        "prompt_ids": tuple(f"p{i}" for i in range(num)),
        "num_rollouts": np.arange(1, num + 1, dtype=np.int32),
        "policy_version": 0,
        "sampling": SAMPLING,
    }
    return GenerateRequest(**(values | changes))


def test_chunks_are_cut_by_place_in_the_selection() -> None:
    chunks = cut_chunks(_request(first_chunk=5, num_samples_kept=4), PROMPTS, 3)
    assert [chunk.chunk_id for chunk in chunks] == [5, 6, 7]
    assert [[p.prompt_id for p in chunk.prompts] for chunk in chunks] == [
        ["p0", "p1", "p2"],
        ["p3", "p4", "p5"],
        ["p6"],
    ]
    assert [chunk.num_rollouts.tolist() for chunk in chunks] == [[1, 2, 3], [4, 5, 6], [7]]
    assert [chunk.num_samples_kept for chunk in chunks] == [3, 1, 0]
    assert {(c.step, c.stream, c.policy_version, c.sampling) for c in chunks} == {(4, "rollout", 0, SAMPLING)}
    assert cut_chunks(_request(0), PROMPTS, 3) == []


def _chunk(prompt_ids: tuple[str, ...], num_samples_kept: int = 0, policy_version: int = 0) -> ChunkRequest:
    request = _request(
        prompt_ids=prompt_ids,
        num_rollouts=np.full(len(prompt_ids), 3, np.int32),
        num_samples_kept=num_samples_kept,
        policy_version=policy_version,
    )
    return cut_chunks(request, PROMPTS, 10)[0]


SCRIPT = {
    "p0": ["1", "1", "1"],
    "p1": ["9", "2", "?"],
    "p2": [],
    "p3": ["?", "9", "9"],
    "p4": ["?", "?", "?"],
}


class ShapedTask(SumTask):
    """Takes a little off every reward for each character, so that rewards differ in groups that are all wrong."""

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        reward, status = super().verify(prompt, response)
        return reward - 0.01 * len(response), status


def test_a_group_is_useful_by_success_not_by_rewards_that_shaping_makes_differ() -> None:
    engine = ScriptedEngine({"p0": ["9", "99", "999"], "p1": ["2", "99", "2"]})
    runner = ChunkRunner(engine, ShapedTask(), RolloutConfig(max_response_tokens=9), run_seed=11)
    header, outcomes, rollouts = runner.run(_chunk(("p0", "p1")))
    assert len(set(outcomes_from_table(outcomes)[0].rewards.tolist())) == 3
    assert is_useful(header.num_right, header.num_tried).tolist() == [False, True]
    admission = build_admission(SelectionConfig(selector="ds"))
    admission.begin(2)
    admission.offer(header.prompt_ids, is_useful(header.num_right, header.num_tried))
    assert admission.admitted == ("p1",)
    counts = count_metrics(train_groups([rollouts], ["p0", "p1"]))
    assert counts["train/num_groups_shaped_only"] == 1
    assert counts["train/num_groups_equal_rewards"] == 0


def test_header_and_tables_tell_the_same_story() -> None:
    engine = ScriptedEngine(SCRIPT)
    runner = ChunkRunner(engine, SumTask(), RolloutConfig(max_response_tokens=9), run_seed=11)
    header, outcomes, rollouts = runner.run(_chunk(tuple(SCRIPT), num_samples_kept=3))
    assert header.prompt_ids == ("p0", "p1", "p3", "p4")
    assert header.num_right.tolist() == [3, 1, 0, 0]
    assert header.num_wrong.tolist() == [0, 1, 2, 0]
    assert header.num_failed.tolist() == [0, 1, 1, 3]
    # A failure is no zero: one failed and two wrong responses carry no gradient.
    assert is_useful(header.num_right, header.num_tried).tolist() == [False, True, False, False]
    assert header.reward_sum.tolist() == [3.0, 1.0, 0.0, 0.0]
    assert header.num_response_tokens.tolist() == [3, 3, 3, 3]
    assert header.failures == (GroupFailure(prompt_id="p2", reason="the engine gave no response"),)
    assert [(s.prompt_text, s.response_text, s.reward) for s in header.samples] == [
        ("0 + 1", "1", 1.0),
        ("1 + 1", "9", 0),
    ]
    assert header.wall_s > 0
    read = outcomes_from_table(outcomes)
    assert [(o.prompt_id, o.num_right, o.num_tried) for o in read] == [
        ("p0", 3, 3),
        ("p1", 1, 2),
        ("p3", 0, 2),
        ("p4", 0, 0),
    ]
    assert list(groups_from_table(rollouts)) == ["p0", "p1", "p3", "p4"]
    (request,) = engine.requests
    assert (request.run_seed, request.stream, request.step) == (11, "rollout", 4)
    assert request.sampling == SAMPLING


@pytest.mark.parametrize("truncated_is_wrong", [False, True])
def test_truncated_responses_are_counted_and_may_count_as_wrong(tmp_path: Path, truncated_is_wrong: bool) -> None:
    make_embedded_model(EmbeddedModelConfig(num_layers=1), [*map(str, range(9)), "+"], tmp_path)
    runner = ChunkRunner(TorchEngine(tmp_path), EverythingIsRight(), RolloutConfig(), run_seed=11)
    chunk = _chunk(("p0", "p1"))
    sampling = replace(SAMPLING, max_response_tokens=4, truncated_is_wrong=truncated_is_wrong)
    header, _, rollouts = runner.run(replace(chunk, sampling=sampling, num_rollouts=np.array([20, 30], np.int32)))
    expected = [
        sum(rollout.finish_reason is FinishReason.LENGTH for rollout in group)
        for group in groups_from_table(rollouts).values()
    ]
    assert header.num_truncated.tolist() == expected
    assert 0 < sum(expected) < 50
    assert header.num_wrong.tolist() == (expected if truncated_is_wrong else [0, 0])
    assert header.reward_sum.tolist() == header.num_right.tolist()


def test_weights_are_probed_after_every_load() -> None:
    engine = ScriptedEngine(SCRIPT)
    runner = ChunkRunner(engine, SumTask(), RolloutConfig(probe_tolerance=0.01), run_seed=0)

    def load(version: int, offset: float) -> None:
        published = PublishedWeights(
            policy_version=version,
            payload=None,
            probe_tokens=np.array([1, 2, 3], np.int32),
            probe_logprobs=np.full(2, -1.0, np.float32),
        )
        runner.load_weights(published, ObjectStorePayload(arrays={"offset": np.array(offset, np.float32)}))

    load(1, 0.005)
    assert runner.run(_chunk(("p0",), policy_version=1))[0].policy_version == 1
    for offset in (0.02, np.nan):
        with pytest.raises(RolloutError, match=r"rollout\.probe_tolerance"):
            load(2, offset)
    # The version that failed its probe is not served.
    with pytest.raises(RolloutError, match="asks for policy version 2"):
        runner.run(_chunk(("p0",), policy_version=2))


def test_a_simulated_run_needs_neither_model_nor_task() -> None:
    config = RolloutConfig(engine="simulated", simulated=SimulatedConfig(initial_logit_mean=0.0))
    engine = build_engine(config, None, "float32")
    assert isinstance(engine, SimulatedEngine)
    runner = ChunkRunner(engine, SumTask(), config, run_seed=0)
    request = _request(num_rollouts=np.full(7, 200, np.int32))
    header, _, _ = runner.run(cut_chunks(request, PROMPTS, 7)[0])
    rates = success_rates(list(PROMPTS.values()), config.simulated, 0)
    np.testing.assert_allclose(header.num_right / 200, rates, atol=0.12)


def test_torch_engine_is_built_from_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine.*model\.path"):
        build_engine(RolloutConfig(), None, "float32")
    make_embedded_model(EmbeddedModelConfig(num_layers=1), [str(i) for i in range(10)] + ["+"], tmp_path)
    engine = build_engine(RolloutConfig(), tmp_path, "float32")
    assert isinstance(engine, TorchEngine)
    runner = ChunkRunner(engine, SumTask(), RolloutConfig(max_response_tokens=4), run_seed=0)
    header, _, rollouts = runner.run(_chunk(("p0", "p1")))
    assert header.cpu_s > 0
    assert (header.num_right + header.num_wrong).tolist() == [3, 3]
    assert rollouts.num_rows == 6


def test_simulated_task_is_exact_about_its_two_words() -> None:
    task = SimulatedTask()
    verdicts = [task.verify(PROMPTS["p0"], text)[1] for text in ("right", "wrong", "right ", "")]
    assert verdicts == [RolloutStatus.RIGHT, *[RolloutStatus.WRONG] * 3]
