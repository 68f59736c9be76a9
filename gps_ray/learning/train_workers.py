"""The train workers that share one update: who is who, and the few sums they exchange."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

__all__ = ["TrainWorkers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainWorkers:
    """``rank`` of the ``size`` processes of one process group; their tensors meet on ``device``."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls, device: torch.device) -> TrainWorkers:
        """This process among those of its process group; alone without one."""
        if not torch.distributed.is_initialized():
            return cls(device=device)
        return cls(rank=torch.distributed.get_rank(), size=torch.distributed.get_world_size(), device=device)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over workers of a CPU tensor; the same everywhere, to the bit."""
        return self._reduce(values, torch.distributed.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        return self._reduce(values, torch.distributed.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        shared = values.to(self.device, copy=True)
        torch.distributed.all_reduce(shared, operation)
        return shared.cpu()
