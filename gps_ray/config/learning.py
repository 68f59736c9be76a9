"""The policy update."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gps_ray.config.facts import Resume
from gps_ray.config.section import ConfigSection

__all__ = ["LearningConfig"]


class LearningConfig(ConfigSection):
    """The policy update. Where a key says "null: the algorithm's own", docs/algorithms.md lists what that is."""

    loss: str = Field(
        "grpo",
        description="The algorithm: advantages, policy loss and defaults (docs/algorithms.md); or an import path "
        "'package.module:factory' of your own.",
    )
    loss_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of your own learning.loss; the built-in ones take none."
    )
    advantage: str | None = Field(
        None,
        description="How rewards of a group become advantages: group_normalised, group_centred, leave_one_out, "
        "posterior_baseline (with what the selector predicted), or an import path 'package.module:factory' of your "
        "own; null: the algorithm's own.",
    )
    advantage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments of your own learning.advantage, or of posterior_baseline: precision, "
        "max_precision, right_reward, wrong_reward (docs/algorithms.md).",
    )
    loss_agg_mode: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] | None = Field(
        None, description="How token losses become one number; null: the algorithm's own."
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's learning rate after the warm-up.")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rates after the warm-up, down to min_lr_ratio at the end."
    )
    lr_warmup_steps: int = Field(0, ge=0, description="Updates over which the learning rates rise linearly.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Share of the learning rate that is left at the end.")
    # Where it leads is compared: gps_ray.learning.schedule.check_same_end.
    total_training_steps: Annotated[int | None, Resume.FREE] = Field(
        None,
        ge=1,
        description="Updates after which the schedule is at its end, also in a resumed run; null: run.num_steps.",
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
    truncated: Literal["keep", "wrong", "mask"] = Field(
        "keep",
        description="A response cut off at rollout.max_response_tokens: keep judges its text; wrong counts it as wrong "
        "with reward 0; mask judges it, keeps its reward in the group, and leaves its tokens out of the loss.",
    )
    min_reward_std: float = Field(
        0.01,
        ge=0,
        description="group_normalised divides by no smaller spread of a group's rewards than this; far below that of "
        "right and wrong, above that of a small shaping.",
    )
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
    max_skipped_updates: Annotated[int, Resume.FREE] = Field(
        3,
        ge=0,
        description="Optimizer steps in a row that are left out for a loss or gradient that is not finite; one more is "
        "an error.",
    )
    lora_rank: int = Field(
        0, ge=0, description="Train adapters of this rank (LoRA) and freeze the model; 0 trains the model itself."
    )
    lora_alpha: float = Field(16, gt=0, description="The adapters' share of the output is scaled by this / lora_rank.")
    lora_target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="Which layers get an adapter: all-linear (every linear layer but the head), or a list of names.",
    )
    activation_checkpointing: Annotated[bool, Resume.APPROXIMATE] = Field(
        False, description="Recompute each layer's activations in the backward pass: less memory, a third more time."
    )
    num_workers: Annotated[int, Resume.APPROXIMATE] = Field(
        1, ge=1, description="Train workers; with more than one they share the model (FSDP2)."
    )
    num_threads: Annotated[int, Resume.APPROXIMATE] = Field(
        2, ge=1, description="Torch threads per train worker: part of the result, to the bit."
    )
    num_cpus_per_worker: Annotated[float, Resume.FREE] = Field(
        1.0, ge=0, description="CPUs that Ray reserves per train worker."
    )
    num_gpus_per_worker: Annotated[float, Resume.APPROXIMATE] = Field(
        0.0, ge=0, description="GPUs that Ray reserves per train worker; above 0 it trains on the GPU."
    )
    microbatch_tokens: Annotated[int, Resume.APPROXIMATE] = Field(
        16_384, ge=1, description="Tokens (with padding) per forward pass and worker."
    )
    max_shared_prompt_tokens: Annotated[int, Resume.APPROXIMATE] = Field(
        512,
        ge=0,
        description="Rollouts of a prompt are packed behind one copy of it, in lines of at most so many tokens; 0: a "
        "copy for each. Models with sliding windows, or with layers that are no attention, always have copies.",
    )
    start_deadline_s: Annotated[float, Resume.FREE] = Field(
        300, gt=0, description="The train worker must be up by then."
    )
    update_deadline_s: Annotated[float, Resume.FREE] = Field(
        600, gt=0, description="An update, a save or an export must be done by then."
    )
