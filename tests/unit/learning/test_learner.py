import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_ray.base.errors import CheckpointError, LearnerError, StorageError
from gps_ray.base.types import FinishReason, RolloutGroup, RolloutStatus, SuccessPrediction
from gps_ray.config import LearningConfig
from gps_ray.learning.learner import Learner
from gps_ray.model import load_model, load_tokenizer
from gps_ray.rollout.torch_engine import TorchEngine
from tests.unit.learning.rollouts import (
    ALL_RIGHT,
    ALL_WRONG,
    MIXED,
    ONE_LEFT,
    TEMPERATURE,
    WITH_FAILURE,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)
from tests.unit.learning.slow_update import SlowLearner

GROUPS = (MIXED, ALL_WRONG, "rw", WITH_FAILURE, ALL_RIGHT, "wwwwwr", MIXED, ONE_LEFT)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), num_layers=1)


def _learner(directory: Path, dtype: str = "float32", **changes: Any) -> Learner:
    config = LearningConfig.model_validate({"num_threads": 1, "microbatch_tokens": 64, **changes})
    return make_learner(directory, config, dtype)


def _update(learner: Learner, groups: Sequence[RolloutGroup]) -> dict[str, float]:
    return dict(learner.update(make_tables(groups), ids(groups)).metrics)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _slow_update(
    directory: Path, groups: Sequence[RolloutGroup], config: LearningConfig
) -> tuple[dict[str, Any], list[float]]:
    """The update written out: one response at a time, no padding, no skipping, every group in the sum."""
    model, reference = load_model(directory), load_model(directory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def logprobs(of: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
        logits = of(input_ids=torch.tensor([[*prompt, *response]])).logits[0] / TEMPERATURE
        steps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        return steps[torch.arange(len(response)), torch.tensor(response)]

    low, high = config.clip_ratio_low or 0.2, config.clip_ratio_high or 0.2
    losses = []
    for part in range(config.num_minibatches):
        terms, num_tokens = [], 0
        for group in groups[part :: config.num_minibatches]:
            kept = [r for r in group.rollouts if r.status != RolloutStatus.FAILED]
            mean = sum(r.reward for r in kept) / len(kept)
            std = math.sqrt(sum((r.reward - mean) ** 2 for r in kept) / len(kept))
            for r in kept:
                policy = logprobs(model, r.prompt_tokens.tolist(), r.response_tokens.tolist())
                ratio = (policy - torch.tensor(r.sampled_logprobs)).exp()
                advantage = (r.reward - mean) / (std + 1e-6)
                bounded = ratio.clamp(1 - low, 1 + high)
                terms.append(-torch.minimum(ratio * advantage, bounded * advantage))
                if config.kl_coefficient:
                    with torch.no_grad():
                        frozen = logprobs(reference, r.prompt_tokens.tolist(), r.response_tokens.tolist())
                    terms.append(config.kl_coefficient * ((frozen - policy).exp() - (frozen - policy) - 1))
                num_tokens += len(r.response_tokens)
        optimizer.zero_grad()
        loss = torch.cat(terms).sum() / num_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}, losses


# AdamW divides by the gradient's own size, which hides a wrong scale: the loss is compared too, and the norm below.
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_minibatches": 1, "max_grad_norm": 0.01, "weight_decay": 0.1},
        {"num_minibatches": 3, "kl_coefficient": 0.1, "clip_ratio_low": 0.05, "clip_ratio_high": 0.4},
    ],
)
def test_an_update_matches_one_written_out_slowly(model_directory: Path, changes: dict[str, Any]) -> None:
    groups = make_groups(GROUPS, seed=1)
    learner = _learner(model_directory, learning_rate=1e-3, **changes)
    metrics = _update(learner, groups)
    expected, losses = _slow_update(
        model_directory, groups, LearningConfig.model_validate({"learning_rate": 1e-3, **changes})
    )
    start = load_model(model_directory).state_dict()
    moved = 0.0
    for name, array in learner.weights().items():
        # Compare the step, not the weight: it is a thousand times smaller. Entries without any gradient may differ by
        # what AdamW makes of rounding noise, hence the share.
        step, expected_step = array - start[name].numpy(), expected[name] - start[name].numpy()
        close = np.isclose(step, expected_step, atol=2e-5, rtol=1e-2)
        assert close.mean() > 0.995, name
        moved = max(moved, float(np.abs(expected_step).max()))
    assert moved > 5e-4
    assert metrics["train/loss"] == pytest.approx(np.mean(losses), abs=1e-6)


def test_metrics_count_what_was_trained_and_what_was_skipped(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    metrics = _update(_learner(model_directory, learning_rate=2e-4), groups)
    kept = {
        g.outcome.prompt_id: [len(r.response_tokens) for r in g.rollouts if r.status != RolloutStatus.FAILED]
        for g in groups
    }
    trained = {i for i, results in zip(kept, GROUPS, strict=True) if {"r", "w"} <= set(results)}
    assert metrics["train/num_groups_trained"] == len(trained) == 5
    assert metrics["train/num_groups_equal_rewards"] == 3
    assert metrics["train/num_tokens"] == sum(sum(kept[i]) for i in trained)
    assert metrics["train/num_tokens_admitted"] == sum(map(sum, kept.values()))
    assert metrics["train/num_optimizer_steps"] == 2
    assert metrics["train/learning_rate"] == 2e-4
    assert 0 < metrics["train/clip_ratio"] < 1
    assert 0 < metrics["train/entropy"] <= math.log(25)
    assert metrics["train/grad_norm"] > 0
    assert metrics["train/approx_kl"] > 0


def test_skipped_groups_shrink_the_step_by_their_tokens(model_directory: Path) -> None:
    mixed, empty = make_groups([MIXED]), make_groups([MIXED, ALL_RIGHT])[1:]
    alone = _update(_learner(model_directory, num_minibatches=1), mixed)
    beside = _update(_learner(model_directory, num_minibatches=1), [*mixed, *empty])
    share = beside["train/num_tokens"] / beside["train/num_tokens_admitted"]
    assert share < 1
    assert beside["train/loss"] == pytest.approx(alone["train/loss"] * share, rel=1e-6)
    assert beside["train/grad_norm"] == pytest.approx(alone["train/grad_norm"] * share, rel=1e-5)


def test_without_a_gradient_the_version_advances_and_nothing_else(model_directory: Path) -> None:
    learner = _learner(model_directory, weight_decay=0.5)
    _update(learner, make_groups([MIXED, MIXED]))  # AdamW now has momentum, which must not move the weights
    before = learner.weights()
    for groups in (make_groups([ALL_RIGHT, ALL_WRONG, ONE_LEFT]), []):
        metrics = _update(learner, groups)
        assert metrics["train/num_groups_trained"] == metrics["train/num_optimizer_steps"] == 0
        assert "train/loss" not in metrics
    assert learner.policy_version == 3
    assert _same(before, learner.weights())


def test_only_admitted_groups_train(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    some = [groups[2], groups[0]]
    one, other = _learner(model_directory), _learner(model_directory)
    one.update(make_tables(groups), ids(some))
    other.update(make_tables(some), ids(some))
    assert _same(one.weights(), other.weights())


def test_the_way_the_tables_are_cut_and_the_run_are_irrelevant(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    results = []
    for groups_per_table in (1, 3, 8):
        learner = _learner(model_directory)
        learner.update(make_tables(groups, groups_per_table), ids(groups))
        results.append(learner.weights())
    assert _same(results[0], results[1])
    assert _same(results[0], results[2])


def test_micro_batches_change_only_the_rounding(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    metrics = [_update(_learner(model_directory, microbatch_tokens=size), groups) for size in (1, 64, 100_000)]
    for name, value in metrics[0].items():
        assert [other[name] for other in metrics[1:]] == pytest.approx([value] * 2, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("num_updates_before", [0, 2])
def test_a_saved_and_loaded_learner_goes_on_bit_for_bit(
    model_directory: Path, tmp_path: Path, num_updates_before: int
) -> None:
    batches = [make_groups(GROUPS, seed) for seed in range(4)]
    straight, stopped, untouched = (_learner(model_directory, weight_decay=0.1, kl_coefficient=0.01) for _ in range(3))
    for groups in batches[:num_updates_before]:
        for learner in (straight, stopped, untouched):
            _update(learner, groups)
    stopped.save(tmp_path / "learner")
    resumed = _learner(model_directory, weight_decay=0.1, kl_coefficient=0.01)
    resumed.load(tmp_path / "learner")
    assert resumed.policy_version == num_updates_before
    for groups in batches[num_updates_before:]:
        # Saving must not change the one that saved either.
        assert _update(straight, groups) == _update(resumed, groups) == _update(stopped, groups)
    assert _same(straight.weights(), resumed.weights())
    assert _same(straight.weights(), stopped.weights())


def test_a_full_disk_is_said_and_the_learner_goes_on_as_if_nothing_had_been(
    model_directory: Path, small_disk: Path, tmp_path: Path
) -> None:
    learner = _learner(model_directory)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 20_000))
    for write, place in ((learner.save, small_disk / "learner"), (learner.export, small_disk / "model")):
        with pytest.raises(StorageError, match=rf"^{place}.*: no room: the disk is full, .* free; make room"):
            write(place)
        shutil.rmtree(place, ignore_errors=True)
    learner.save(tmp_path / "learner")
    other = _learner(model_directory)
    other.load(tmp_path / "learner")
    assert _same(learner.weights(), other.weights())


def test_a_damaged_or_foreign_checkpoint_is_one_line(model_directory: Path, tmp_path: Path) -> None:
    learner = _learner(model_directory)
    learner.save(tmp_path / "learner")
    (shard,) = (tmp_path / "learner").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="expected all shards") as caught:
        learner.load(tmp_path / "learner")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="expected all shards"):
        learner.load(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot be written"):
        learner.save(shard)


def test_the_probe_is_the_full_forward_of_its_own_tokens(model_directory: Path) -> None:
    tokens, logprobs = _learner(model_directory).probe()
    assert len(tokens) == len(logprobs) + 1
    with torch.no_grad():
        logits = load_model(model_directory)(input_ids=torch.tensor(tokens[None], dtype=torch.int64)).logits[0]
    full = torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:], dtype=torch.int64)]
    np.testing.assert_allclose(logprobs, full.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_is_a_folder_of_the_trained_policy(model_directory: Path, tmp_path: Path, dtype: str) -> None:
    learner = _learner(model_directory, dtype=dtype)
    _update(learner, make_groups(GROUPS))
    learner.export(tmp_path / "policy")
    exported = load_model(tmp_path / "policy", dtype)
    assert exported.config.dtype == getattr(torch, dtype)
    state = exported.state_dict()
    for name, array in learner.weights().items():
        assert torch.equal(state[name], torch.tensor(array).to(state[name].dtype)), name
    texts = "3 + 4 - 12"
    assert load_tokenizer(tmp_path / "policy").encode(texts) == load_tokenizer(model_directory).encode(texts)


def test_bfloat16_trains_float32_weights(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    half, full = _learner(model_directory, dtype="bfloat16"), _learner(model_directory)
    assert _update(half, groups)["train/loss"] == pytest.approx(_update(full, groups)["train/loss"], abs=5e-3)
    assert not _same(half.weights(), full.weights())
    # A step of 1.5e-4 would be rounded away in bfloat16 weights of about 1 (the norms).
    norm = "model.norm.weight"
    assert np.unique(half.weights()[norm]).size > 1


def test_a_loss_that_is_not_finite_is_an_error_and_no_step(model_directory: Path) -> None:
    groups = make_groups([MIXED])
    groups[0].rollouts[0].sampled_logprobs[0] = np.nan
    learner = _learner(model_directory, max_skipped_updates=0)
    before = learner.weights()
    with pytest.raises(LearnerError, match=r"update 1: expected a finite loss.*learning\.learning_rate"):
        _update(learner, groups)
    assert _same(before, learner.weights())


def test_activation_checkpointing_changes_nothing_but_memory(model_directory: Path, tmp_path: Path) -> None:
    groups = make_groups(GROUPS)
    plain, recomputing = (_learner(model_directory, activation_checkpointing=flag) for flag in (False, True))
    assert _update(plain, groups) == _update(recomputing, groups)
    assert _same(plain.weights(), recomputing.weights())
    recomputing.save(tmp_path / "learner")
    plain.load(tmp_path / "learner")
    assert _update(plain, groups) == _update(recomputing, groups)


def test_a_step_that_is_not_finite_is_left_out_and_counted(model_directory: Path) -> None:
    good, bad = make_groups([MIXED], seed=1), make_groups([MIXED])
    bad[0].rollouts[0].sampled_logprobs[0] = np.nan
    learner, untroubled = (_learner(model_directory, num_minibatches=1, max_skipped_updates=1) for _ in range(2))
    before = learner.weights()
    metrics = _update(learner, bad)
    assert metrics["train/num_skipped_updates"] == 1
    assert metrics["train/num_optimizer_steps"] == 0
    assert "train/loss" not in metrics
    assert _same(before, learner.weights())
    # Neither the gradient nor AdamW's state remembers the bad step, and a good one begins the count anew.
    assert _update(learner, good)["train/num_skipped_updates"] == 0
    _update(untroubled, good)
    assert _same(learner.weights(), untroubled.weights())
    _update(learner, bad)
    with pytest.raises(LearnerError, match=r"2 times in a row \(learning.max_skipped_updates=1\)"):
        _update(learner, bad)


def test_wrong_input_is_named(model_directory: Path) -> None:
    learner = _learner(model_directory)
    groups = make_groups([MIXED, MIXED])
    tables = make_tables(groups)
    with pytest.raises(LearnerError, match="1 admitted groups have no rollouts, the first is p9"):
        learner.update(tables, ("p0", "p9"))
    with pytest.raises(LearnerError, match="p0 came in two tables"):
        learner.update([*tables, *tables], ("p0",))
    short = tables[0].set_column(3, "sampled_logprobs", [[[0.0]] * len(tables[0])])
    with pytest.raises(LearnerError, match="one sampled log-prob per response token"):
        learner.update([short.cast(tables[0].schema)], ("p0",))
    assert learner.policy_version == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to train on")
def test_a_gpu_that_is_not_there_is_named(model_directory: Path) -> None:
    with pytest.raises(LearnerError, match=r"learning\.num_gpus_per_worker: 1 GPUs were asked for, torch sees none"):
        _learner(model_directory, num_gpus_per_worker=1)


def test_an_update_leaves_the_process_as_it_was(model_directory: Path) -> None:
    threads = torch.get_num_threads()
    learner = _learner(model_directory, num_threads=2, num_minibatches=1)
    _update(learner, make_groups([MIXED]))
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def _truncated(group: RolloutGroup, *places: int) -> RolloutGroup:
    rollouts = tuple(
        replace(rollout, finish_reason=FinishReason.LENGTH) if i in places else rollout
        for i, rollout in enumerate(group.rollouts)
    )
    return replace(group, rollouts=rollouts)


def test_a_masked_response_counts_in_its_group_and_nowhere_else(model_directory: Path) -> None:
    """MIXED without its second rollout's tokens: the advantages are those of all four, the loss is of three."""
    groups = [_truncated(group, 1) for group in make_groups((MIXED, "rw"))]
    kept, masked = (_learner(model_directory, num_minibatches=1, truncated=how) for how in ("keep", "mask"))
    all_tokens, num_masked = _update(kept, groups), [len(group.rollouts[1].response_tokens) for group in groups]
    metrics = _update(masked, groups)
    assert metrics["train/num_tokens"] == all_tokens["train/num_tokens"] - sum(num_masked)
    assert metrics["train/num_groups_trained"] == 2
    config = LearningConfig.model_validate({"num_threads": 1, "num_minibatches": 1})
    slow = SlowLearner(load_model(model_directory), config)
    rows = [[slow._read(rollout) for rollout in group.rollouts] for group in groups]
    slow._set_advantages(rows, [SuccessPrediction(mean=0.5, std=0.1)] * len(rows))  # GRPO looks at none
    trained = [row for group in rows for row in group if row.rollout.finish_reason is not FinishReason.LENGTH]
    assert metrics["train/loss"] == pytest.approx(float(slow._policy_loss(trained).detach()), abs=1e-5)


def test_a_group_of_masked_responses_is_not_trained(model_directory: Path) -> None:
    groups = [_truncated(group, 0, 1) for group in make_groups(("rw",))]
    learner = _learner(model_directory, truncated="mask")
    before = learner.weights()
    metrics = _update(learner, groups)
    assert metrics["train/num_groups_trained"] == 0
    assert _same(before, learner.weights())


def test_ids_that_the_tokenizer_does_not_know_change_nothing(model_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(model_directory, tmp_path / "padded")
    model = load_model(model_directory)
    num_known = model.config.vocab_size
    model.resize_token_embeddings(num_known + 40, mean_resizing=False)
    model.get_output_embeddings().weight.data[num_known:] *= 20
    model.save_pretrained(tmp_path / "padded")
    groups = make_groups((MIXED, "rw", WITH_FAILURE))
    known, padded = (
        _learner(d, kl_coefficient=0.1, rollout_is="token") for d in (model_directory, tmp_path / "padded")
    )
    tokens, logprobs = padded.probe()
    assert tokens.max() < num_known
    np.testing.assert_allclose(logprobs, TorchEngine(tmp_path / "padded").logprobs(tokens), atol=1e-5)
    one, other = _update(known, groups), _update(padded, groups)
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    before, after = model.state_dict(), padded.weights()
    embeddings = "model.embed_tokens.weight"
    np.testing.assert_array_equal(after[embeddings][num_known:], before[embeddings][num_known:])
    np.testing.assert_allclose(after[embeddings][:num_known], known.weights()[embeddings], atol=1e-4)
