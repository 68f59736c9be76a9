"""What a run takes in memory and time, said from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError, ResourceError
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.memory_plan import check_memory_plan, memory_plan
from gps_ray.loop.plan import resolve
from gps_ray.loop.time_plan import time_plan
from gps_ray.model.activations import activation_facts
from tests.unit.loop.model_folders import MODELS, model_folder

_GPUS = (
    "rollout.engine=vllm",
    "rollout.num_gpus_per_worker=1",
    "learning.num_gpus_per_worker=1",
    "rollout.vllm.weight_transfer=nccl",
    "rollout.vllm.max_model_len=4096",
    "rollout.max_response_tokens=2048",
    "cluster.address=auto",
)


@pytest.fixture(scope="module")
def qwen_7b(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    directory = tmp_path_factory.mktemp("models") / "7b"
    return model_folder(directory, tokenizer, MODELS["DeepSeek-R1-Distill-Qwen-7B"][0])


def _config(model: Path, *overrides: str) -> TrainConfig:
    return resolve(load_config(TrainConfig, None, [f"model.path={model}", *_GPUS, *overrides]))


def test_activations_are_those_that_were_measured_on_a_gpu(tmp_path: Path) -> None:
    """docs/benchmarks.md, Qwen3-0.6B's shape: (41.99 - 23.87) GiB between 8,192 and 16,384 tokens, in bfloat16."""
    shape = MODELS["Qwen3-4B"][0] | {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072}
    shape |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    facts = activation_facts(tmp_path, "bfloat16", sharded=False)
    measured = (41.99 - 23.87) * 2**30 / 8192
    assert facts.bytes_per_token(checkpointing=False) == pytest.approx(measured, rel=0.1)
    assert facts.bytes_per_token(checkpointing=True) < measured / 10


def test_a_7b_model_on_one_gpu_is_refused_with_what_would_make_it_fit(qwen_7b: Path) -> None:
    with pytest.raises(ResourceError, match=r"AdamW 56\.\d .learning\.num_workers") as found:
        check_memory_plan(_config(qwen_7b, "cluster.gpu=H100-80GB"), 300)
    remedy = str(found.value).partition("it would fit with ")[2].split()
    assert "learning.activation_checkpointing=true" in remedy
    check_memory_plan(_config(qwen_7b, "cluster.gpu=H100-80GB", *remedy), 300)


def test_nothing_is_refused_where_the_gpu_is_not_known(qwen_7b: Path) -> None:
    config = _config(qwen_7b)
    check_memory_plan(config, 300)
    plan = memory_plan(config, 300)
    assert plan is not None
    assert plan.capacity is None
    assert time_plan(config, plan, 300) is None


def test_a_cache_that_holds_no_response_is_refused(qwen_7b: Path) -> None:
    # 28 layers x 2 x 4 heads x 128 x 2 bytes = 56 KiB per token, 2,348 of them.
    with pytest.raises(ResourceError, match=r"kv_cache_memory_bytes: 0\.1 GiB hold no response.*takes 0\.1"):
        check_memory_plan(_config(qwen_7b, "rollout.vllm.kv_cache_memory_bytes=120000000"), 300)
    check_memory_plan(_config(qwen_7b, "rollout.vllm.kv_cache_memory_bytes=135000000"), 300)


def test_the_slower_phase_limits_a_step(qwen_7b: Path) -> None:
    fits = ("cluster.gpu=H100-80GB", "learning.num_workers=8", "learning.activation_checkpointing=true")
    config = _config(qwen_7b, *fits, "rollout.num_workers=1")
    plan = memory_plan(config, 300)
    assert plan is not None
    times = time_plan(config, plan, 300)
    assert times is not None
    assert times.limit == "the rollouts limit it"
    # 32 x 8 responses of 1,024 tokens are read at 256 at a time: each step reads the weights and their caches once.
    assert 1024 * 0.006 < times.rollout_s < 1024 * 0.02
    assert times.step_s(0) == times.rollout_s + times.update_s
    assert times.step_s(1) == times.rollout_s


def test_an_unknown_gpu_is_named(qwen_7b: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.gpu: expected one of .*H100-80GB.*got 'H100'"):
        _config(qwen_7b, "cluster.gpu=H100")


def test_gpus_bring_graphs_bfloat16_and_the_learners_own_log_probs(qwen_7b: Path) -> None:
    config = _config(qwen_7b)
    assert not config.rollout.vllm.enforce_eager
    assert config.model.dtype == "bfloat16"
    assert (config.rollout.probe_tolerance, config.learning.rollout_is) == (0.5, "token")
    assert _config(qwen_7b, "learning.loss=gspo").learning.rollout_is == "sequence"
    own = _config(qwen_7b, "model.dtype=float32", "rollout.vllm.enforce_eager=true")
    assert (own.model.dtype, own.rollout.vllm.enforce_eager) == ("float32", True)
    assert (own.rollout.probe_tolerance, own.learning.rollout_is) == (1e-3, None)
