"""What a forward pass keeps for the backward pass, found out without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gps_ray.base.errors import ModelError, one_line

__all__ = ["ActivationFacts", "activation_facts"]

# Two lengths and two depths: the differences are what a token, and what a layer, costs.
_TOKENS = (256, 512)
_LAYERS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFacts:
    """Bytes per token of the micro-batch: per_layer of one repeated layer, layer_input of what enters one (all that
    activation checkpointing keeps of it), rest of what stands around the layers."""

    num_layers: int
    per_layer: float
    layer_input: float
    rest: float

    def bytes_per_token(self, *, checkpointing: bool) -> float:
        if checkpointing:  # each layer's input, and the activations of the one that is computed anew
            return self.num_layers * self.layer_input + self.per_layer + self.rest
        return self.num_layers * self.per_layer + self.rest


def activation_facts(directory: Path, dtype: str, *, sharded: bool) -> ActivationFacts:
    """Of the model in ``directory`` trained in ``dtype``: float32, or bfloat16 under autocast with float32 weights
    (``sharded``: gathered in bfloat16, as FSDP2 does).

    The architecture's own code runs on tensors without memory, with one and with two layers; what autograd saves is
    counted, each storage once. Logits are not part of it. Raises ModelError where the model cannot be run so.
    """
    try:
        return _measured(directory, (directory / "config.json").stat().st_mtime_ns, dtype, sharded)
    except Exception as error:  # whatever an architecture's own code does with a shape that it did not expect
        raise ModelError(
            f"model.path: cannot tell what {directory} keeps for its backward pass ({one_line(error)})"
        ) from error


@lru_cache(maxsize=8)
def _measured(directory: Path, changed_ns: int, dtype: str, sharded: bool) -> ActivationFacts:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    num_layers = config.get_text_config().num_hidden_layers
    cells = {
        (depth, length): _saved(directory, dtype, sharded, depth, length) for depth in _LAYERS for length in _TOKENS
    }
    slopes = [(cells[depth, _TOKENS[1]] - cells[depth, _TOKENS[0]]) / (_TOKENS[1] - _TOKENS[0]) for depth in _LAYERS]
    width = 2 if dtype == "bfloat16" and sharded else 4
    return ActivationFacts(
        num_layers=num_layers,
        per_layer=slopes[1] - slopes[0],
        layer_input=width * config.get_text_config().hidden_size,
        rest=2 * slopes[0] - slopes[1],
    )


def _saved(directory: Path, dtype: str, sharded: bool, num_layers: int, num_tokens: int) -> int:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config()
    text.num_hidden_layers = num_layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:num_layers]
    half = dtype == "bfloat16"
    held: dict[int, Any] = {}
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            config,
            trust_remote_code=False,
            attn_implementation="sdpa",
            dtype=torch.bfloat16 if half and sharded else torch.float32,
        ).eval()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def save(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                held[storage._cdata] = storage  # held, so that no other gets its address
            return tensor

        tokens = torch.zeros((1, num_tokens), dtype=torch.long)
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        ):
            hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        del hidden
        return sum(storage.nbytes() for storage in held.values())
