"""About how long a step takes on known GPUs, and which phase limits it: a roofline, not a measurement.

A decode step reads the weights and the keys and values of all running responses once; an update does 6 operations per
parameter and token (2 more for every pass without a gradient, and for activations computed anew).
"""

from __future__ import annotations

from dataclasses import dataclass

from gps_ray.base.devices import DEVICES, Device
from gps_ray.config import TrainConfig
from gps_ray.loop.memory_plan import MemoryPlan, kv_bytes_per_token

__all__ = ["MEAN_SHARE", "TimePlan", "time_plan"]

# Share of rollout.max_response_tokens that a response is taken to be long.
MEAN_SHARE = 0.5
# Of a decode step: what is launched one by one from Python, and what captured graphs leave of that, in seconds.
_EAGER_FLOOR, _GRAPH_FLOOR = 16e-3, 1.5e-3
# Of the peak operations that updates reach: 8 % was measured at 0.6 B parameters (docs/benchmarks.md), 40 % is what
# large models reach elsewhere.
_LARGE, _LARGE_SHARE, _SMALL_SHARE = 3.5e9, 0.35, 0.1
# Of the memory's bandwidth that decoding reaches.
_BANDWIDTH_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePlan:
    """Seconds of the phases of a step, and response tokens per second of all rollout workers together."""

    rollout_s: float
    update_s: float
    tokens_per_s: float

    def step_s(self, max_policy_lag: int) -> float:
        """With a lag the two phases run beside each other."""
        phases = (self.rollout_s, self.update_s)
        return max(phases) if max_policy_lag else sum(phases)

    @property
    def limit(self) -> str:
        return "the rollouts limit it" if self.rollout_s > self.update_s else "the update limits it"


def time_plan(config: TrainConfig, plan: MemoryPlan, prompt_tokens: int) -> TimePlan | None:
    """None where the GPUs are not known, or not both phases run on some."""
    gpus = (config.learning.num_gpus_per_worker, config.rollout.num_gpus_per_worker)
    if config.cluster.gpu is None or config.model.path is None or min(gpus) <= 0:
        return None
    device = DEVICES[config.cluster.gpu]
    num_rollouts = config.selection.num_prompts * config.rollout.group_size
    tokens = MEAN_SHARE * config.rollout.max_response_tokens
    per_second = config.rollout.num_workers * _decode_rate(config, plan, device, prompt_tokens + tokens / 2)
    return TimePlan(
        rollout_s=num_rollouts * tokens / per_second,
        update_s=_update_s(config, device, num_rollouts * (prompt_tokens + tokens)),
        tokens_per_s=per_second,
    )


def _decode_rate(config: TrainConfig, plan: MemoryPlan, device: Device, context: float) -> float:
    """Response tokens per second of one rollout worker."""
    rollout = config.rollout
    assert config.model.path is not None
    parts = {part.what: part.num_bytes for process in plan.processes[1:] for part in process.parts}
    per_token = kv_bytes_per_token(config, config.model.path)
    share = -(-config.selection.num_prompts * rollout.group_size // rollout.num_workers)
    most = rollout.vllm.max_num_seqs if rollout.engine == "vllm" else rollout.prompts_per_chunk * rollout.group_size
    running = max(1.0, min(share, most, parts["KV cache"] / (context * per_token)))
    graphs = rollout.engine == "vllm" and not rollout.vllm.enforce_eager
    read = (parts["weights"] + running * context * per_token) / (_BANDWIDTH_SHARE * device.bytes_per_s)
    return running / (read + _GRAPH_FLOOR if graphs else max(read, _EAGER_FLOOR))


def _update_s(config: TrainConfig, device: Device, num_tokens: float) -> float:
    from gps_ray.model.model_facts import model_facts

    learning = config.learning
    assert config.model.path is not None
    num_parameters = model_facts(config.model.path).num_parameters
    # Old log-probs of the first mini-batch come out of its training pass.
    old = (1 - 1 / learning.num_minibatches) if learning.rollout_is is not None else 0
    passes = 6 + 2 * (learning.activation_checkpointing + old + (learning.kl_coefficient > 0))
    share = _LARGE_SHARE if num_parameters >= _LARGE else _SMALL_SHARE
    return passes * num_parameters * num_tokens / (share * device.flops * learning.num_workers)
