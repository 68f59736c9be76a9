"""The policy's last versions in the GPU's memory, for engines that read them there (CUDA IPC) or are sent them (NCCL).

Handing out the parameters themselves would be wrong: an engine may read a version while the learner trains the next, as
a restarted worker does, and every worker where rollouts run ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    ``dtype``; ``export`` makes a tensor's handle, None leaves handles out.

    The copies are allocated and exported once and overwritten in turn: an export per version would leak, because torch
    keeps exported memory until every receiver has let it go, and a killed worker never does.
    """

    def __init__(
        self, num_versions: int, dtype: torch.dtype, export: Callable[[Tensor], dict[str, Any]] | None = ipc_handle
    ) -> None:
        self._num_versions = num_versions
        self._dtype = dtype
        self._export = export
        self._copies: list[dict[str, Tensor]] = []
        self._messages: list[dict[str, Any]] = []
        self._versions: list[int | None] = []
        self._num_published = 0

    @torch.no_grad()
    def publish(self, policy_version: int, parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
        """Copy the parameters (by Hugging Face names) and return vLLM's update message: ``names``, ``dtype_names``,
        ``shapes`` and ``ipc_handles``, equally long. It holds until ``num_versions`` more have been published."""
        turn = self._num_published % self._num_versions
        self._num_published += 1
        is_new = turn == len(self._copies)
        if is_new:
            self._copies.append({})
            self._versions.append(None)
        copies = self._copies[turn]
        self._versions[turn] = None
        for name, parameter in parameters:
            if is_new:
                copies[name] = self._empty(parameter)
            copies[name].copy_(parameter)
        if is_new:
            self._messages.append(self._message(copies))
        if torch.cuda.is_available():
            # The reader waits for what was under way when the memory was exported, not for this copy. This thread's
            # stream alone: on others a send may be waiting for its engine.
            torch.cuda.current_stream().synchronize()
        self._versions[turn] = policy_version
        return self._messages[turn]

    def copies(self, policy_version: int) -> Mapping[str, Tensor] | None:
        """The tensors of a version in its message's order, None where it is not held (any more)."""
        try:
            # One step: another thread may be publishing.
            turn = self._versions.index(policy_version)
        except ValueError:
            return None
        return self._copies[turn]

    def _empty(self, parameter: Tensor) -> Tensor:
        dtype = self._dtype if parameter.is_floating_point() else parameter.dtype
        return torch.empty(parameter.shape, dtype=dtype, device=parameter.device)

    def _message(self, copies: Mapping[str, Tensor]) -> dict[str, Any]:
        message: dict[str, Any] = {
            "names": list(copies),
            "dtype_names": [str(copy.dtype).removeprefix("torch.") for copy in copies.values()],
            "shapes": [list(copy.shape) for copy in copies.values()],
        }
        if self._export is not None:
            message["ipc_handles"] = [self._export(copy) for copy in copies.values()]
        return message
