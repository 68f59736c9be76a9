"""A policy to publish and the two ends of its way, for tests with and without processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gps_ray.weights.interface import PublisherSettings, ReceiverSettings
from gps_ray.weights.nccl import NcclReceiver

WAIT_S = 30


def publisher_settings(deadline_s: float = WAIT_S) -> PublisherSettings:
    return PublisherSettings(rank=0, dtype="float32", num_live_versions=2, deadline_s=deadline_s, host="127.0.0.1")


@dataclass
class NumberedPolicy:
    """A ``WeightSource``: a filled with its version, b with minus that."""

    policy_version: int
    num_more: int = 0

    def weights(self) -> Mapping[str, Any]:
        raise AssertionError("the parameters stay on the GPU")

    def device_weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.full((2,), float(self.policy_version))
        yield "b", torch.full((3,), -float(self.policy_version))
        yield from ((f"more.{i}", torch.zeros(1)) for i in range(self.num_more))


def nccl_receiver(num_ranks: int = 1) -> NcclReceiver:
    return NcclReceiver(ReceiverSettings(num_ranks=num_ranks, deadline_s=WAIT_S))
