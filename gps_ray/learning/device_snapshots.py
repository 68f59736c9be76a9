"""The policy's last versions in the GPU's memory, for engines that share the GPU (CUDA IPC).

Handing out the parameters themselves would be wrong: an engine may read a version while the learner trains the next, as
a restarted worker does, and every worker where rollouts run ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

__all__ = ["DeviceSnapshots", "ipc_handle"]


def ipc_handle(tensor: Tensor) -> dict[str, Any]:
    """GPU UUID -> arguments of torch's ``rebuild_cuda_tensor``, as vLLM's ipc backend reads them."""
    _, arguments = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return {str(torch.cuda.get_device_properties(tensor.device).uuid): arguments}


class DeviceSnapshots:
    """A ring of ``num_versions`` (``RunConfig.num_live_versions``) copies of the parameters on their device, floats in
    ``dtype``.

    The copies are allocated and exported once and overwritten in turn: an export per version would leak, because torch
    keeps exported memory until every receiver has let it go, and a killed worker never does.
    """

    def __init__(
        self, num_versions: int, dtype: torch.dtype, export: Callable[[Tensor], dict[str, Any]] = ipc_handle
    ) -> None:
        self._num_versions = num_versions
        self._dtype = dtype
        self._export = export
        self._copies: list[dict[str, Tensor]] = []
        self._messages: list[dict[str, Any]] = []
        self._num_published = 0

    @torch.no_grad()
    def publish(self, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """Copy the parameters (by Hugging Face names) and return vLLM's update message: ``names``, ``dtype_names``,
        ``shapes`` and ``ipc_handles``, equally long. It holds until ``num_versions`` more have been published."""
        turn = self._num_published % self._num_versions
        self._num_published += 1
        if turn == len(self._copies):
            self._add({name: self._empty(parameter) for name, parameter in parameters.items()})
        for name, copy in self._copies[turn].items():
            copy.copy_(parameters[name])
        if torch.cuda.is_available():
            # The reader waits for what was under way when the memory was exported, not for this copy.
            torch.cuda.synchronize()
        return self._messages[turn]

    def _empty(self, parameter: Tensor) -> Tensor:
        dtype = self._dtype if parameter.is_floating_point() else parameter.dtype
        return torch.empty(parameter.shape, dtype=dtype, device=parameter.device)

    def _add(self, copies: dict[str, Tensor]) -> None:
        self._copies.append(copies)
        self._messages.append(
            {
                "names": list(copies),
                "dtype_names": [str(copy.dtype).removeprefix("torch.") for copy in copies.values()],
                "shapes": [list(copy.shape) for copy in copies.values()],
                "ipc_handles": [self._export(copy) for copy in copies.values()],
            }
        )
