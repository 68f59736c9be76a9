"""The configuration: one frozen model per component; an unknown key is an error.

A component gets its own section, never the whole config. Field descriptions are the reference documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gps_ray.errors import ConfigError

__all__ = [
    "BetaCountsConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "CountdownConfig",
    "DataConfig",
    "DpsConfig",
    "EmbeddedModelConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "FusedConfig",
    "GresoConfig",
    "LearningConfig",
    "ModelConfig",
    "PclConfig",
    "PpmConfig",
    "RolloutConfig",
    "RunConfig",
    "Section",
    "SelectionConfig",
    "SimulatedConfig",
    "TrainConfig",
    "VllmConfig",
    "WarmStartConfig",
    "load_config",
]


class Section(BaseModel):
    """Base of every section: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunConfig(Section):
    """The run as a whole."""

    directory: Path = Field(Path("runs/default"), description="Run folder; everything the run writes lies in it.")
    seed: int = Field(0, ge=0, description="Run seed: every draw is keyed by it.")
    num_steps: int = Field(90, ge=1, description="Optimizer steps of the policy.")
    max_policy_lag: int = Field(
        0, ge=0, description="Rollouts may run ahead of the learner by so many policy versions; 0: in step with it."
    )
    sample_every_steps: int = Field(10, ge=1, description="Keep readable responses every so many steps.")


class CountdownConfig(Section):
    """The generated Countdown data: reach a target from 2-4 numbers."""

    pool: Literal["heterogeneous", "homogeneous"] = Field(
        "heterogeneous",
        description="heterogeneous: CD-2, CD-3, CD-4 and CD-4 with numbers out of the warm start's range; "
        "homogeneous: CD-3 only.",
    )
    num_pool_prompts: int = Field(4000, ge=1)
    num_evaluation_prompts: int = Field(256, ge=1, description="Held-out evaluation set, drawn like the pool.")
    num_heldout_probe_prompts: int = Field(256, ge=1, description="Probe set disjoint from the pool.")
    seed: int = Field(0, ge=0, description="Seed of the data, apart from run.seed: all runs of a comparison share it.")
    # 100 is the largest number with a token of its own in the task's vocabulary.
    max_number: int = Field(12, ge=2, le=99, description="Largest number of the ordinary levels.")
    max_hard_number: int = Field(
        60, ge=3, le=100, description="Largest number of the hard level, whose numbers begin above max_number."
    )
    max_target: int = Field(100, ge=1, le=100)

    @model_validator(mode="after")
    def _possible(self) -> CountdownConfig:
        _check_hard_numbers(self.max_number, self.max_hard_number)
        return self


class ArithmeticConfig(Section):
    """The generated arithmetic data: chains of operations and equations with one unknown, levels mixed."""

    num_pool_prompts: int = Field(4000, ge=1)
    num_evaluation_prompts: int = Field(256, ge=1, description="Held-out evaluation set, drawn like the pool.")
    num_heldout_probe_prompts: int = Field(256, ge=1, description="Probe set disjoint from the pool.")
    seed: int = Field(0, ge=0, description="Seed of the data, apart from run.seed: all runs of a comparison share it.")
    max_number: int = Field(12, ge=5, le=99, description="Largest operand of the ordinary levels.")
    max_hard_number: int = Field(
        40, ge=6, le=100, description="Largest operand of the hard levels, which the warm start does not show."
    )

    @model_validator(mode="after")
    def _possible(self) -> ArithmeticConfig:
        _check_hard_numbers(self.max_number, self.max_hard_number)
        return self


def _check_hard_numbers(max_number: int, max_hard_number: int) -> None:
    if max_hard_number <= max_number:
        raise ValueError(
            f"max_hard_number: must be above max_number = {max_number}, got {max_hard_number}; raise max_hard_number "
            "or lower max_number"
        )


class DataConfig(Section):
    """Which task, and where its prompts come from: files, or the task's own generator where pool_file is null."""

    task: str = Field(
        "countdown", description="countdown, arithmetic, or an import path 'package.module:Class' (tasks.interface)."
    )
    pool_file: Path | None = Field(
        None, description="Parquet pool (data_source, prompt, ability, reward_model, extra_info)."
    )
    evaluation_file: Path | None = Field(None, description="Parquet evaluation set; needed with pool_file.")
    heldout_probe_file: Path | None = Field(None, description="Parquet held-out probe set; optional with pool_file.")
    countdown: CountdownConfig = Field(
        default_factory=CountdownConfig, description="What task countdown generates; for its warm start with files too."
    )
    arithmetic: ArithmeticConfig = Field(
        default_factory=ArithmeticConfig,
        description="What task arithmetic generates; for its warm start with files too.",
    )

    @property
    def num_generated_prompts(self) -> int | None:
        """Size of the pool that the task will generate; None where it comes from a file or from a user's task."""
        if self.pool_file is not None:
            return None
        return {
            "countdown": self.countdown.num_pool_prompts,
            "arithmetic": self.arithmetic.num_pool_prompts,
        }.get(self.task)

    @model_validator(mode="after")
    def _possible(self) -> DataConfig:
        if self.pool_file is not None and self.evaluation_file is None:
            raise ValueError("evaluation_file: needed with data.pool_file, got null; set data.evaluation_file")
        if self.pool_file is None:
            for key in ("evaluation_file", "heldout_probe_file"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: goes with data.pool_file, which is null; set data.pool_file too")
        return self


class EmbeddedModelConfig(Section):
    """The small model made on the spot where model.path is null (Hugging Face layout, loadable by vLLM)."""

    family: Literal["llama", "qwen3"] = Field(
        "llama", description="Architecture; qwen3 adds a norm on queries and keys."
    )
    hidden_size: int = Field(128, ge=32)
    num_layers: int = Field(3, ge=1)
    num_heads: int = Field(
        4, ge=1, description="hidden_size / num_heads is the head dimension; vLLM on CPU takes 32, 48, 64."
    )
    intermediate_size: int = Field(384, ge=1)
    max_position_embeddings: int = Field(512, ge=1, description="Longest prompt + response, in tokens.")
    tie_embeddings: bool = True
    seed: int = Field(0, ge=0, description="Seed of the initial weights.")

    @model_validator(mode="after")
    def _possible(self) -> EmbeddedModelConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size: {self.hidden_size} does not give {self.num_heads} heads of an even dimension; "
                "change hidden_size or num_heads"
            )
        return self


class ModelConfig(Section):
    """The policy to start from."""

    path: Path | None = Field(
        None, description="A local Hugging Face folder; null makes and warm-starts the embedded model."
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    embedded: EmbeddedModelConfig = Field(default_factory=EmbeddedModelConfig)


class WarmStartConfig(Section):
    """Supervised training of the embedded model on generated solutions, before RL."""

    cache_directory: Path = Field(
        Path("runs/warm_start"), description="One folder per hash of what determines the result."
    )
    num_examples: int = Field(30_000, ge=1, description="Generated (prompt, solution) pairs.")
    num_steps: int = Field(300, ge=1, description="Optimizer steps; passes over the examples as needed.")
    batch_size: int = Field(96, ge=1, description="Examples per step.")
    learning_rate: float = Field(
        8e-3, gt=0, description="AdamW's peak, for embeddings, norms and biases; linear warm-up, then a cosine to zero."
    )
    matrix_learning_rate: float = Field(
        2e-2, gt=0, description="Muon's peak, for the matrices inside the layers; the same course."
    )
    num_warmup_steps: int = Field(10, ge=0)
    microbatch_tokens: int = Field(2048, ge=1, description="Tokens (with padding) per forward pass.")
    seed: int = Field(0, ge=0, description="Seed of the examples and their order.")
    num_threads: int = Field(
        1,
        ge=1,
        description="Torch threads of the one train worker: part of the result. Two cost half as much CPU again.",
    )
    deadline_s: float = Field(1800, gt=0, description="The whole warm start must be done by then.")


class SimulatedConfig(Section):
    """The simulated engine: success rates that are known and drift, for tests and for scale.

    sigmoid(initial_logit_mean + initial_logit_std * x + (drift_per_version + drift_std * y) * policy_version), with
    standard normal x and y per prompt; a share of x's variance is a sum over the words of the prompt.
    """

    seed: int = Field(0, ge=0, description="Seed of the success rates, apart from run.seed: all runs share them.")
    initial_logit_mean: float = -1.0
    initial_logit_std: float = Field(2.0, ge=0)
    text_share: float = Field(
        0.5, ge=0, le=1, description="Share of the logit's variance that the words of the prompt decide."
    )
    drift_per_version: float = Field(0.02, ge=0, description="Added to every prompt's logit per policy version.")
    drift_std: float = Field(0.0, ge=0, description="Standard deviation of that drift over the prompts.")
    latency_s: float = Field(0.0, ge=0, description="Seconds slept per chunk.")
    update_latency_s: float = Field(0.0, ge=0, description="Seconds that the simulated learner sleeps per update.")
    response_tokens: int = Field(8, ge=1, description="Tokens of every simulated response.")


class VllmConfig(Section):
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
    enable_prefix_caching: bool = Field(True, description="Compute a prompt's common prefix once per weights.")
    enforce_eager: bool = Field(True, description="False compiles and captures: a minute per start, quicker on GPU.")


class RolloutConfig(Section):
    """The rollout-worker pool."""

    engine: Literal["torch", "vllm", "simulated"] = Field(
        "torch", description="torch and vllm sample from the policy; simulated answers with known success rates."
    )
    num_workers: int = Field(2, ge=1)
    group_size: int = Field(8, ge=1, description="G: rollouts per prompt.")
    prompts_per_chunk: int = Field(
        16, ge=1, description="Prompts that share an engine batch: part of the result, not of timing."
    )
    max_response_tokens: int = Field(12, ge=1)
    temperature: float = Field(1.0, gt=0)
    num_threads: int = Field(1, ge=1, description="Torch threads per worker.")
    num_cpus_per_worker: float = Field(0.5, ge=0)
    num_gpus_per_worker: float = Field(0.0, ge=0)
    chunk_deadline_s: float = Field(
        300, gt=0, description="A chunk not back by then is given up and its worker restarted."
    )
    start_deadline_s: float = Field(300, gt=0)
    max_chunk_attempts: int = Field(3, ge=1)
    probe_tolerance: float = Field(
        1e-3, gt=0, description="Largest |log-prob difference| engine - learner after a weight load."
    )
    verify_deadline_s: float = Field(
        10.0, gt=0, description="A verifier of your own that takes longer is stopped; its response counts as failed."
    )
    verify_memory_bytes: int = Field(
        2 << 30, ge=64 << 20, description="Memory a verifier of your own may take beyond what it starts with."
    )
    simulated: SimulatedConfig = Field(default_factory=SimulatedConfig)
    vllm: VllmConfig = Field(default_factory=VllmConfig)

    @property
    def num_ranks_per_worker(self) -> int:
        """Processes that compute in one worker, each with num_cpus_per_worker and num_gpus_per_worker."""
        return self.vllm.tensor_parallel_size if self.engine == "vllm" else 1


class FeaturesConfig(Section):
    """Prompt features for predictor and diversity."""

    provider: str = Field("wordllama", description="'wordllama', or an import path 'package.module:Class'.")
    dimension: Literal[64, 128, 256] = 256
    cache_directory: Path = Field(Path("runs/features"), description="Features by hash of provider and texts.")


class PpmConfig(Section):
    """The prompt predictive model (GPS, arXiv 2602.01970). The paper gives few of these values; the others are ours."""

    model_dim: int = Field(64, ge=8)
    num_layers: int = Field(1, ge=1, description="Transformer layers of each of the two encoders")
    num_heads: int = Field(4, ge=1)
    decoder_hidden: int = Field(128, ge=8)
    latent_dim: int = Field(16, ge=1, description="Z")
    min_latent_std: float = Field(0.1, gt=0, lt=1, description="Smallest standard deviation of z")
    rate_scale: float | None = Field(
        None,
        gt=0,
        description="Scale of the (centred) success rate among the E features of a token; null: sqrt(E), so that it "
        "weighs as much as they do together. At 1 the latent carried almost nothing (swap test).",
    )
    num_latent_draws: int = Field(16, ge=1, description="M: draws of z per prediction")
    learning_rate: float = Field(1.5e-3, gt=0)
    kl_weight: float = Field(1.0, ge=0, description="beta")
    replay_steps: int = Field(32, ge=1, description="Steps replayed per update; 1 is the paper's newest batch only.")
    updates_per_step: int = Field(1, ge=1, description="K: passes over the replay per step")
    pairs_per_update: int = Field(2, ge=1, description="Replayed pairs per gradient step of Adam")
    prior: Literal["history", "standard"] = Field(
        "history", description="standard replaces the prior by N(0, I) (ablation)."
    )
    use_latent: bool = Field(True, description="False forces z = 0 (ablation).")


class BetaCountsConfig(Section):
    """Discounted Beta counts per prompt, the predictor of mopps (arXiv 2507.04632) and beta_mean."""

    discount: float = Field(
        0.9, ge=0, le=1, description="lam: what a visit keeps of the counts; mopps 0.5 Countdown, 1.0 maths."
    )
    prior_right: float = Field(1.0, gt=0, description="a0")
    prior_wrong: float = Field(1.0, gt=0, description="b0")


class DpsConfig(Section):
    """DPS (arXiv 2603.10887): a three-state Markov chain per prompt."""

    discount: float = Field(
        0.5, ge=0, le=1, description="lam: what a step keeps of the transition counts; 0.5 Countdown, 0.7 maths."
    )
    prior_count: float = Field(1.0, gt=0, description="alpha0: Dirichlet pseudo-count of every transition.")


class GresoConfig(Section):
    """GRESO (arXiv 2506.02177): skip prompts whose recent groups had zero variance, with adapted probabilities."""

    start_probability: float = Field(0.5, gt=0, lt=1, description="p_easy and p_hard at the start.")
    min_survival: float = Field(0.01, gt=0, le=1, description="Least probability of not being skipped.")
    probability_step: float = Field(0.01, ge=0, lt=1, description="Change of p_easy and p_hard per step.")
    min_probability: float = Field(0.05, gt=0, lt=1)
    max_probability: float = Field(0.95, gt=0, lt=1)
    target_easy: float = Field(0.083, ge=0, le=1, description="Wanted share of all-right groups among the rolled out.")
    target_hard: float = Field(0.167, ge=0, le=1, description="Wanted share of all-wrong groups.")
    safety_factor: float = Field(1.25, ge=1, description="Oversampling of the later rounds of a step.")


class PclConfig(Section):
    """PCL (arXiv 2510.01135): a value model of the prompt. The paper's is a language model; the sizes here are ours."""

    hidden_dim: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    updates_per_step: int = Field(
        4, ge=1, description="Gradient steps on the newest batch; from random weights one per step learns too slowly."
    )


class FusedConfig(Section):
    """gps_fused's predictor: a shared model of the prompt plus an effect of every prompt's own, in logits.

    Variances are prior variances in squared logits, drifts their growth per step. On recorded GRPO runs the quality is
    flat within a factor of two around every default.
    """

    text_prior: Path | None = Field(
        None, description="Folder written by jobs.pretrain_predictor; null: nothing is known before the first outcome."
    )
    feature_map: str = Field(
        "text_kernels", description="'text_kernels', or an import path 'package.module:function' of a FeatureMap."
    )
    num_features: int = Field(256, ge=1, description="D: leading eigenfunctions kept of the sum of the text kernels.")
    num_landmarks: int = Field(1024, ge=2, description="Prompts of the pool that the eigenfunctions are taken from.")
    embedding_variance: float = Field(0.6, ge=0, description="Kernel on the prompt embedding; 0 switches it off.")
    words_variance: float = Field(0.6, ge=0, description="Kernel on words and pairs of words (hashed TF-IDF).")
    notation_variance: float = Field(0.6, ge=0, description="Kernel on lengths, notation and the numbers in the text.")
    length_variance: float = Field(0.6, ge=0, description="Kernel on the lengths alone.")
    length_slope_variance: float = Field(0.3, ge=0, description="Linear term in the log of the text's length.")
    prior_slope_variance: float = Field(0.25, ge=0, description="Slope of the text prior, around 1.")
    text_share_with_prior: float = Field(
        0.25, ge=0, description="Share of the kernels' variances that is left where a text prior already speaks."
    )
    level_variance: float = Field(2.0, gt=0, description="Global level, around a success rate of 1/2.")
    prompt_variance: float = Field(5.0, gt=0, description="What the text leaves open about a prompt.")
    level_drift: float = Field(0.02, ge=0, description="Random walk of the global level.")
    slope_drift: float = Field(5e-4, ge=0, description="Random walk of the linear terms.")
    text_drift: float = Field(
        0.002, ge=0, description="Random walk of the leading features, as a share of their prior variance."
    )
    num_drifting: int = Field(32, ge=0, description="Features with a drift of their own.")
    prompt_drift: float = Field(0.01, ge=0, description="Slow change of every prompt's own effect.")
    own_record: bool = Field(
        True, description="False keeps no prompt's own effect: its outcomes teach the shared part alone (ablation)."
    )


class SelectionConfig(Section):
    """Which prompts next."""

    selector: str = Field("gps", description="uniform, gps, gps_paper, ... or an import path 'package.module:factory'.")
    predictor: str | None = Field(
        None, description="ppm, ... or an import path 'package.module:factory'; null: the selector's own."
    )
    acquisition: str | None = Field(
        None,
        description="nearest_half, useful_group, ... or an import path 'package.module:function'; null: the selector's "
        "own.",
    )
    num_prompts: int = Field(32, ge=1, description="B: prompts per step.")
    candidate_multiple: int | None = Field(
        8, ge=1, description="Candidates are this many times B, at random; null: the whole pool."
    )
    diversity_within: float = Field(0.04, ge=0, description="lambda of the dispersion within the batch.")
    diversity_recent: float = Field(0.04, ge=0, description="lambda of the distance from recent batches.")
    num_recent_batches: int = Field(4, ge=0, description="Batches the second term looks back on.")
    random_share: float = Field(
        0.0, ge=0, le=1, description="Share of B filled at random, to keep the predictor calibrated."
    )
    admission: Literal["keep_all", "useful_only"] | None = Field(
        None,
        description="useful_only trains only on groups with 0 < k < G and asks for further rounds until it has B of "
        "them; null: as the selector's paper has it (useful_only for ds and greso, keep_all for the others).",
    )
    max_rounds: int | None = Field(
        None,
        ge=1,
        description="Rounds of selection per step at most; null: 1 for keep_all, 10 for useful_only (the papers use "
        "10 for Countdown and 4 for maths).",
    )
    num_threads: int = Field(1, ge=1, description="Torch threads of the selector.")
    deadline_s: float = Field(300, gt=0)
    ppm: PpmConfig = Field(default_factory=PpmConfig)
    beta_counts: BetaCountsConfig = Field(default_factory=BetaCountsConfig)
    dps: DpsConfig = Field(default_factory=DpsConfig)
    greso: GresoConfig = Field(default_factory=GresoConfig)
    pcl: PclConfig = Field(default_factory=PclConfig)
    fused: FusedConfig = Field(default_factory=FusedConfig)
    features: FeaturesConfig = Field(default_factory=FeaturesConfig)


class LearningConfig(Section):
    """The policy update. Where a key says "null: the algorithm's own", docs/algorithms.md lists what that is."""

    loss: Literal[
        "grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo", "cispo", "ppo"
    ] = Field("grpo", description="The algorithm: advantages, policy loss and defaults (docs/algorithms.md).")
    loss_agg_mode: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] | None = Field(
        None, description="How token losses become one number; null: the algorithm's own."
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's learning rate after the warm-up.")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rates after the warm-up, down to min_lr_ratio at the end."
    )
    lr_warmup_steps: int = Field(0, ge=0, description="Updates over which the learning rates rise linearly.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Share of the learning rate that is left at the end.")
    total_training_steps: int | None = Field(
        None, ge=1, description="Updates after which the schedule has reached its end; null: run.num_steps."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    num_minibatches: int = Field(
        2, ge=1, description="Optimizer steps per update; the admitted groups are cut into so many parts."
    )
    clip_ratio_low: float | None = Field(
        None, gt=0, le=1, description="The probability ratio is cut off below 1 - this; null: the algorithm's own."
    )
    clip_ratio_high: float | None = Field(
        None, gt=0, description="The probability ratio is cut off above 1 + this; null: the algorithm's own."
    )
    kl_coefficient: float = Field(
        0.0, ge=0, description="Weight of the KL to the starting policy; 0 loads no reference policy."
    )
    kl_penalty: Literal["k1", "k2", "k3"] | None = Field(
        None,
        description="Estimator of that KL; null: the algorithm's own. k1 belongs in the reward: as a loss its gradient "
        "has mean zero.",
    )
    use_kl_in_reward: bool | None = Field(
        None, description="Take the KL off the reward instead of adding it to the loss; null: the algorithm's own."
    )
    overlong_buffer_tokens: int | None = Field(
        None,
        ge=0,
        description="Responses that come closer than this to rollout.max_response_tokens lose reward; 0: none do; "
        "null: a fifth of it with dapo, none with the others.",
    )
    overlong_penalty_factor: float = Field(1.0, ge=0, description="Reward that a response of full length loses.")
    rollout_is: Literal["token", "sequence"] | None = Field(
        None,
        description="Truncated importance sampling between the policy that sampled and the learner's before the update "
        "(engine differences, policy lag); null: the sampled log-probs are the old policy of the loss.",
    )
    rollout_is_threshold: float = Field(2.0, gt=0, description="Importance weights are cut off above this.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount per token (ppo, reinforce_pp).")
    lam: float = Field(1.0, ge=0, le=1, description="lambda of generalised advantage estimation (ppo).")
    value_learning_rate: float = Field(3e-4, gt=0, description="AdamW's learning rate of the value model (ppo).")
    cliprange_value: float = Field(
        0.5, gt=0, description="The value may leave its estimate before the update by this much (ppo)."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    max_skipped_updates: int = Field(
        3,
        ge=0,
        description="Optimizer steps in a row that are left out for a loss or gradient that is not finite; one more is "
        "an error.",
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute each layer's activations in the backward pass: less memory, a third more time."
    )
    num_workers: int = Field(1, ge=1, description="Train workers; with more than one they share the model (FSDP2).")
    num_threads: int = Field(2, ge=1, description="Torch threads per train worker: part of the result, to the bit.")
    num_cpus_per_worker: float = Field(1.0, ge=0, description="CPUs that Ray reserves per train worker.")
    num_gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs that Ray reserves per train worker; above 0 it trains on the GPU."
    )
    microbatch_tokens: int = Field(16_384, ge=1, description="Tokens (with padding) per forward pass and worker.")
    start_deadline_s: float = Field(300, gt=0, description="The train worker must be up by then.")
    update_deadline_s: float = Field(600, gt=0, description="An update, a save or an export must be done by then.")

    @property
    def needs_groups(self) -> bool:
        """Does the algorithm compare rollouts of one prompt with each other?"""
        return self.loss not in ("ppo", "reinforce_pp")


class EvaluationConfig(Section):
    """Evaluation of the policy and of the predictor; its rollouts enter neither history nor training."""

    every_steps: int = Field(10, ge=1, description="Evaluate every so many steps, before the first and after the last.")
    rollouts_per_prompt: int = Field(
        4, ge=1, description="Rollouts per evaluation prompt; pass@k is reported for k = 1, 2, 4, ... up to it."
    )
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of evaluation and probes.")
    num_probe_prompts: int = Field(256, ge=0, description="Size of the pool probe; 0 switches both probes off.")
    probe_rollouts: int = Field(16, ge=1, description="Rollouts per probe prompt.")
    probe_every_steps: int = Field(
        30, ge=1, description="Probes are measured at the evaluations that fall on a multiple of this, and at the last."
    )


class CheckpointConfig(Section):
    """Checkpoints of learner, selector, history and loop, committed together by one manifest."""

    every_steps: int = Field(10, ge=1)
    keep_last: int = Field(2, ge=1)


class ClusterConfig(Section):
    """Where the actors live."""

    address: str | None = Field(
        None, description="Ray address; null joins the job's cluster if there is one, else starts a local one."
    )
    local_num_cpus: int | None = Field(
        None, ge=1, description="CPUs a local cluster offers; null: as many as the machine has."
    )
    local_dashboard: bool = Field(True, description="A local cluster serves Ray's dashboard on 127.0.0.1.")
    object_store_memory_bytes: int = Field(256 << 20, ge=80 << 20, description="Object store of a local cluster.")


class TrainConfig(Section):
    """One training run."""

    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = Field(default_factory=WarmStartConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    learning: LearningConfig = Field(default_factory=LearningConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if self.rollout.group_size < 2 and self.learning.needs_groups:
            raise ValueError(
                f"rollout.group_size: {self.learning.loss} compares the rollouts of a prompt and needs at least 2, got "
                f"{self.rollout.group_size}; set rollout.group_size, or learning.loss to ppo or reinforce_pp"
            )
        if self.run.max_policy_lag > 0 and self.selection.selector == "oracle":
            raise ValueError(
                "run.max_policy_lag: the oracle has to see what the newest weights can do, got a lag of "
                f"{self.run.max_policy_lag}; set run.max_policy_lag=0 or another selection.selector"
            )
        num_pool = self.data.num_generated_prompts
        if num_pool is not None:
            if self.selection.num_prompts > num_pool:
                raise ValueError(
                    f"selection.num_prompts: {self.selection.num_prompts} prompts per step do not fit a pool of "
                    f"{num_pool}; lower selection.num_prompts or raise data.{self.data.task}.num_pool_prompts"
                )
            if self.evaluation.num_probe_prompts > num_pool:
                raise ValueError(
                    f"evaluation.num_probe_prompts: a pool probe of {self.evaluation.num_probe_prompts} does not fit a "
                    f"pool of {num_pool}; lower evaluation.num_probe_prompts"
                )
        return self


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for depth, name in enumerate(parents):
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"{dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section; remove one of the two"
            )
        node = child
    node[last] = value


def _explain(error: ValidationError, section: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known: Any = section
        for part in first["loc"][:-1]:
            known = known.model_fields[str(part)].annotation
        return f"{key}: unknown key; known here: {', '.join(known.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # from a section's own check, which names the key inside the section
        return f"{key}.{message}" if key else message
    return f"{key}: {message}, got {first['input']!r}; change {key}"


C = TypeVar("C", bound=Section)


def load_config(section: type[C], file: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, lay ``key.path=value`` overrides over it (values are YAML) and validate.

    Raises ConfigError with one line that names the key and the remedy.
    """
    tree: Any = {}
    if file is not None:
        try:
            tree = yaml.safe_load(file.read_text()) or {}
        except OSError as error:
            raise ConfigError(f"--config: cannot read {file}: {error.strerror}; give an existing YAML file") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"--config: {file} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"--config: {file} must hold sections (a mapping), got {type(tree).__name__}")
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"expected key=value, got {override!r}; write for instance run.num_steps=5")
        _set(tree, key, yaml.safe_load(value))
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, section)) from error
