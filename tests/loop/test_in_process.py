"""A run without Ray, with the real engine, verifiers, selector and learner on a small model."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

from examples import own_task
from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.in_process import run_in_process
from gps_ray.loop.plan import resolve
from gps_ray.model import make_embedded_model
from gps_ray.run.folder import RunFolder
from gps_ray.run.metrics import read_metrics
from gps_ray.run.outcomes import read_outcomes
from gps_ray.tasks.countdown import Countdown
from gps_ray.tasks.dataset import load_data
from tests.own_data import make_own_model

MEASURED = ("timing_s/", "cost/wall", "cost/cpu", "rollout/tokens_per_s")


def _run(folder: Path, model: Path, *overrides: str) -> Path:
    config = load_config(
        TrainConfig,
        None,
        (
            f"run.directory={folder}",
            "run.num_steps=2",
            "data.countdown.num_pool_prompts=64",
            "data.countdown.num_evaluation_prompts=8",
            "data.countdown.num_heldout_probe_prompts=8",
            f"selection.features.cache_directory={folder.parent / 'features'}",
            "selection.selector=gps_fused",
            "selection.num_prompts=8",
            "evaluation.every_steps=2",
            "evaluation.num_probe_prompts=8",
            "evaluation.probe_rollouts=2",
            *overrides,
        ),
    )
    run_in_process(resolve(config), load_data(config.data, config.evaluation.num_probe_prompts), model)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = load_config(TrainConfig, None, ()).model.embedded
    make_embedded_model(config, Countdown().vocabulary(), folder)
    return folder


def test_a_run_in_one_process_is_a_run_and_the_same_again(tmp_path: Path, model: Path) -> None:
    rows = [read_metrics(_run(tmp_path / name, model) / "metrics.jsonl") for name in ("a", "b")]
    assert [row["step"] for row in rows[0]] == [0, 1, 2]
    assert rows[0][-1]["cost/num_rollouts"] == 2 * 8 * 8
    assert RunFolder(tmp_path / "a").is_finished(2)
    kept = [[{key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in run] for run in rows]
    assert kept[0] == kept[1]


def test_one_response_per_prompt_trains_against_what_was_predicted(tmp_path: Path, model: Path) -> None:
    folder = _run(tmp_path / "a", model, "learning.loss=posterior_baseline", "rollout.group_size=1")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert last["cost/num_rollouts"] == 2 * 8
    assert last["train/num_groups_trained"] == 8
    assert last["train/posterior_weight"] == 1


def test_a_folder_that_is_there_and_several_processes_are_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match=r"run\.directory: .* is there already"):
        _run(tmp_path / "there", model)
    with pytest.raises(ConfigError, match=r"learning\.num_workers=1"):
        _run(tmp_path / "two", model, "learning.num_workers=2")


def test_a_run_that_reads_its_policy_chooses_by_it(tmp_path: Path, model: Path) -> None:
    """The states are read once, before the first step, and change what is chosen as soon as there are outcomes."""
    told = "selection.features.policy_states=true"
    chosen = {}
    for name, overrides in {"blind": (), "told": (told,)}.items():
        folder = _run(tmp_path / name, model, *overrides, "selection.random_share=0")
        outcomes = read_outcomes(RunFolder(folder).outcomes)
        chosen[name] = [outcomes.filter(pc.field("step") == step)["prompt_id"].to_pylist() for step in (1, 2)]
    assert chosen["told"][0] == chosen["blind"][0]
    assert chosen["told"][1] != chosen["blind"][1]
    assert len(list((tmp_path / "features").glob("states_*.safetensors"))) == 1


def test_the_example_of_an_own_task_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_task.write_data(own_task.FOLDER)
    model = make_own_model(tmp_path / "model")
    fewer = ["run.num_steps=2", "evaluation.num_probe_prompts=0", "evaluation.rollouts_per_prompt=1"]
    config = load_config(TrainConfig, None, [*own_task.settings(model), *fewer])
    run_in_process(resolve(config), load_data(config.data, 0), model)
    rows = read_metrics(config.run.directory / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[-1]["rollout/num_rollouts"] == 64
    assert rows[-1]["rollout/num_failed"] == 0
