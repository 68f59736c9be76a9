"""gps-ray's own backend of vLLM's weight-transfer protocol: the policy's arrays as they come out of the object store.

Named by ``worker_extension_cls``, so every tensor-parallel rank imports this module before it builds its model: that is
what makes the backend known to it. It is the only module of this room that cannot be imported
without vLLM (``nccl`` imports parts of it when a group is opened); ``object_store`` says what the backend is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from gps_ray.weights.host_arrays import tensors

__all__ = ["ObjectStoreTransfer", "WorkerExtension"]


class WorkerExtension:
    """Adds no method: vLLM's worker has all that the protocol needs."""


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """There is nothing to agree on."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """All parameters at once: ``arrays`` (name -> numpy array; bits of bfloat16 where ``bfloat16`` has the name) or,
    for a rank in another process, the path of a safetensors ``file``."""

    arrays: Mapping[str, Any] | None = None
    bfloat16: frozenset[str] = frozenset()
    file: str | None = None


class ObjectStoreTransfer(WeightTransferEngine):  # type: ignore[misc]
    """What vLLM's worker calls between ``start_weight_update`` and ``finish_weight_update``.

    The kernels hold packed copies of the weights: only vLLM's layerwise reload repacks them.
    """

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        # Asked before the reload takes the parameters apart: a tied head is the embeddings' own parameter until then.
        self._names = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """vLLM's own waits for the accelerator afterwards, and raises where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    @torch.no_grad()
    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Raises ValueError naming parameters that got nothing, and whatever vLLM raises for a name or a shape that it
        does not know. Where a part of a fused parameter is missing (q of qkv), only the probe after the load can tell.
        """
        arrays, file = update_info.arrays or {}, update_info.file
        pairs = tensors(arrays, update_info.bfloat16) if file is None else _from_file(file)
        missing = self._names - self.model.load_weights(pairs)
        if missing:
            raise ValueError(f"nothing was loaded into {', '.join(sorted(missing)[:3])} ({len(missing)} parameters)")

    @torch.no_grad()
    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()

    def _repack_tied_head(self) -> None:
        """A tied output head has no weights of its own in a checkpoint, so the reload passes it by; on CPU it computes
        from a packed copy, which would stay that of the old embeddings."""
        if getattr(self.model_config.hf_config, "tie_word_embeddings", False):
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        pass


# Under the name that the transport has for it.
WeightTransferEngineFactory.register_engine("object_store", ObjectStoreTransfer)


def _from_file(file: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (no mapping)
            yield name, tensors.get_tensor(name)
