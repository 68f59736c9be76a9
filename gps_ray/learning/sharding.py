"""A transformers model made ready to train: on its device, shared layer by layer among train workers (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from gps_ray.base.errors import LearnerError
from gps_ray.config import LearningConfig
from gps_ray.learning.train_workers import TrainWorkers
from gps_ray.model import tied_names, weights_from_state_dict, weights_of

__all__ = ["clip_gradients", "device_weights", "full_weights", "move_to_workers", "shard", "train_device"]


def train_device(config: LearningConfig) -> torch.device:
    """This process's GPU where the config asks for one, else the CPU."""
    if not config.num_gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LearnerError(
            f"learning.num_gpus_per_worker: {config.num_gpus_per_worker:g} GPUs were asked for, torch sees none; set "
            "learning.num_gpus_per_worker=0 or install the GPU build"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks, as the architecture itself names their class."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def move_to_workers(model: nn.Module, config: LearningConfig, workers: TrainWorkers, dtype: torch.dtype) -> None:
    """Put the model on its device, in place; with several workers each keeps its share of every parameter.

    Weights, gradients and their sums stay float32; with ``dtype`` bfloat16 several workers gather the parameters in it.
    """
    layers = _layers(model)
    if config.activation_checkpointing:
        if not layers:
            raise LearnerError(
                f"learning.activation_checkpointing: {type(model).__name__} does not say which layers repeat; set it "
                "to false"
            )
        apply_activation_checkpointing(model, check_fn=lambda module: any(module is layer for layer in layers))
    if workers.size == 1:
        model.to(workers.device)
    else:
        shard(model, workers, dtype)


def shard(model: nn.Module, workers: TrainWorkers, dtype: torch.dtype) -> None:
    """Give each worker its share of every parameter (FSDP2), on its device, in place. All of them call it."""
    precision = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(workers.device.type, (workers.size,))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to ``max_norm``; returns their norm before, over all workers."""
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(whole)


def full_weights(model: Any, workers: TrainWorkers) -> dict[str, Any]:
    """All parameters as ``gps_ray.model.weights_of`` gives them, on rank 0; the others take part and get none."""
    if workers.size == 1:
        return weights_of(model)
    whole: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return weights_from_state_dict(whole, frozenset(model.all_tied_weights_keys))


def device_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """All parameters on their device, one by one and not copied, names as ``full_weights``. Several workers must all go
    through them to the end: each parameter is gathered as its turn comes."""
    state: dict[str, Any] = model.state_dict()
    for name in sorted(state.keys() - tied_names(model)):
        parameter: Tensor = state[name].detach()
        yield name, parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
