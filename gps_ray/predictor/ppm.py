"""GPS's prompt predictive model as a ``Predictor`` (arXiv 2602.01970)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator, seed_64
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.base.useful import useful_probability
from gps_ray.config import PpmConfig
from gps_ray.predictor.history import OutcomeWindow
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.ppm_network import build_network
from gps_ray.predictor.ppm_training import GroupSet, group_sets, prior_of, replay_pairs, train_on_pairs
from gps_ray.predictor.sampled_expectations import SampledExpectations

__all__ = ["LatentDraws", "PpmPredictor"]

_NUM_SWAP_PROMPTS = 256
# Standardised features of so many prompts are held at once: a million prompts need no second copy of their features.
_ROWS_AT_ONCE = 8192


class LatentDraws(SampledExpectations):
    """A posterior held as success rates under M draws of z: ``rates`` [M, N]. The draws move all prompts together."""

    def __init__(self, rates: FloatArray) -> None:
        self._rates = rates

    def mean(self) -> FloatArray:
        return np.asarray(self._rates.mean(axis=0, dtype=np.float64))

    def variance(self) -> FloatArray:
        """[N] float64: variance between the draws; what z leaves open of one prompt alone is not in it."""
        return np.asarray(self._rates.var(axis=0, dtype=np.float64))

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """[S, N] float64: rows drawn with replacement from the M."""
        return self._rates[rng.integers(len(self._rates), size=num_draws)].astype(np.float64)

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """[K, N] float64: mean over the M draws of 1 - g^G - (1 - g)^G."""
        rates = self._rates.astype(np.float64)
        return np.array([np.mean([useful_probability(rate, size) for rate in rates], axis=0) for size in group_sizes])


class PpmPredictor:
    """Set-Transformer encoder and prior over a latent difficulty context z, decoder gamma(prompt, z).

    Everything is a function of (config, table, run_seed, observed batches): weights are drawn from
    (run_seed, "ppm/init"), an update's draws from (run_seed, "ppm/update", step), a prediction's from
    (run_seed, "ppm/predict", step). Batches without a single verdict change nothing.
    """

    def __init__(self, table: PromptTable, config: PpmConfig, run_seed: int) -> None:
        self._table = table
        self._config = config
        self._run_seed = run_seed
        pool = table.embeddings[: table.num_pool]
        self._shift = pool.mean(axis=0, dtype=np.float64).astype(np.float32)
        std = pool.std(axis=0, dtype=np.float64).astype(np.float32)
        # A dimension that does not vary over the pool says nothing: it is left at 0.
        self._scale = np.where(std > 1e-6, 1.0 / np.maximum(std, 1e-6), 0.0).astype(np.float32)
        self._network = build_network(table.embeddings.shape[1], config, seed_64(run_seed, "ppm/init"))
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=config.learning_rate, fused=True)
        self._window = OutcomeWindow(config.replay_steps + 1)
        self._num_steps = 0
        self._seen = np.zeros(len(table.prompt_ids), dtype=np.bool_)
        swap_rng = generator(run_seed, "ppm/swap_test")
        num_swap = min(_NUM_SWAP_PROMPTS, table.num_pool)
        self._swap_rows = np.sort(swap_rng.choice(table.num_pool, size=num_swap, replace=False))
        self._metrics: dict[str, float] = {}

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._network.parameters())

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> Posterior:
        """M draws of z from p(z | newest batch), N(0, I) before the first."""
        batches = self._window.batches
        context = group_sets(batches[-1:] or [None], self._features)
        rng = torch.Generator().manual_seed(seed_64(self._run_seed, "ppm/predict", step))
        return LatentDraws(self._rates(rows, context, rng))

    def predict_from_text(self, rows: IntArray, step: int) -> Posterior:
        """The same: a prompt's own outcomes count through the network alone."""
        return self.predict(rows, step)

    @torch.no_grad()
    def _rates(self, rows: IntArray, context: GroupSet, rng: torch.Generator) -> FloatArray:
        prior = prior_of(self._network, context, self._config)
        z = prior.mean + prior.std * torch.randn(self._config.num_latent_draws, self._config.latent_dim, generator=rng)
        z = z if self._config.use_latent else torch.zeros_like(z[:1])
        rates = np.empty((len(z), len(rows)), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            rates[:, block] = self._network.success_rates(self._features(rows[block]), z).numpy()
        return rates

    def _features(self, rows: IntArray) -> Tensor:
        """[N, E]: standardised per dimension over the pool."""
        return torch.from_numpy((self._table.embeddings[rows] - self._shift) * self._scale)

    def observe(self, batch: OutcomeBatch) -> None:
        tried = batch.num_tried > 0
        if not tried.any():
            return
        self._seen[batch.rows[tried]] = True
        self._window.append(batch)
        self._num_steps += 1
        batches = self._window.batches
        pairs = replay_pairs(batches, self._num_steps > len(batches), self._config.replay_steps)
        rng = torch.Generator().manual_seed(seed_64(self._run_seed, "ppm/update", batch.step))
        losses = train_on_pairs(self._network, self._optimizer, pairs, self._features, self._config, rng)
        self._metrics = {**losses, **self._swap_test(batch)}

    def _swap_test(self, batch: OutcomeBatch) -> dict[str, float]:
        """Does z carry anything? The context's outcomes are replaced by all solved and by all failed, with the same
        draws; reported is the change of the prediction on a fixed subset of the pool, as mean |change| and mean change
        (both 0 where the context is ignored; a positive mean change is the sensible sign)."""
        context = group_sets([batch], self._features)
        rates = []
        for num_right in (context.num_tried, torch.zeros_like(context.num_tried)):
            swapped = GroupSet(features=context.features, num_right=num_right, num_tried=context.num_tried)
            rng = torch.Generator().manual_seed(seed_64(self._run_seed, "ppm/swap_test", batch.step))
            rates.append(self._rates(self._swap_rows, swapped, rng).mean(axis=0, dtype=np.float64))
        change = rates[0] - rates[1]
        return {"swap_test": float(np.abs(change).mean()), "swap_test_signed": float(change.mean())}

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """log_likelihood, kl, elbo (nats per group, mean over the last pass), swap_test, swap_test_signed."""
        return dict(self._metrics)

    def state(self) -> State:
        state = nested("window", self._window.state())
        state["num_steps"] = np.array(self._num_steps)
        state["seen"] = self._seen.copy()
        state |= nested("metric", {name: np.array(value) for name, value in self._metrics.items()})
        for name, parameter in self._network.named_parameters():
            state[f"weight/{name}"] = parameter.detach().numpy().copy()
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                state[f"adam/{moment}/{name}"] = value.numpy().copy()
        return state

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the state belongs to another network or pool."""
        if state["seen"].shape != self._seen.shape:
            raise CheckpointError(
                f"predictor state: expected {len(self._seen)} prompts, got {len(state['seen'])}; resume with the data "
                "the run was started with (data.*)"
            )
        self._window.load_state(below("window", state))
        self._num_steps = int(state["num_steps"])
        self._seen = state["seen"].astype(np.bool_)
        self._metrics = {name: float(value) for name, value in below("metric", state).items()}
        self._optimizer.state.clear()
        for name, parameter in self._network.named_parameters():
            weight = state.get(f"weight/{name}")
            if weight is None or weight.shape != tuple(parameter.shape):
                raise CheckpointError(
                    f"predictor state: {name} should have shape {tuple(parameter.shape)}, got "
                    f"{None if weight is None else weight.shape}; resume with the run's own selection.ppm.*"
                )
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(weight))
            moments = {moment: state.get(f"adam/{moment}/{name}") for moment in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self._optimizer.state[parameter] = {
                    moment: torch.from_numpy(np.array(value)) for moment, value in moments.items()
                }
