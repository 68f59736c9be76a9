"""What gps-ray adds to vLLM's own worker: replacing the policy's parameters in place.

Named by ``worker_extension_cls``, so vLLM mixes it into the worker of every tensor-parallel rank. This module and
``vllm_engine`` are the only ones that know vLLM.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

__all__ = ["PolicyLoader"]


class PolicyLoader:
    """Methods for ``LLM.collective_rpc``."""

    # Of vLLM's worker.
    vllm_config: Any
    model_runner: Any

    def load_policy(self, weights: Mapping[str, Any] | None, file: str = "") -> None:
        """Load ``weights`` (name -> numpy array) or, in another process, those of a safetensors ``file``.

        Raises ValueError naming parameters that got nothing, and whatever vLLM raises for a name or a shape that it
        does not know. Where a part of a fused parameter is missing (q of qkv), only the probe after the load can tell.
        """
        model = self.model_runner.get_model()
        missing = {name for name, _ in model.named_parameters()}
        with torch.no_grad(), set_current_vllm_config(self.vllm_config):
            # The kernels hold packed copies of the weights: only vLLM's layerwise reload repacks them.
            initialize_layerwise_reload(model)
            missing -= model.load_weights(_from_file(file) if weights is None else _from_arrays(weights))
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            self._repack_tied_head(model)
        if missing:
            raise ValueError(f"nothing was loaded into {', '.join(sorted(missing)[:3])} ({len(missing)} parameters)")

    def _repack_tied_head(self, model: torch.nn.Module) -> None:
        """A tied output head has no weights of its own in a checkpoint, so the reload passes it by; on CPU it computes
        from a packed copy, which would stay that of the old embeddings."""
        if getattr(self.vllm_config.model_config.hf_config, "tie_word_embeddings", False):
            for module in model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)


def _from_arrays(weights: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, array in weights.items():
        with warnings.catch_warnings():
            # Shared memory is read-only, and is only read.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            yield name, torch.from_numpy(array)


def _from_file(file: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (no mapping)
            yield name, tensors.get_tensor(name)
