"""Weights by CUDA IPC: another process on the same GPU reads what the learner published, version by version."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from gps_ray.model import load_model, weights_of
from gps_ray.weights.interface import PublisherSettings
from gps_ray.weights.ipc import IpcPayload, IpcPublisher, check_same_gpu
from tests.unit.learning.rollouts import make_model
from tests.vllm_process import ArraySource, moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]


def _reader(pipe: Any) -> None:
    """The engine's side: sums of every tensor of each payload that comes, as float64."""
    torch.cuda.init()
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    opened: dict[int, list[torch.Tensor]] = {}
    while (message := pipe.recv()) is not None:
        key, payload = message
        check_same_gpu(payload, uuid)
        if key not in opened:
            opened[key] = [rebuild_cuda_tensor(*handle[uuid]) for handle in payload.handles]
        pipe.send([float(tensor.double().sum()) for tensor in opened[key]])
    opened.clear()


def test_every_version_is_read_by_another_process(tmp_path: Path) -> None:
    weights = weights_of(load_model(make_model(tmp_path / "model")))
    publisher = IpcPublisher(
        PublisherSettings(rank=0, dtype="bfloat16", num_live_versions=2, deadline_s=1, host="127.0.0.1")
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_reader, args=(theirs,))
    process.start()
    try:
        for version in range(1, 6):
            weights = moved(weights, version)
            payload: IpcPayload = publisher.publish(ArraySource(version, weights, torch.device("cuda")))
            ours.send((version % 2, payload))
            assert ours.poll(60), "the other process is gone"
            expected = [
                float(torch.from_numpy(np.asarray(weights[name])).bfloat16().double().sum())
                for name in payload.tensors.names
            ]
            assert ours.recv() == pytest.approx(expected, abs=1e-9)
    finally:
        ours.send(None)
        process.join(60)
        publisher.close()
    assert process.exitcode == 0
