"""FSDP2 on a GPU, with one worker: the forward pass, the gradients and a checkpoint are those of the whole model."""

from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from gps_ray.learning.dcp import load_shards, save_shards
from gps_ray.learning.sharding import clip_gradients, device_weights, full_weights, shard
from gps_ray.learning.train_workers import TrainWorkers
from gps_ray.model import load_model
from tests.unit.learning.rollouts import make_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


@pytest.fixture
def worker() -> Iterator[TrainWorkers]:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = torch.device("cuda", 0)
    torch.distributed.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield TrainWorkers.current(device)
    torch.distributed.destroy_process_group()


def _loss(model: Any) -> torch.Tensor:
    tokens = torch.arange(3, 15, device="cuda")[None]
    loss: torch.Tensor = model(input_ids=tokens).logits.float().log_softmax(-1)[0, :, 5].mean()
    return loss


def test_a_sharded_model_computes_and_resumes_as_a_whole_one(tmp_path: Path, worker: TrainWorkers) -> None:
    folder = make_model(tmp_path / "model")
    whole, sharded = load_model(folder).to(worker.device), load_model(folder)
    shard(sharded, worker, torch.float32)
    losses, norms = [], []
    for model in (whole, sharded):
        loss = _loss(model)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(clip_gradients(model.parameters(), 1e9))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)

    save_shards({"model": get_model_state_dict(sharded)}, tmp_path / "checkpoint")
    again = load_model(folder)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    shard(again, worker, torch.float32)
    state = {"model": get_model_state_dict(again)}
    load_shards(state, tmp_path / "checkpoint")
    set_model_state_dict(again, state["model"])
    assert float(_loss(again).detach()) == pytest.approx(losses[1], abs=1e-6)
    gathered = full_weights(whole, worker)
    for name, tensor in device_weights(again):
        assert tensor.is_cuda
        assert (tensor.cpu().numpy() == gathered[name]).all(), name
