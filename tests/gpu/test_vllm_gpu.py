"""vLLM on GPUs: log-probs against transformers after an update, on one GPU and on two."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from gps_ray.model import weights_of
from gps_ray.rollout.torch_engine import TorchEngine
from tests.vllm_process import engine_process, make_folder, make_request, moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_an_update_is_served_in_bfloat16(tmp_path: Path, num_ranks: int, tied: bool) -> None:
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} GPUs")
    folder = make_folder(tmp_path / "model", hidden_size=256, num_heads=4, tie_embeddings=tied)
    reference = TorchEngine(folder)
    with engine_process(folder, "bfloat16", num_gpus=1, tensor_parallel_size=num_ranks) as call:
        for version in (1, 2):
            weights = moved(weights_of(reference.model), version)
            call("load_weights", version, weights)
            reference.load_weights(version, weights)
            text = np.arange(3, 30, dtype=np.int32)
            np.testing.assert_allclose(call("logprobs", text), reference.logprobs(text), atol=0.2)
            for group in call("generate", make_request(temperature=1.0)):
                for response in group.responses:
                    whole = reference.logprobs(np.concatenate([group.prompt_tokens, response.tokens]))
                    sampled = whole[len(group.prompt_tokens) - 1 :]
                    np.testing.assert_allclose(response.sampled_logprobs, sampled, atol=0.2)
