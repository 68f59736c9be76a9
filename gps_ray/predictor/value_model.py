"""PCL: a value model V(x) of the prompt, regressed on observed success rates (arXiv 2510.01135).

Each step takes ``updates_per_step`` AdamW steps on the mean of (V(x_i) - s_i)^2 over the newest batch, s = k / n. The
paper's V is a language model trained beside the policy; here it is a small MLP with a sigmoid output on the prompt
embeddings, standardised per dimension over the pool. It is deterministic: a point, without uncertainty.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import seed_64
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, IntArray, State
from gps_ray.config import PclConfig
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.point_posterior import PointPosterior

__all__ = ["ValueModelPredictor"]


def _standardised(table: PromptTable) -> torch.Tensor:
    pool = table.embeddings[: table.num_pool].astype(np.float64)
    scale = pool.std(axis=0)
    scale[scale < 1e-12] = 1.0
    return torch.from_numpy(((table.embeddings - pool.mean(axis=0)) / scale).astype(np.float32))


def _tensors(state: State) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def _value_model(num_features: int, hidden_dim: int, seed: int) -> torch.nn.Sequential:
    """Two hidden layers, torch's usual initial weights, drawn from an own generator."""
    draws = torch.Generator().manual_seed(seed)
    sizes = (num_features, hidden_dim, hidden_dim, 1)
    layers: list[torch.nn.Module] = []
    for num_in, num_out in pairwise(sizes):
        # "meta" keeps the layer's own initialisation away from torch's global generator.
        linear = torch.nn.Linear(num_in, num_out, device="meta").to_empty(device="cpu")
        bound = num_in**-0.5
        torch.nn.init.uniform_(linear.weight, -bound, bound, generator=draws)
        torch.nn.init.uniform_(linear.bias, -bound, bound, generator=draws)
        layers += [linear, torch.nn.GELU()]
    layers[-1] = torch.nn.Sigmoid()
    return torch.nn.Sequential(*layers)


class ValueModelPredictor:
    """The value model with its optimizer, over all prompts of a table."""

    def __init__(self, table: PromptTable, config: PclConfig, run_seed: int) -> None:
        self._config = config
        self._features = _standardised(table)
        self._model = _value_model(
            self._features.shape[1], config.hidden_dim, seed_64(run_seed, "predictor/value_model")
        )
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._seen = np.zeros(len(table.prompt_ids), dtype=np.bool_)
        self._loss = float("nan")

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> Posterior:
        with torch.no_grad():
            values = self._values(rows)
        return PointPosterior(values.numpy().astype(np.float64))

    def predict_from_text(self, rows: IntArray, step: int) -> Posterior:
        """The same: a prompt's own outcomes count through the model alone."""
        return self.predict(rows, step)

    def _values(self, rows: IntArray) -> torch.Tensor:
        values: torch.Tensor = self._model(self._features[torch.from_numpy(rows)])
        return values.squeeze(-1)

    def observe(self, batch: OutcomeBatch) -> None:
        tried = batch.num_tried > 0
        rows = batch.rows[tried]
        if not len(rows):
            return
        self._seen[rows] = True
        rates = torch.from_numpy((batch.num_right[tried] / batch.num_tried[tried]).astype(np.float32))
        for update in range(self._config.updates_per_step):
            loss = torch.nn.functional.mse_loss(self._values(rows), rates)
            if update == 0:
                self._loss = loss.item()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """``loss``: squared error on the newest batch before learning from it."""
        return {"loss": self._loss}

    def state(self) -> State:
        state: State = {"seen": self._seen.copy(), "loss": np.array(self._loss)}
        state |= nested("model", {name: value.numpy().copy() for name, value in self._model.state_dict().items()})
        for index, moments in self._optimizer.state_dict()["state"].items():
            state |= nested(f"optimizer/{index}", {name: value.numpy().copy() for name, value in moments.items()})
        return state

    def load_state(self, state: State) -> None:
        if state["seen"].shape != self._seen.shape:
            raise CheckpointError(
                f"selector state: expected {len(self._seen)} prompts, got {len(state['seen'])}; "
                "resume with the data the run was started with (data.*)"
            )
        self._seen = state["seen"].astype(np.bool_)
        self._loss = float(state["loss"])
        try:
            self._model.load_state_dict(_tensors(below("model", state)))
        except RuntimeError as error:
            raise CheckpointError(
                f"selector state: the value model does not fit ({str(error).splitlines()[-1].strip()}); "
                "resume with the run's own selection.pcl and selection.features"
            ) from error
        optimizer = below("optimizer", state)
        indices = {name.partition("/")[0] for name in optimizer}
        moments = {int(index): _tensors(below(index, optimizer)) for index in indices}
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
