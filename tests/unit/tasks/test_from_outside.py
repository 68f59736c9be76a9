"""A task from a module outside the package, by import path and with options: data, verdicts, and an update on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.tables import groups_from_table
from gps_ray.base.types import GenerateRequest, Prompt, RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.learning.learner import Learner
from gps_ray.rollout.chunk import ChunkRunner, build_engine, cut_chunks
from gps_ray.tasks.dataset import load_data, prompt_id, write_prompts
from gps_ray.tasks.registry import load_task
from tests.unit.learning.rollouts import make_model

MY_TASK = '''
from gps_ray.base.types import RolloutStatus


class AtMost:
    """Right is what has at most so many words."""

    name = "at_most"

    def __init__(self, *, max_words: int) -> None:
        if max_words < 0:
            raise ValueError(f"max_words must not be negative, got {max_words}")
        self.max_words = max_words

    def verify(self, prompt, response):
        right = len(response.split()) <= self.max_words
        return float(right), RolloutStatus.RIGHT if right else RolloutStatus.WRONG
'''
MY_LOSSES = """
from gps_ray.learning.algorithms import Algorithm
from gps_ray.learning.losses.interface import TokenLoss, bounded_ratio


def unclipped(*, scale=1.0):
    def loss(tokens, clip):
        per_token = -scale * tokens.advantages * bounded_ratio(tokens.log_ratio())
        return TokenLoss(per_token=per_token, is_clipped=per_token != per_token)

    return Algorithm(policy_loss=loss)


def minus(*, baseline):
    return lambda rewards: rewards - baseline
"""


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_task.py").write_text(MY_TASK)
    (tmp_path / "my_own_losses.py").write_text(MY_LOSSES)
    monkeypatch.syspath_prepend(tmp_path)


def _prompts(*texts: str) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(prompt_id=prompt_id("at_most", text, "none"), text=text, answer="none", task="at_most") for text in texts
    )


def _config(tmp_path: Path, *overrides: str) -> TrainConfig:
    write_prompts(tmp_path / "pool.parquet", _prompts("1 + 2", "3 + 4", "5 - 6"))
    write_prompts(tmp_path / "evaluation.parquet", _prompts("7 + 8"))
    fixed = (
        f"data.pool_file={tmp_path / 'pool.parquet'}",
        f"data.evaluation_file={tmp_path / 'evaluation.parquet'}",
        "data.task=my_task:AtMost",
        "data.task_options.max_words=2",
        "rollout.max_response_tokens=8",
        "rollout.num_threads=1",
        "learning.num_threads=1",
        "learning.num_minibatches=1",
        "learning.loss=my_own_losses:unclipped",
        "learning.loss_options.scale=3",
        "learning.advantage=my_own_losses:minus",
        "learning.advantage_options.baseline=0.25",
    )
    return load_config(TrainConfig, None, [*fixed, *overrides])


def test_one_step_with_a_task_a_loss_and_an_advantage_of_ones_own(tmp_path: Path) -> None:
    config = _config(tmp_path)
    pool = load_data(config.data, 0).pool
    model = make_model(tmp_path / "model")
    request = GenerateRequest(
        step=1,
        stream="train",
        prompt_ids=tuple(prompt.prompt_id for prompt in pool),
        num_rollouts=np.full(3, 8, np.int32),
        policy_version=0,
        sampling=config.rollout_sampling,
        num_samples_kept=3,
    )
    (chunk,) = cut_chunks(request, {prompt.prompt_id: prompt for prompt in pool}, 3)
    task = load_task(config.data.task, config.data.task_options)
    runner = ChunkRunner(build_engine(config.rollout, model, "float32"), task, config.rollout, run_seed=0)
    try:
        header, _, rollouts = runner.run(chunk)
    finally:
        runner.close()
    # In the verifier's own process too, the option is what was set.
    for sample in header.samples:
        is_right = len(sample.response_text.split()) <= 2
        assert sample.status == (RolloutStatus.RIGHT if is_right else RolloutStatus.WRONG)
    assert 0 < header.num_right.sum() < 24

    learner = Learner(
        model, config.learning, dtype="float32", temperature=1.0, max_response_tokens=8, num_steps=config.run.num_steps
    )
    metrics = learner.update([rollouts], header.prompt_ids).metrics
    # Before its first step the policy is the one that sampled: every ratio is 1.
    tokens = [
        (rollout.reward - 0.25, len(rollout.response_tokens))
        for group in groups_from_table(rollouts).values()
        for rollout in group
    ]
    expected = -3 * sum(advantage * length for advantage, length in tokens) / sum(length for _, length in tokens)
    assert metrics["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["train/grad_norm"] > 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.task_options.max_word=2", "unexpected keyword argument 'max_word'"),
        ("data.task_options.max_words=-1", "max_words must not be negative, got -1"),
        ("data.task_options.max_words=many", "AtMost refuses"),
        ("data.task_options={}", "missing a required argument: 'max_words'"),
    ],
)
def test_wrong_options_are_one_line_that_names_the_key(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.task_options: ") as caught:
        load_data(_config(tmp_path, override).data, 0)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
