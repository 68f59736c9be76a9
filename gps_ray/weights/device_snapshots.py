"""The policy's last versions in the GPU's memory, for engines that read them there (CUDA IPC) or are sent them (NCCL).

Handing out the parameters themselves would be wrong: an engine may read a version while the learner trains the next, as
a restarted worker does, and every worker where rollouts run ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["DeviceSnapshots", "TensorList", "tensor_list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorList:
    """What an engine is to receive, in order: names, dtypes as torch calls them, shapes; equally long."""

    names: tuple[str, ...]
    dtype_names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def update_info(self) -> dict[str, Any]:
        """As vLLM's backends read it."""
        return {
            "names": list(self.names),
            "dtype_names": list(self.dtype_names),
            "shapes": [list(shape) for shape in self.shapes],
        }


def tensor_list(copies: Mapping[str, Tensor]) -> TensorList:
    return TensorList(
        names=tuple(copies),
        dtype_names=tuple(str(copy.dtype).removeprefix("torch.") for copy in copies.values()),
        shapes=tuple(tuple(copy.shape) for copy in copies.values()),
    )


D = TypeVar("D")


class DeviceSnapshots(Generic[D]):
    """A ring of ``num_versions`` (``RunConfig.num_live_versions``) copies of the parameters on their device, floats in
    ``dtype``.

    The copies are allocated once and overwritten in turn; ``describe`` is called once for each, because what it exports
    (CUDA IPC) would leak if it were exported per version.
    """

    def __init__(self, num_versions: int, dtype: torch.dtype, describe: Callable[[Mapping[str, Tensor]], D]) -> None:
        self._num_versions = num_versions
        self._dtype = dtype
        self._describe = describe
        self._copies: list[dict[str, Tensor]] = []
        self._descriptions: list[D] = []
        self._versions: list[int | None] = []
        self._num_published = 0

    @torch.no_grad()
    def publish(self, policy_version: int, parameters: Iterable[tuple[str, Tensor]]) -> D:
        """Copy the parameters (by Hugging Face names) and return the description of the copies. It holds until
        ``num_versions`` more have been published."""
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
            self._descriptions.append(self._describe(copies))
        if torch.cuda.is_available():
            # The reader waits for what was under way when the memory was exported, not for this copy. This thread's
            # stream alone: on others a send may be waiting for its engine.
            torch.cuda.current_stream().synchronize()
        self._versions[turn] = policy_version
        return self._descriptions[turn]

    def copies(self, policy_version: int) -> Mapping[str, Tensor] | None:
        """The tensors of a version in the order of their description, None where it is not held (any more)."""
        try:
            # One step: another thread may be publishing.
            turn = self._versions.index(policy_version)
        except ValueError:
            return None
        return self._copies[turn]

    def close(self) -> None:
        """Hold no version any more and let go of the memory."""
        self._versions, self._copies, self._descriptions, self._num_published = [], [], [], 0

    def _empty(self, parameter: Tensor) -> Tensor:
        dtype = self._dtype if parameter.is_floating_point() else parameter.dtype
        return torch.empty(parameter.shape, dtype=dtype, device=parameter.device)
