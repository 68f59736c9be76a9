"""What two train workers that share a model compute, against one: adapters, log-probs in pieces, snapshots of weights,
and checkpoints that go on with another number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from gps_ray.config import LearningConfig
from gps_ray.learning import logprobs
from gps_ray.learning.learner import Learner
from gps_ray.model import load_model, weights_of
from gps_ray.weights.device_snapshots import DeviceSnapshots, tensor_list
from tests.gloo_ranks import two_ranks
from tests.unit.learning.rollouts import (
    ALL_RIGHT,
    ALL_WRONG,
    MIXED,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)
from tests.unit.learning.test_lora import GROUPS
from tests.unit.learning.test_lora import _learner as lora_learner
from tests.unit.learning.test_lora import _logprobs as logprobs_of
from tests.unit.learning.test_lora import _same as same

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

Ranks = Callable[..., list[Any]]

LORA = {"num_workers": 2, "microbatch_tokens": 24, "kl_coefficient": 0.1, "learning_rate": 1e-3}
LORA_BATCHES = [make_groups((*GROUPS, "rwwrw"), seed) for seed in range(4)]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with two_ranks() as run:
        yield run


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def _update(learner: Learner, groups: Any) -> dict[str, float]:
    return dict(learner.update(make_tables(groups), ids(groups)).metrics)


def _with_adapters(directory: Path, out: Path) -> dict[str, Any]:
    learner, resumed = (lora_learner(directory, **LORA, activation_checkpointing=True) for _ in range(2))
    metrics = [_update(learner, groups) for groups in LORA_BATCHES[:2]]
    learner.save(out / "checkpoint")
    metrics += [_update(learner, groups) for groups in LORA_BATCHES[2:]]
    weights, probe = learner.weights(), learner.probe()[1]
    resumed.load(out / "checkpoint")
    assert [_update(resumed, groups) for groups in LORA_BATCHES[2:]] == metrics[2:]
    assert same(resumed.weights(), weights)
    learner.export(out / "policy")
    return {"metrics": metrics, "weights": weights, "probe": probe}


def test_adapters_give_the_losses_of_one_and_resume_bit_for_bit(
    ranks: Ranks, model_directory: Path, tmp_path: Path
) -> None:
    two, _ = ranks(_with_adapters, model_directory, tmp_path)
    alone = lora_learner(model_directory, **{**LORA, "num_workers": 1})
    for groups, metrics in zip(LORA_BATCHES, two["metrics"], strict=True):
        expected = _update(alone, groups)
        assert metrics.keys() == expected.keys()
        assert metrics["train/loss"] == pytest.approx(expected["train/loss"], abs=1e-5)
        assert metrics["train/grad_norm"] == pytest.approx(expected["train/grad_norm"], rel=1e-4)
    merged = load_model(tmp_path / "policy")
    assert same(weights_of(merged), two["weights"])
    tokens, expected_logprobs = alone.probe()
    np.testing.assert_allclose(two["probe"], expected_logprobs, atol=1e-4)
    np.testing.assert_allclose(logprobs_of(merged, tokens), two["probe"], atol=1e-5)


# In the last, one worker has a blank micro-batch.
PIECES_BATCHES = [make_groups([MIXED, ALL_WRONG, "rwwrw", "rw", ALL_RIGHT, MIXED], seed) for seed in range(2)]
PIECES_BATCHES.append(make_groups(["rww", ALL_WRONG], 9))


def _figures(directory: Path, num_workers: int) -> tuple[bool, np.ndarray[Any, Any]]:
    config = LearningConfig(num_threads=1, num_workers=num_workers, microbatch_tokens=24, kl_coefficient=0.1)
    learner = make_learner(directory, config)
    found = [_update(learner, groups) for groups in PIECES_BATCHES]
    names = ("train/loss", "train/grad_norm", "train/entropy", "train/reference_kl")
    return learner.takes_logits_in_pieces, np.array([[metrics[name] for name in names] for metrics in found])


def _in_pieces(directory: Path) -> tuple[bool, np.ndarray[Any, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "piece_entries", lambda _: 100)
        return _figures(directory, num_workers=2)


def test_two_in_pieces_are_one_on_the_whole_road(ranks: Ranks, model_directory: Path) -> None:
    in_pieces, expected = _figures(model_directory, num_workers=1)
    assert not in_pieces
    for in_pieces, figures in ranks(_in_pieces, model_directory):
        assert in_pieces
        np.testing.assert_allclose(figures, expected, rtol=1e-4, atol=1e-6)


def _snapshots_are_whole(directory: Path) -> bool:
    learner = make_learner(directory, LearningConfig(num_threads=1, num_workers=2))
    expected = learner.weights()
    snapshots = DeviceSnapshots(2, torch.float32, tensor_list)
    snapshots.publish(3, learner.device_weights())
    copies = snapshots.copies(3)
    if torch.distributed.get_rank():
        return not expected
    return copies is not None and same({name: copy.numpy() for name, copy in copies.items()}, expected)


def test_what_two_share_is_gathered_whole(ranks: Ranks, model_directory: Path) -> None:
    assert ranks(_snapshots_are_whole, model_directory) == [True, True]


SHARED_BATCHES = [make_groups([MIXED, ALL_WRONG, "rwwrw", "rw", MIXED], seed) for seed in range(4)]
KINDS: dict[str, dict[str, Any]] = {
    "whole model": {},
    "value model": {"loss": "ppo"},
    "adapters": {"lora_rank": 2},
}


def _learner_of(directory: Path, kind: str, num_workers: int) -> Learner:
    settings = {"num_threads": 1, "microbatch_tokens": 24, "num_workers": num_workers, **KINDS[kind]}
    return make_learner(directory, LearningConfig.model_validate(settings))


def _gone_on_with(directory: Path, out: Path) -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        learner = _learner_of(directory, kind, 2)
        learner.load(out / kind / "of_one")
        loaded = learner.weights()
        metrics = [_update(learner, SHARED_BATCHES[batch]) for batch in (1, 2)]
        learner.save(out / kind / "of_two")
        found[kind] = {"loaded": loaded, "metrics": metrics, "weights": learner.weights()}
    return found


def _assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def _assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_a_checkpoint_goes_on_with_another_number_of_train_workers(
    ranks: Ranks, model_directory: Path, tmp_path: Path
) -> None:
    begun, whole = {}, {}
    for kind in KINDS:
        learner = _learner_of(model_directory, kind, 1)
        (tmp_path / kind).mkdir()
        _update(learner, SHARED_BATCHES[0])
        learner.save(tmp_path / kind / "of_one")
        begun[kind] = learner.weights()
        # What one worker that was never stopped comes to.
        whole[kind] = [_update(learner, groups) for groups in SHARED_BATCHES[1:]]
    found, _ = ranks(_gone_on_with, model_directory, tmp_path)
    for kind in KINDS:
        assert len(list((tmp_path / kind / "of_two").glob("*.distcp"))) == 2
        _assert_equal(found[kind]["loaded"], begun[kind])
        resumed = _learner_of(model_directory, kind, 1)
        resumed.load(tmp_path / kind / "of_two")
        assert resumed.policy_version == 3
        _assert_equal(resumed.weights(), found[kind]["weights"])
        # AdamW's state came along too, both ways: a step from an empty one would be another.
        last = _update(resumed, SHARED_BATCHES[3])
        for metrics, expected in zip([*found[kind]["metrics"], last], whole[kind], strict=True):
            _assert_close(metrics, expected)
