import json
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import Selection
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.checkpoint import (
    CheckpointStore,
    Manifest,
    SelectionRecord,
    check_same_run,
)
from gps_ray.run.identity import Identity


def _selection() -> Selection:
    return Selection(
        step=3,
        round=0,
        prompt_ids=("a", "b"),
        num_rollouts=np.array([8, 8], np.int32),
        predicted_mean=np.array([0.1 + 0.2, np.nan]),
        predicted_std=np.array([1 / 3, np.nan]),
        slot_kind=np.array([0, 1], np.int8),
        num_candidates=17,
        expected_useful=np.array([0.1 + 0.7, np.nan]),
        num_steps_observed=2,
    )


def _manifest(steps: int, **changes: object) -> Manifest:
    fields: dict[str, object] = {
        "num_steps_done": steps,
        "counters": {"cost/num_rollouts": 256.0},
        "next_selection": SelectionRecord.of(_selection()),
        "config": {"run": {"num_steps": 5}, "learning": {"learning_rate": 0.1}},
        "pool_fingerprint": "f00",
        "metrics_num_bytes": 10,
        "samples_num_bytes": 0,
    }
    return Manifest.model_validate(fields | changes)


def _config(*overrides: str) -> TrainConfig:
    """The manifest's config, and ``overrides``."""
    return load_config(TrainConfig, None, ["run.num_steps=5", "learning.learning_rate=0.1", *overrides])


def _check(manifest: Manifest, config: TrainConfig, pool: str) -> list[str]:
    return check_same_run(manifest.config, manifest.identity, config, Identity(pool=pool))


def _commit(store: CheckpointStore, steps: int, pass_at_1: float | None = None) -> Path:
    path = store.begin(steps)
    (path / "learner").mkdir()
    (path / "learner" / "shard").write_bytes(b"weights %d" % steps)
    store.commit(path, _manifest(steps, pass_at_1=pass_at_1))
    return path


def test_selection_survives_bit_for_bit() -> None:
    before = _selection()
    record = SelectionRecord.model_validate_json(SelectionRecord.of(before).model_dump_json())
    after = record.selection()
    assert after.prompt_ids == before.prompt_ids
    assert after.num_steps_observed == 2
    assert after.text_mean is None
    for name in ("num_rollouts", "predicted_mean", "predicted_std", "slot_kind", "expected_useful"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype


def test_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    assert store.newest() is None
    paths = [_commit(store, steps) for steps in (1, 2, 3)]
    assert not paths[0].exists()
    found = CheckpointStore(tmp_path, keep_last=2).newest()
    assert found is not None
    assert found[0] == paths[2]
    assert found[1].num_steps_done == 3
    assert set(found[1].files) == {"learner/shard"}


def test_the_best_are_kept_beside_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=2)
    scores = (0.1, 0.5, None, 0.7, 0.5, 0.2)
    paths = [_commit(store, steps, score) for steps, score in enumerate(scores)]
    # Of the two with .5 the earlier; the newest whatever it is worth; none that was not evaluated.
    assert [path.exists() for path in paths] == [False, True, False, True, False, True]
    found = store.newest()
    assert found is not None
    assert (found[0], found[1].pass_at_1) == (paths[5], 0.2)


def test_a_step_without_manifest_is_never_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    whole = _commit(store, 1)
    unfinished = store.begin(2)
    (unfinished / "shard").write_bytes(b"half")
    found = store.newest()
    assert found is not None
    assert found[0] == whole
    # The next attempt at the same step gets a folder of its own.
    assert store.begin(2) != unfinished


def test_attempts_are_numbers_and_unfinished_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for attempt in range(11):
        (tmp_path / "checkpoints" / f"step_000004.{attempt}").mkdir(parents=True)
    newest = _commit(store, 4)
    assert newest.name == "step_000004.11"
    assert [path.name for path in newest.parent.iterdir()] == ["step_000004.11"]
    newest.rename(newest.with_name("step_000004.9"))
    newer = _commit(store, 4)
    found = store.newest()
    assert found is not None
    assert (newer.name, found[0]) == ("step_000004.10", newer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps_done", 1),
        ("num_steps_done", -2),
        ("metrics_num_bytes", -1),
        ("counters", {"cost/num_rollouts": 255.0}),
        ("counters", {"cost/num_rollouts": float("nan")}),
        ("pool_fingerprint", "f01"),
    ],
)
@pytest.mark.parametrize("keep_checksum", [True, False])
def test_a_manifest_that_was_changed_is_passed_over(
    tmp_path: Path, field: str, value: object, keep_checksum: bool
) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    older, newer = _commit(store, 1), _commit(store, 2)
    fields = json.loads((newer / "manifest.json").read_text())
    if not keep_checksum:
        fields["checksum"] = ""
    (newer / "manifest.json").write_text(json.dumps(fields | {field: value}))
    found = store.newest()
    assert found is not None
    is_possible = field == "pool_fingerprint" or value in (1, {"cost/num_rollouts": 255.0})
    assert found[0] == (newer if is_possible and not keep_checksum else older)


def test_another_format_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    path = _commit(store, 1) / "manifest.json"
    # Among them the one that listed a Parquet file of outcomes per step.
    fields = {"format": 1, "num_steps_done": 1, "run_files": {"outcomes/step_000001.parquet": {}}}
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"expected a manifest of format 2, got 1; .*run\.directory"):
        store.newest()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "deep"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep_last=3)
    older = _commit(store, 1)
    newer = _commit(store, 2)
    shard = newer / "learner" / "shard"
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "flip":
        shard.write_bytes(shard.read_bytes().replace(b"w", b"W"))
    elif damage == "remove":
        shard.unlink()
    elif damage == "deep":
        (newer / "manifest.json").write_text("[" * 200_000)
    else:
        (newer / "manifest.json").write_text((newer / "manifest.json").read_text()[:-20])
    found = CheckpointStore(tmp_path, keep_last=3).newest()
    assert found is not None
    assert found[0] == older


def test_nothing_whole_says_why(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=3)
    path = _commit(store, 1)
    (path / "learner" / "shard").unlink()
    with pytest.raises(CheckpointError, match=r"learner/shard is missing.*run\.directory"):
        CheckpointStore(tmp_path, keep_last=3).newest()


def test_another_config_or_pool_is_refused_with_both_sides(tmp_path: Path) -> None:
    manifest = _manifest(1)
    assert _check(manifest, _config(), "f00") == []
    with pytest.raises(CheckpointError, match=r"f00.*bar"):
        _check(manifest, _config(), "bar")
    with pytest.raises(CheckpointError, match=r"learning\.learning_rate.*0\.1.*0\.2"):
        _check(manifest, _config("learning.learning_rate=0.2"), "f00")


@pytest.mark.parametrize(
    "override",
    [
        "run.num_steps=50",
        "run.directory=elsewhere",
        "cluster.local_num_cpus=3",
        "checkpoint.every_steps=7",
        "rollout.num_workers=5",
        "rollout.chunk_deadline_s=5",
        "rollout.probe_tolerance=0.5",
        "selection.features.cache_directory=elsewhere",
    ],
)
def test_keys_that_never_touch_the_result_may_change(override: str) -> None:
    assert _check(_manifest(1), _config(override), "f00") == []


@pytest.mark.parametrize(
    "override",
    [
        "learning.microbatch_tokens=8192",
        "learning.activation_checkpointing=true",
        "learning.num_workers=2",
        "learning.num_threads=1",
        "rollout.prompts_per_chunk=4",
        "rollout.vllm.gpu_memory_utilization=0.5",
    ],
)
def test_keys_that_say_how_a_run_is_computed_may_change_with_a_line(override: str) -> None:
    (line,) = _check(_manifest(1), _config(override), "f00")
    key, _, value = override.partition("=")
    assert line.startswith(f"resume: {key} ")
    assert f"-> {value.title() if value == 'true' else value}: the run goes on" in line
    assert "no longer equal to the bit" in line


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=1",
        "run.max_policy_lag=1",
        "data.countdown.seed=1",
        "model.dtype=bfloat16",
        "warm_start.microbatch_tokens=1024",
        "rollout.group_size=4",
        "rollout.verify_deadline_s=1",
        "selection.num_prompts=16",
        "learning.num_minibatches=1",
        "evaluation.every_steps=5",
    ],
)
def test_keys_that_are_part_of_the_result_may_not_change(override: str) -> None:
    with pytest.raises(CheckpointError, match=override.partition("=")[0].replace(".", r"\.")):
        _check(_manifest(1), _config(override), "f00")


def test_a_run_that_runs_ahead_keeps_its_checkpoints_where_they_are() -> None:
    ahead = _manifest(1, config={"run": {"max_policy_lag": 1}, "learning": {"learning_rate": 0.1}})
    with pytest.raises(CheckpointError, match=r"checkpoint\.every_steps: .*10.*7"):
        _check(ahead, _config("run.max_policy_lag=1", "checkpoint.every_steps=7"), "f00")
    assert _check(ahead, _config("run.max_policy_lag=1", "checkpoint.keep_last=1"), "f00") == []


def test_a_config_that_is_no_longer_read_is_said() -> None:
    old = _manifest(1, config={"run": {"gone": 1}})
    with pytest.raises(CheckpointError, match=r"the checkpoint's config: run\.gone: unknown key"):
        _check(old, _config(), "f00")
