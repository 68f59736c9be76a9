"""The torch engine on a GPU gives the log-probs of the CPU, up to rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gps_ray.config import EmbeddedModelConfig, RolloutConfig
from gps_ray.model import make_embedded_model
from gps_ray.rollout.chunk import build_engine
from gps_ray.rollout.torch_engine import TorchEngine
from tests.vllm_process import WORDS, make_request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.2)])
def test_sampled_logprobs_on_the_gpu_are_those_of_the_cpu(tmp_path: Path, dtype: str, tolerance: float) -> None:
    make_embedded_model(EmbeddedModelConfig(hidden_size=256, num_heads=4), WORDS, tmp_path)
    reference = TorchEngine(tmp_path)
    engine = build_engine(RolloutConfig(num_gpus_per_worker=1), tmp_path, dtype)
    assert isinstance(engine, TorchEngine)
    assert engine.model.device.type == "cuda"
    for group in engine.generate(make_request(temperature=1.0)):
        for response in group.responses:
            whole = reference.logprobs(np.concatenate([group.prompt_tokens, response.tokens]))
            np.testing.assert_allclose(response.sampled_logprobs, whole[len(group.prompt_tokens) - 1 :], atol=tolerance)
