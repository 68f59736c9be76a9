import json
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import Selection
from gps_ray.run.checkpoint import (
    CheckpointStore,
    Manifest,
    SelectionRecord,
    check_same_run,
)


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
    )


def _manifest(steps: int, **changes: object) -> Manifest:
    fields: dict[str, object] = {
        "num_steps_done": steps,
        "counters": {"cost/num_rollouts": 256.0},
        "next_selection": SelectionRecord.of(_selection()),
        "config": {"run": {"seed": 0, "num_steps": 5}, "learning": {"learning_rate": 0.1}},
        "pool_fingerprint": "f00",
        "metrics_num_bytes": 10,
        "samples_num_bytes": 0,
    }
    return Manifest.model_validate(fields | changes)


def _commit(store: CheckpointStore, root: Path, steps: int) -> Path:
    outcome = root / "outcomes" / f"step_{steps:06d}.parquet"
    outcome.parent.mkdir(parents=True, exist_ok=True)
    outcome.write_bytes(b"outcome %d" % steps)
    path = store.begin(steps)
    (path / "learner").mkdir()
    (path / "learner" / "shard").write_bytes(b"weights %d" % steps)
    names = sorted(p.relative_to(root).as_posix() for p in outcome.parent.glob("*"))
    store.commit(path, _manifest(steps), names)
    return path


def test_selection_survives_bit_for_bit() -> None:
    before = _selection()
    record = SelectionRecord.model_validate_json(SelectionRecord.of(before).model_dump_json())
    after = record.selection()
    assert after.prompt_ids == before.prompt_ids
    for name in ("num_rollouts", "predicted_mean", "predicted_std", "slot_kind"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype


def test_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    assert store.newest() is None
    paths = [_commit(store, tmp_path, steps) for steps in (1, 2, 3)]
    assert not paths[0].exists()
    found = CheckpointStore(tmp_path, keep_last=2).newest()
    assert found is not None
    assert found[0] == paths[2]
    assert found[1].num_steps_done == 3
    assert set(found[1].run_files) == {f"outcomes/step_{s:06d}.parquet" for s in (1, 2, 3)}


def test_a_step_without_manifest_is_never_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    whole = _commit(store, tmp_path, 1)
    unfinished = store.begin(2)
    (unfinished / "shard").write_bytes(b"half")
    found = store.newest()
    assert found is not None
    assert found[0] == whole
    # The next attempt at the same step gets a folder of its own.
    assert store.begin(2) != unfinished


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "outcome"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep_last=3)
    older = _commit(store, tmp_path, 1)
    newer = _commit(store, tmp_path, 2)
    shard = newer / "learner" / "shard"
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "flip":
        shard.write_bytes(shard.read_bytes().replace(b"w", b"W"))
    elif damage == "remove":
        shard.unlink()
    elif damage == "manifest":
        (newer / "manifest.json").write_text((newer / "manifest.json").read_text()[:-20])
    else:
        (tmp_path / "outcomes" / "step_000002.parquet").write_bytes(b"other")
    found = CheckpointStore(tmp_path, keep_last=3).newest()
    assert found is not None
    assert found[0] == older


def test_nothing_whole_says_why(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=3)
    path = _commit(store, tmp_path, 1)
    (path / "learner" / "shard").unlink()
    with pytest.raises(CheckpointError, match=r"learner/shard is missing.*run\.directory"):
        CheckpointStore(tmp_path, keep_last=3).newest()


def test_another_config_or_pool_is_refused_with_both_sides(tmp_path: Path) -> None:
    manifest = _manifest(1)
    config = json.loads(json.dumps(manifest.config))
    check_same_run(manifest, config, "f00")
    config["run"]["num_steps"] = 50  # a longer run may go on
    check_same_run(manifest, config, "f00")
    with pytest.raises(CheckpointError, match=r"f00.*bar"):
        check_same_run(manifest, config, "bar")
    config["learning"]["learning_rate"] = 0.2
    with pytest.raises(CheckpointError, match=r"learning\.learning_rate.*0\.1.*0\.2"):
        check_same_run(manifest, config, "f00")
