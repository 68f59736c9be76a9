"""What a resume looks at before anything starts."""

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.types import Prompt
from gps_ray.config import TrainConfig
from gps_ray.loop.opening import check_resume, check_run_folder, dated, move_aside, open_folder, run_identity
from gps_ray.loop.plan import pool_fingerprint
from gps_ray.run.checkpoint import CheckpointStore, Manifest
from gps_ray.run.identity import Identity
from gps_ray.run.lease import Lease
from gps_ray.tasks.interface import DataSets
from tests.unit.config.test_wrong_input import BOMB

PROMPTS = (Prompt(prompt_id="p", text="say hello", answer="hello", task="echo"),)
DATA = DataSets(pool=PROMPTS, evaluation=PROMPTS)
IDENTITY = Identity(pool=pool_fingerprint(DATA), model="m1", code="abc/123")


def _config(directory: Path, num_steps: int, **learning: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"directory": directory, "num_steps": num_steps},
            "learning": {"lr_scheduler_type": "cosine", **learning},
        }
    )


def _commit(store: CheckpointStore, config: TrainConfig, num_steps_done: int, identity: Identity = IDENTITY) -> None:
    manifest = Manifest(
        num_steps_done=num_steps_done,
        counters={},
        next_selection=None,
        config=config.model_dump(mode="json"),
        pool_fingerprint=identity.pool,
        **identity.model_dump(exclude={"pool"}),
    )
    store.commit(store.begin(num_steps_done), manifest)


def _begin_with_20_steps_done(config: TrainConfig) -> None:
    _, store, _ = open_folder(config, DATA, IDENTITY, resume=False)
    _commit(store, config, 20)


def test_a_relative_run_directory_is_refused_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    check_run_folder(_config(Path("runs/lost"), 2), resume=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"^run\.directory: runs/lost would lie in the job's temporary working direc"):
        check_run_folder(_config(Path("runs/lost"), 2), resume=False)


def test_a_run_with_a_schedule_is_extended_at_its_lowest_rate_or_not_at_all(tmp_path: Path) -> None:
    first = _config(tmp_path, 20)
    _begin_with_20_steps_done(first)
    with pytest.raises(CheckpointError, match=r"learning\.total_training_steps: the cosine schedule .* update 20"):
        open_folder(_config(tmp_path, 40), DATA, IDENTITY, resume=True)
    _, _, found = open_folder(_config(tmp_path, 40, total_training_steps=20), DATA, IDENTITY, resume=True)
    assert found is not None
    assert found[1].num_steps_done == 20


def test_a_resume_on_another_day_tells_templates_the_first_day(tmp_path: Path) -> None:
    first_day = datetime.date(2026, 11, 26)
    config = _config(tmp_path, 20)
    first = config.model_copy(update={"run": config.run.model_copy(update={"date": first_day})})
    assert dated(first, resume=False).run.date == first_day
    open_folder(first, DATA, IDENTITY, resume=False)
    assert dated(config, resume=True).run.date == first_day
    assert dated(config, resume=False).run.date == datetime.date.today()


@pytest.mark.parametrize("left", ["metrics", "outcomes", "final model"])
def test_results_without_a_checkpoint_are_not_begun_anew_untold(tmp_path: Path, left: str) -> None:
    config = _config(tmp_path / "run", 4)
    folder, _, _ = open_folder(config, DATA, IDENTITY, resume=False)
    folder.metrics.append({"step": 0})
    open_folder(config, DATA, IDENTITY, resume=True)  # killed before manifest 0: nothing is lost
    if left == "metrics":
        folder.metrics.append({"step": 1})
    elif left == "outcomes":
        (folder.outcomes / "from_step_00000000.arrows").write_bytes(b"x")
    else:
        folder.final_model.mkdir()
    before = sorted(path.name for path in folder.root.rglob("*"))
    with pytest.raises(CheckpointError, match=r"results and no whole checkpoint.*--restart"):
        open_folder(config, DATA, IDENTITY, resume=True)
    assert sorted(path.name for path in folder.root.rglob("*")) == before


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(
    "name",
    [
        *("metrics.jsonl", "rollouts.jsonl", "notes.jsonl", "verifier_notes.jsonl"),
        *("config.yaml", "identity.json", "run_id", "outcomes/segments.jsonl", "probes/from_step_00000000.arrows"),
    ],
)
def test_what_is_no_plain_file_is_said_and_not_waited_for(
    tmp_path: Path, name: str, kind: Callable[[Path], None]
) -> None:
    config = _config(tmp_path, 20, total_training_steps=20)
    _begin_with_20_steps_done(config)
    (tmp_path / name).unlink(missing_ok=True)
    kind(tmp_path / name)
    for look in (
        lambda: check_resume(config, DATA),
        lambda: check_run_folder(config, resume=True),
    ):
        with pytest.raises(CheckpointError, match=rf"run\.directory: .*{name}: expected a plain file; .*--restart"):
            look()


@pytest.mark.parametrize("name", ["manifest.json", "learner"])
def test_a_pipe_in_a_checkpoint_is_said_and_not_waited_for(tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, 20, total_training_steps=20)
    _begin_with_20_steps_done(config)
    (tmp_path / "checkpoints" / "step_000020.0" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "checkpoints" / "step_000020.0" / name)
    with pytest.raises(CheckpointError, match="expected a plain file"):
        check_resume(config, DATA)


def test_with_a_whole_checkpoint_no_other_record_is_needed(tmp_path: Path) -> None:
    config = _config(tmp_path, 20, total_training_steps=20)
    _begin_with_20_steps_done(config)
    for name in ("config.yaml", "identity.json", "metrics.jsonl", "rollouts.jsonl", "run_id"):
        (tmp_path / name).write_text("{")
    check_resume(config, DATA)
    dated(config, resume=True)
    _, _, found = open_folder(config, DATA, IDENTITY, resume=True)
    assert found is not None
    assert found[1].num_steps_done == 20


@pytest.mark.parametrize("line", ["{", "[]", "5", "null", "[" * 200_000, "\xff", '{"a": 1}', '{"step": "x"}'])
def test_notes_that_cannot_be_read_are_dropped_and_said(tmp_path: Path, line: str) -> None:
    config = _config(tmp_path, 20, total_training_steps=20)
    _begin_with_20_steps_done(config)
    (tmp_path / "notes.jsonl").write_bytes(b'{"step": 0, "note": "kept"}\n' + line.encode("latin-1") + b"\n")
    open_folder(config, DATA, IDENTITY, resume=True)
    kept, dropped = (json.loads(text) for text in (tmp_path / "notes.jsonl").read_text().splitlines())
    assert kept == {"step": 0, "note": "kept"}
    assert dropped == {"step": 20, "note": "notes.jsonl: 1 lines that cannot be read are dropped"}


def test_a_restart_moves_the_old_run_aside_unless_it_is_driven(tmp_path: Path) -> None:
    config = _config(tmp_path / "run", 4)
    assert move_aside(config) is None
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mark").write_text(str(number))
        assert move_aside(config) == tmp_path / f"run.old-{number}"
        assert (tmp_path / f"run.old-{number}" / "mark").read_text() == str(number)
    assert not (tmp_path / "run").exists()
    with Lease(tmp_path / "run", 60), pytest.raises(CheckpointError, match="is held by process"):
        move_aside(config)


def test_a_resume_with_fewer_steps_than_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _config(tmp_path, 20, total_training_steps=20)
    _begin_with_20_steps_done(first)
    open_folder(_config(tmp_path, 10, total_training_steps=20), DATA, IDENTITY, resume=True)
    assert "20 steps are done, run.num_steps asks for 10" in capsys.readouterr().out


@pytest.mark.parametrize("left", ["a checkpoint", "nothing but its record"])
def test_another_model_is_refused_and_another_code_said(
    tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, 20, total_training_steps=20)
    folder, store, _ = open_folder(config, DATA, IDENTITY, resume=False)
    if left == "a checkpoint":
        _commit(store, config, 2)
    with pytest.raises(CheckpointError, match=r"model\.path: the run's model is m1, the one in its place now is m2"):
        open_folder(config, DATA, IDENTITY.model_copy(update={"model": "m2"}), resume=True)
    with pytest.raises(CheckpointError, match="pool is"):
        open_folder(config, DATA, IDENTITY.model_copy(update={"pool": "other"}), resume=True)
    with pytest.raises(CheckpointError, match=r"learning\.learning_rate: the run was made with"):
        open_folder(_config(tmp_path, 20, total_training_steps=20, learning_rate=0.5), DATA, IDENTITY, resume=True)
    open_folder(config, DATA, IDENTITY.model_copy(update={"code": "def/123"}), resume=True)
    assert "code" not in capsys.readouterr().out  # another commit of the same sources
    open_folder(config, DATA, IDENTITY.model_copy(update={"code": "def/456"}), resume=True)
    if left == "a checkpoint":
        assert "resume: the run was made with code abc/123, this is def/456" in capsys.readouterr().out
        assert "def/456" in folder.notes.read_text()


@pytest.mark.parametrize("content", ["{", "5", "run: 5", "[" * 3000, '{"a": ' * 3000, "\xff", BOMB, "", "{}\n---\n{}"])
def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path, content: str) -> None:
    config = _config(tmp_path, 20)
    folder, _, _ = open_folder(config, DATA, IDENTITY, resume=False)
    folder.config.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"its own record cannot be read .*--restart"):
        dated(config, resume=True)
    with pytest.raises(CheckpointError, match=r"its own record cannot be read .*--restart"):
        open_folder(config, DATA, IDENTITY, resume=True)


def test_an_edited_reward_function_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    rewards = tmp_path / "rewards_of_a_run.py"
    rewards.write_text("def reward(response):\n    return 'hello' in response\n")
    config = TrainConfig.model_validate(
        {"run": {"directory": tmp_path / "run"}, "data": {"task": "rewards_of_a_run:reward"}}
    )
    first = run_identity(config, DATA, None)
    folder, store, _ = open_folder(config, DATA, first, resume=False)
    _commit(store, config, 2, first)
    open_folder(config, DATA, run_identity(config, DATA, None), resume=True)
    assert "data.task" not in capsys.readouterr().out
    rewards.write_text("def reward(response):\n    return 'Hello' in response\n")
    check_resume(config, DATA)  # allowed: a verifier may have to be mended
    open_folder(config, DATA, run_identity(config, DATA, None), resume=True)
    assert "data.task: the verifier's file" in capsys.readouterr().out
    assert "data.task: the verifier's file" in folder.notes.read_text()
