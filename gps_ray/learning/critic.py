"""The value model of PPO: a copy of the starting policy's backbone with a scalar head."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from gps_ray.learning.packing import PackedBatch
from gps_ray.model import load_model

__all__ = ["Critic", "token_values"]


class Critic(nn.Module):
    """V(prompt and response so far). A network of its own, as the policy must not pay for the value's errors; its head
    starts at zero, so that the first advantages are the rewards themselves."""

    def __init__(self, model_directory: Path) -> None:
        super().__init__()
        self.backbone = load_model(model_directory).base_model
        self.value_head = nn.Linear(self.backbone.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: PackedBatch) -> Tensor:
        """The value [R, L, 1] after each token of the batch's lines. No view: FSDP2 hangs a hook on it."""
        values: Tensor = self.value_head(self.backbone(**batch.inputs()).last_hidden_state)
        return values


def token_values(critic: nn.Module, batch: PackedBatch) -> Tensor:
    """The value [M, T] float32 before each of the batch's targets."""
    return batch.at_targets(critic(batch)[:, -batch.num_logits :])[..., 0].float()
