from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.config import TrainConfig
from gps_ray.run.folder import RunFolder
from gps_ray.study.arms import by_selector, by_variant, is_left, run_config


def _variants(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "variants.yaml"
    file.write_text(text)
    return file


def test_each_selector_runs_with_its_own_preset() -> None:
    arms = by_selector(TrainConfig(), ("uniform", "gps_fused"))
    runs = {name: run_config(config, name, 3, Path("out")) for name, config in arms.items()}
    assert [run.selection.predictor for run in runs.values()] == [None, "fused"]
    assert runs["uniform"].run.seed == 3
    assert runs["uniform"].run.directory == Path("out/uniform/seed_3")


def test_variants_lie_over_the_config_and_under_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("run: {num_steps: 7}\nselection: {selector: gps_fused, num_prompts: 8}\n")
    variants = _variants(tmp_path, "plain: []\nhalf: [selection.num_prompts=4, run.num_steps=14]\n")
    arms = by_variant(config, variants, ["selection.random_share=0.5", "run.num_steps=9"])
    assert list(arms) == ["plain", "half"]
    for arm, num_prompts in zip(arms.values(), (8, 4), strict=True):
        assert arm.selection.num_prompts == num_prompts
        assert (arm.selection.random_share, arm.run.num_steps) == (0.5, 9)
    assert run_config(arms["half"], "half", 0, Path("out")).run.directory == Path("out/half/seed_0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds none"),
        ("- uniform\n", r"got \['uniform'\]"),
        ("a: [\n", "is not YAML"),
        ("a: selection.selector=gps\n", "a must be a list of section.key=value"),
        ("a: [{selection.selector: gps}]\n", "a must be a list of section.key=value"),
        ("../a: []\n", "a variant's name becomes a folder"),
        ("1: []\n", "a variant's name becomes a folder"),
        ("a: [selection.selector=best]\n", "selection.selector"),
        ("a: [selection.exponent=2]\n", "selection.exponent: unknown key"),
        ("a: []\nb: [data.task=arithmetic]\n", "b differs from a in data"),
        ("a: []\nb: [warm_start.num_steps=10]\n", "b differs from a in warm_start"),
        ("a: []\nb: [evaluation.num_probe_prompts=8]\n", "b differs from a in evaluation.num_probe_prompts"),
    ],
)
def test_what_is_wrong_with_variants_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        by_variant(None, _variants(tmp_path, text), [])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--variants: cannot read .*none\.yaml"):
        by_variant(None, tmp_path / "none.yaml", [])


def test_a_finished_run_of_another_config_is_not_taken_for_this_one(tmp_path: Path) -> None:
    arm = by_selector(TrainConfig(), ("gps_fused",))["gps_fused"]
    run = run_config(arm, "gps_fused", 0, tmp_path)
    assert is_left(run)
    folder = RunFolder(run.run.directory)
    folder.create(run, {})
    folder.metrics.append({"step": run.run.num_steps})
    folder.final_model.mkdir()
    assert is_left(run)  # not exported yet
    (folder.final_model / "config.json").write_text("{}")
    assert not is_left(run)

    # Elsewhere, and written before there was such a key as learning.max_skipped_updates: the same run.
    moved = run_config(arm, "moved", 0, tmp_path)
    moved.run.directory.parent.mkdir()
    folder.root.rename(moved.run.directory)
    file = moved.run.directory / "config.yaml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if "max_skipped_updates" not in line))
    assert not is_left(moved)

    # Computed in another way, the same run.
    learning = moved.learning.model_copy(update={"microbatch_tokens": 512, "num_workers": 2, "update_deadline_s": 9})
    assert not is_left(moved.model_copy(update={"learning": learning}))

    learning = moved.learning.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(CheckpointError, match=r"moved/seed_0: learning\.learning_rate: .*0\.0001.*0\.5"):
        is_left(moved.model_copy(update={"learning": learning}))
    cosine = run.learning.model_copy(update={"lr_scheduler_type": "cosine"})
    file.write_text(run.model_copy(update={"learning": cosine}).model_dump_json())
    learning = cosine.model_copy(update={"total_training_steps": 91})
    with pytest.raises(CheckpointError, match=r"learning\.total_training_steps: the cosine .* 90, this config's at 91"):
        is_left(moved.model_copy(update={"learning": learning}))
    file.write_text("run: {gone: 1}\n")
    with pytest.raises(CheckpointError, match=r"moved/seed_0: run\.gone: unknown key"):
        is_left(moved)
    # More steps: it goes on from there.
    longer = moved.run.model_copy(update={"num_steps": moved.run.num_steps + 1})
    assert is_left(moved.model_copy(update={"run": longer}))


def test_no_selector_at_all() -> None:
    with pytest.raises(ConfigError, match="--selectors: expected names"):
        by_selector(TrainConfig(), ())


def test_the_ablations_of_the_repository_are_valid() -> None:
    configs = Path(__file__).parents[3] / "configs"
    small_groups = by_variant(configs / "compare_heterogeneous.yaml", configs / "small_groups.yaml", [])
    assert {arm.selection.num_prompts * arm.rollout.group_size for arm in small_groups.values()} == {256}
    arms = by_variant(configs / "compare_heterogeneous.yaml", configs / "ablations.yaml", [])
    runs = [run_config(arm, name, 0, Path("out")) for name, arm in arms.items()]
    assert len({repr(run.selection) for run in runs}) == len(arms)
