"""Who makes the rollouts, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gps_ray.config.facts import Resume
from gps_ray.config.section import ConfigSection

__all__ = ["RolloutConfig", "SimulatedConfig", "StopStrings", "VllmConfig"]

StopStrings = tuple[Annotated[str, Field(min_length=1)], ...]


class SimulatedConfig(ConfigSection):
    """The simulated engine: success rates that are known and drift, for tests and for scale.

    sigmoid(initial_logit_mean + initial_logit_std * x + (drift_per_version + drift_std * y) * policy_version), with
    standard normal x and y per prompt; a share of x's variance is a sum over the words of the prompt.

    With ``trap_share`` some prompts are a trap for selectors: solved half the time for ever, whatever is trained. The
    logits of the others then lose ``skill``, which goes, by ``forgetting_rate`` of the way per update, to
    -forgetting_logits * max(0, 1 - their share of the groups trained / (1 - trap_share)): 0 where as many of them are
    trained as a uniform choice would.
    """

    seed: int = Field(0, ge=0, description="Seed of the success rates, apart from run.seed: all runs share them.")
    initial_logit_mean: float = Field(-1.0, description="Mean of the prompts' logits of success at the start.")
    initial_logit_std: float = Field(2.0, ge=0, description="Their standard deviation.")
    text_share: float = Field(
        0.5, ge=0, le=1, description="Share of the logit's variance that the words of the prompt decide."
    )
    drift_per_version: float = Field(0.02, ge=0, description="Added to every prompt's logit per policy version.")
    drift_std: float = Field(0.0, ge=0, description="Standard deviation of that drift over the prompts.")
    trap_share: float = Field(
        0.0, ge=0, lt=1, description="Share of the prompts that are solved half the time and teach nothing."
    )
    forgetting_logits: float = Field(
        4.0, ge=0, description="With a trap: what the other prompts lose where none of them is trained any more."
    )
    forgetting_rate: float = Field(0.1, gt=0, le=1, description="With a trap: share of that way per update.")
    latency_s: Annotated[float, Resume.FREE] = Field(0.0, ge=0, description="Seconds slept per chunk.")
    update_latency_s: Annotated[float, Resume.FREE] = Field(
        0.0, ge=0, description="Seconds that the simulated learner sleeps per update."
    )
    response_tokens: int = Field(8, ge=1, description="Tokens of every simulated response.")


class VllmConfig(ConfigSection):
    """The vLLM engine of one rollout worker. Its memory is bounded here: weights + KV cache + one batch."""

    max_model_len: int | None = Field(
        None, ge=1, description="Longest prompt + response, in tokens; null: as long as the model allows."
    )
    kv_cache_memory_bytes: int | None = Field(
        256 << 20,
        ge=1 << 20,
        description="KV cache per tensor-parallel rank; on a GPU null leaves it to gpu_memory_utilization.",
    )
    gpu_memory_utilization: float = Field(
        0.8, gt=0, le=1, description="Share of a GPU that vLLM may take where kv_cache_memory_bytes is null."
    )
    max_num_seqs: int = Field(256, ge=1, description="Responses generated at a time; more wait.")
    max_num_batched_tokens: int = Field(4096, ge=1, description="Tokens of one forward pass.")
    tensor_parallel_size: int = Field(
        1, ge=1, description="Ranks that share one model; rollout.num_{cpus,gpus}_per_worker are each rank's."
    )
    weight_transfer: str = Field(
        "object_store",
        description="How new weights reach the engine: object_store, ipc (CUDA IPC where learner and workers share one "
        "GPU), nccl (from GPU to GPU where each has its own), or 'package.module:TRANSPORT'.",
    )
    enable_prefix_caching: bool = Field(True, description="Compute a prompt's common prefix once per weights.")
    enforce_eager: bool = Field(True, description="False compiles and captures: a minute per start, quicker on GPU.")


class RolloutConfig(ConfigSection):
    """The rollout-worker pool."""

    engine: Literal["torch", "vllm", "simulated"] = Field(
        "torch", description="torch and vllm sample from the policy; simulated answers with known success rates."
    )
    num_workers: Annotated[int, Resume.FREE] = Field(2, ge=1, description="Rollout workers, with an engine each.")
    group_size: int = Field(8, ge=1, description="G: rollouts per prompt.")
    prompts_per_chunk: Annotated[int, Resume.APPROXIMATE] = Field(
        16,
        ge=1,
        description="Prompts that share an engine batch: part of the result, not of timing. vLLM batches as places "
        "become free, and takes prompts one by one.",
    )
    max_response_tokens: int = Field(12, ge=1, description="Tokens after which a response is cut off.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by this; the learner does the same.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw only from the likeliest tokens that together reach this probability; below 1, see "
        "learning.rollout_is.",
    )
    top_k: int = Field(0, ge=0, description="Draw only from so many likeliest tokens; 0: from all.")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Draw only tokens at least this times as likely as the likeliest one."
    )
    stop: StopStrings = Field(
        (), description="Texts that end a response, which keeps them, beside the stop tokens of the model folder."
    )
    num_threads: Annotated[int, Resume.APPROXIMATE] = Field(
        1, ge=1, description="Torch threads per worker: part of the result, to the bit."
    )
    num_cpus_per_worker: Annotated[float, Resume.FREE] = Field(
        0.5, ge=0, description="CPUs that Ray reserves per rank of a worker."
    )
    num_gpus_per_worker: Annotated[float, Resume.APPROXIMATE] = Field(
        0.0, ge=0, description="GPUs that Ray reserves per rank of a worker; above 0 it samples on the GPU."
    )
    chunk_deadline_s: Annotated[float, Resume.FREE] = Field(
        300,
        gt=0,
        description="A chunk (vLLM: a group) not back so long after its engine began it is given up, and its worker "
        "restarted.",
    )
    start_deadline_s: Annotated[float, Resume.FREE] = Field(300, gt=0, description="A worker must be up by then.")
    max_chunk_attempts: Annotated[int, Resume.FREE] = Field(
        3, ge=1, description="A chunk that was given up so many times ends the run."
    )
    probe_tolerance: Annotated[float, Resume.FREE] = Field(
        1e-3,
        gt=0,
        description="Largest mean |log-prob difference| engine - learner over a fixed text after a weight load; 0.5 "
        "with model.dtype=bfloat16.",
    )
    num_verifiers: Annotated[int, Resume.FREE] = Field(
        2,
        ge=1,
        description="Processes beside each worker that run the verifier, where it is not a bounded built-in one.",
    )
    verify_deadline_s: float = Field(
        10.0, gt=0, description="Seconds for one verdict; a verifier that takes longer is stopped, its response failed."
    )
    verify_memory_bytes: int = Field(
        2 << 30, ge=64 << 20, description="Memory in bytes a verifier may take beyond what it starts with."
    )
    num_verifier_trials: Annotated[int, Resume.FREE] = Field(
        3, ge=0, description="Prompts on which a verifier is tried before anything starts; 0: no trial."
    )
    max_failed_share: Annotated[float, Resume.FREE] = Field(
        0.5, ge=0, le=1, description="A step with a larger share of rollouts without a verdict ends the run."
    )
    simulated: SimulatedConfig = Field(default_factory=SimulatedConfig)
    vllm: Annotated[VllmConfig, Resume.APPROXIMATE] = Field(default_factory=VllmConfig)

    @property
    def batches_continuously(self) -> bool:
        """Do prompts enter a running batch as places become free, each group for itself?"""
        return self.engine == "vllm"

    @property
    def prompts_per_dispatch(self) -> int:
        """Prompts that go to a worker together and come back together."""
        return 1 if self.batches_continuously else self.prompts_per_chunk

    @property
    def num_ranks_per_worker(self) -> int:
        """Processes that compute in one worker, each with num_cpus_per_worker and num_gpus_per_worker."""
        return self.vllm.tensor_parallel_size if self.engine == "vllm" else 1
