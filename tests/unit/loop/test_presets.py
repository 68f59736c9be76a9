"""Defaults that fit the model, and the configs of the paper's models on folders without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Prompt
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.plan import check_data, describe, prompt_limit, resolve
from gps_ray.loop.presets import presets
from gps_ray.tasks.dataset import load_data, prompt_id, write_prompts
from tests.unit.loop.model_folders import MODELS, SMALL, TEMPLATE, model_folder

CONFIGS = Path(__file__).parents[3] / "configs"


def _config(model: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, None, [f"model.path={model}", *overrides])


@pytest.mark.parametrize(
    "file",
    # The mixture makes its prompts itself, and the demo's test walks it.
    [
        path
        for path in sorted(CONFIGS.glob("*.yaml"))
        if (tree := yaml.safe_load(path.read_text()) or {}).get("model") and tree["data"]["task"] != "reasoning_gym"
    ],
    ids=lambda path: path.stem,
)
def test_the_configs_of_real_models_pass_a_dry_run(file: Path, tmp_path: Path, tokenizer: Path) -> None:
    written = yaml.safe_load(file.read_text())
    name = Path(written["model"]["path"]).name
    model = model_folder(tmp_path / name, tokenizer, MODELS[name][0])
    answers = {"countdown": '{{"numbers": [1, {}], "target": {}}}', "math": "{1}"}
    answer = answers[written["data"]["task"]]
    sets = {"pool": range(2, 80), "evaluation": range(300, 310)}
    for key, numbers in sets.items():
        made = [(f"What is one and {i}", answer.format(i, i + 1), written["data"]["task"]) for i in numbers]
        prompts = [Prompt(prompt_id=prompt_id(task, *it), text=it[0], answer=it[1], task=task) for *it, task in made]
        write_prompts(tmp_path / f"{key}.parquet", prompts)
    files = [f"data.{key}_file={tmp_path / key}.parquet" for key in sets]
    written_config = load_config(TrainConfig, file, [*files, f"model.path={model}"])
    config = resolve(written_config)
    data = load_data(config.data, config.evaluation.num_probe_prompts, prompt_limit(config))
    check_data(config, data)
    shown = describe(config, data)
    assert f"max_response_tokens: {written['rollout']['max_response_tokens']}" in shown
    assert "<|user|>What is one and 2<|assistant|>" in shown
    assert any("evaluation.num_probe_prompts: 64 (preset for " in str(preset) for preset in presets(written_config))
    assert (config.learning.learning_rate, config.evaluation.num_probe_prompts) == (1e-6, 64)


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_those_of_the_model_cards(name: str, tmp_path: Path, tokenizer: Path) -> None:
    from gps_ray.model.model_facts import model_facts

    config, billions = MODELS[name]
    facts = model_facts(model_folder(tmp_path / name, tokenizer, config))
    assert facts.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_vllm_on_cpus_takes_what_one_pass_holds(tmp_path: Path, tokenizer: Path) -> None:
    """Or it would not start: a prompt is never cut there, and the model takes more than a pass holds."""
    model = model_folder(tmp_path / "long", tokenizer, {**SMALL, "max_position_embeddings": 8192})
    config = resolve(_config(model, "rollout.engine=vllm"))
    assert config.rollout.vllm.max_model_len == config.rollout.vllm.max_num_batched_tokens == 4096
    assert resolve(TrainConfig.model_validate(config.model_dump(mode="json"))) == config
    own = resolve(_config(model, "rollout.engine=vllm", "rollout.vllm.max_num_batched_tokens=600"))
    assert (own.rollout.vllm.max_model_len, own.rollout.max_response_tokens) == (600, 300)
    assert resolve(_config(model)).rollout.vllm.max_model_len is None
    assert (
        resolve(_config(model, "rollout.engine=vllm", "rollout.vllm.max_model_len=5000")).rollout.vllm.max_model_len
        == 5000
    )


def test_nothing_of_the_toy_reaches_a_real_model_and_explicit_keys_win(tmp_path: Path, tokenizer: Path) -> None:
    model = model_folder(tmp_path / "small", tokenizer, SMALL)
    config = resolve(_config(model))
    toy = TrainConfig()
    found = (config.rollout.max_response_tokens, config.learning.learning_rate, config.evaluation.probe_rollouts)
    assert found == (512, 1e-5, 8)
    assert config.rollout.vllm.kv_cache_memory_bytes == 1 << 30
    assert config.cluster.object_store_memory_bytes == 2 << 30  # SmolLM2's shape: 3 x 538 MB and a quarter
    assert config.rollout.chunk_deadline_s > toy.rollout.chunk_deadline_s
    own = resolve(_config(model, "rollout.max_response_tokens=16", "learning.learning_rate=2e-4"))
    assert (own.rollout.max_response_tokens, own.learning.learning_rate) == (16, 2e-4)
    assert resolve(_config(model, "learning.lora_rank=8")).learning.learning_rate == pytest.approx(1e-4)
    # A resume reads the values from the run folder, or finds them again: both are the same config.
    assert resolve(TrainConfig.model_validate(config.model_dump(mode="json"))) == config == resolve(config)


def test_a_model_that_thinks_gets_room_to_finish(tmp_path: Path, tokenizer: Path) -> None:
    model = model_folder(
        tmp_path / "small", tokenizer, SMALL | {"max_position_embeddings": 40960}, TEMPLATE + "<think>"
    )
    assert resolve(_config(model)).rollout.max_response_tokens == 8192
    silent = _config(model, "data.chat_template_kwargs={enable_thinking: false}")
    assert resolve(silent).rollout.max_response_tokens == 512
    served = _config(model, "rollout.engine=vllm", "rollout.vllm.max_model_len=1024")
    assert resolve(served).rollout.max_response_tokens == 512


def test_the_embedded_model_and_toys_keep_their_defaults(tokenizer: Path) -> None:
    assert presets(TrainConfig()) == []
    assert presets(_config(tokenizer)) == []


def test_what_the_model_takes_less_the_response_is_the_longest_prompt(tmp_path: Path, tokenizer: Path) -> None:
    model = model_folder(tmp_path / "small", tokenizer, SMALL | {"max_position_embeddings": 64})
    config = resolve(_config(model, "rollout.max_response_tokens=44", "evaluation.max_response_tokens=54"))
    limit = prompt_limit(config)
    assert limit is not None
    assert (limit.pool, limit.evaluation) == (20, 10)
    texts = {"short": "one two", "long": "one " * 40}
    prompts = [Prompt(prompt_id=name, text=text, answer="1", task="t") for name, text in texts.items()]
    short, long = limit.lengths(prompts)
    assert short <= 20
    assert long > 40
    own = prompt_limit(resolve(_config(model, "rollout.max_response_tokens=44", "data.max_prompt_tokens=7")))
    assert own is not None
    assert (own.pool, own.why) == (7, "data.max_prompt_tokens=7")
    suite = ("rollout.max_response_tokens=44", "evaluation.suites.s.file=s.parquet")
    in_suite = prompt_limit(resolve(_config(model, *suite, "evaluation.suites.s.max_response_tokens=60")))
    assert in_suite is not None
    assert in_suite.suites == {"s": 4}
    with pytest.raises(ConfigError, match=r"evaluation\.suites\.s\.max_response_tokens: 70 tokens leave no room"):
        prompt_limit(resolve(_config(model, *suite, "evaluation.suites.s.max_response_tokens=70")))
    with pytest.raises(ConfigError, match=r"rollout\.max_response_tokens: 64 tokens leave no room"):
        prompt_limit(resolve(_config(model, "rollout.max_response_tokens=64")))


def test_a_hub_id_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"hf download nobody/no-such-model --local-dir FOLDER") as caught:
        resolve(_config(Path("nobody/no-such-model")))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"model\.path: no folder .*/absent; give a local"):
        resolve(_config(tmp_path / "absent"))
