"""One training run: all sections together."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gps_ray.base.devices import DEVICES
from gps_ray.base.types import Sampling
from gps_ray.config.data import DataConfig
from gps_ray.config.facts import Fact, Resume
from gps_ray.config.learning import LearningConfig
from gps_ray.config.policy import ModelConfig, WarmStartConfig
from gps_ray.config.rollout import RolloutConfig, StopStrings
from gps_ray.config.section import ConfigSection
from gps_ray.config.selection import SelectionConfig

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "EvaluationConfig",
    "RunConfig",
    "SuiteConfig",
    "TrackingConfig",
    "TrainConfig",
]


class RunConfig(ConfigSection):
    """The run as a whole."""

    directory: Annotated[Path, Resume.FREE] = Field(
        Path("runs/default"), description="Run folder; everything the run writes lies in it."
    )
    seed: int = Field(0, ge=0, description="Run seed: every draw is keyed by it.")
    date: Annotated[datetime.date | None, Resume.FREE] = Field(
        None, description="The day that a chat template is told; null: that of the run's first start, on a resume too."
    )
    num_steps: Annotated[int, Resume.FREE] = Field(90, ge=1, description="Optimizer steps of the policy.")
    max_policy_lag: int = Field(
        0, ge=0, description="Rollouts may run ahead of the learner by so many policy versions; 0: in step with it."
    )
    max_idle_steps: Annotated[int | None, Resume.FREE] = Field(
        20, ge=1, description="A run ends after so many steps in a row without a useful group; null: never."
    )
    sample_every_steps: Annotated[int, Resume.FREE] = Field(
        10, ge=1, description="Keep readable responses every so many steps."
    )
    time_limit_s: Annotated[float | None, Resume.FREE] = Field(
        None,
        gt=0,
        description="Seconds of this start after which the run has ended, with a checkpoint, as far as the longest "
        "step tells; null: none.",
    )
    preemption_grace_s: Annotated[float, Resume.FREE] = Field(
        60.0,
        gt=0,
        description="After SIGTERM or Ctrl-C the step at hand has so long to end and be checkpointed; then the run "
        "ends without.",
    )
    lease_s: Annotated[float, Resume.FREE] = Field(
        60.0,
        gt=1,
        description="Seconds without a sign of life after which a run folder that a driver on another host holds is "
        "free; a dead one on the same host frees it at once.",
    )

    stall_timeout_s: Annotated[float | None, Resume.FREE] = Field(
        900.0,
        gt=0,
        description="Where nothing moves for so many seconds (no phase or step begins, no remote call ends), the run "
        "says who waits for what, then does what on_stall says; null: never.",
    )
    on_stall: Annotated[Literal["warn", "stop"], Resume.FREE] = Field(
        "warn",
        description="warn: the run goes on. stop: it ends with exit code 3; --resume goes on from its checkpoint.",
    )
    mirror: Annotated[str | None, Resume.FREE] = Field(
        None,
        description="Where checkpoints, records and the final model go as well, beside the training: s3://bucket/folder"
        "?endpoint_override=host:port or any other URI of pyarrow.fs (fsspec+...:// of fsspec). --resume fetches from "
        "it what the run folder lacks. null: nowhere.",
    )
    mirror_deadline_s: Annotated[float, Resume.FREE] = Field(
        600.0, ge=0, description="When a run ends, what is not on run.mirror yet has so long to get there."
    )

    @property
    def num_live_versions(self) -> int:
        """Versions of the policy that some engine may still read when one is published, itself included.

        When version v is published, the rollouts of step v are done, and those of the steps up to v + lag may be under
        way with versions v - lag .. v - 1. An engine that has nothing to do may still be reading v - 1 - lag.
        """
        return self.max_policy_lag + 2


class SuiteConfig(ConfigSection):
    """One more evaluation set; what is null is as in ``evaluation``."""

    file: Path = Field(description="Parquet evaluation set, columns as data.evaluation_file.")
    task: str | None = Field(None, description="Verifier, as data.task, by_source among them; null: data.task.")
    task_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of task.")
    max_prompts: int | None = Field(None, ge=1, description="Only the first so many prompts of the file.")
    rollouts_per_prompt: int | None = Field(None, ge=1, description="As evaluation.rollouts_per_prompt.")
    temperature: float | None = Field(None, ge=0, description="As evaluation.temperature.")
    top_p: float | None = Field(None, gt=0, le=1, description="As rollout.top_p.")
    top_k: int | None = Field(None, ge=0, description="As rollout.top_k.")
    min_p: float | None = Field(None, ge=0, lt=1, description="As rollout.min_p.")
    stop: StopStrings | None = Field(None, description="As rollout.stop.")
    max_response_tokens: int | None = Field(None, ge=1, description="As rollout.max_response_tokens.")

    @model_validator(mode="after")
    def _possible(self) -> SuiteConfig:
        if self.task_options and self.task is None:
            raise ValueError("task_options: goes with task, which is null; set task beside it")
        return self


SuiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]


class EvaluationConfig(ConfigSection):
    """Evaluation of the policy and of the predictor; its rollouts enter neither history nor training."""

    every_steps: int = Field(10, ge=1, description="Evaluate every so many steps, before the first and after the last.")
    rollouts_per_prompt: int = Field(
        4, ge=1, description="Rollouts per evaluation prompt; pass@k is reported for k = 1, 2, 4, ... up to it."
    )
    temperature: float = Field(
        1.0, ge=0, description="Sampling temperature of the evaluation; 0: greedy. Probes are sampled as rollouts are."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="As rollout.top_p; null: the rollouts' own.")
    top_k: int | None = Field(None, ge=0, description="As rollout.top_k; null: the rollouts' own.")
    min_p: float | None = Field(None, ge=0, lt=1, description="As rollout.min_p; null: the rollouts' own.")
    stop: StopStrings | None = Field(None, description="As rollout.stop; null: the rollouts' own.")
    max_response_tokens: int | None = Field(
        None, ge=1, description="As rollout.max_response_tokens; null: the rollouts' own."
    )
    suites: Annotated[dict[SuiteName, SuiteConfig], Fact.SHARED] = Field(
        default_factory=dict,
        description="More evaluation sets by name, measured beside data.evaluation_file as val/<name>/...",
    )
    num_probe_prompts: Annotated[int, Fact.SHARED] = Field(
        256, ge=0, description="Size of the pool probe; 0 switches both probes off."
    )
    probe_rollouts: int = Field(16, ge=1, description="Rollouts per probe prompt.")
    probe_every_steps: int = Field(
        30, ge=1, description="Probes are measured at the evaluations that fall on a multiple of this, and at the last."
    )


class CheckpointConfig(ConfigSection):
    """Checkpoints of learner, selector, history and loop, committed together by one manifest."""

    every_steps: Annotated[int, Resume.FREE_IN_STEP] = Field(10, ge=1, description="Write one every so many steps.")
    every_s: Annotated[float | None, Resume.FREE] = Field(
        None,
        gt=0,
        description="Write one after the step at hand, too, when the last is so many seconds old; null: never. Not "
        "with run.max_policy_lag, where a break between any two steps would change the result.",
    )
    keep_last: Annotated[int, Resume.FREE] = Field(2, ge=1, description="Older ones are deleted.")
    max_skipped: Annotated[int, Resume.FREE] = Field(
        3,
        ge=0,
        description="A checkpoint that cannot be written (a full disk) is skipped; after so many in a row the next one "
        "ends the run, with exit code 3.",
    )
    keep_best: Annotated[int, Resume.FREE] = Field(
        0, ge=0, description="So many of the highest val/pass@1 are kept as well, of those whose step was evaluated."
    )


class TrackingConfig(ConfigSection):
    """Where metrics go besides the run folder. A tracker that fails ends no run."""

    trackers: tuple[str, ...] = Field(
        ("tensorboard",),
        description="Some of tensorboard, wandb, mlflow, or import paths of your own, package.module:Class; []: none.",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Keyword arguments by tracker, for instance {wandb: {project: my-project, mode: online}}.",
    )


class ClusterConfig(ConfigSection):
    """Where the actors live."""

    address: str | None = Field(
        None, description="Ray address; null joins the job's cluster if there is one, else starts a local one."
    )
    connect_deadline_s: float = Field(
        120.0, gt=0, description="To join, or start, a Ray may take so long; then the job ends with one line."
    )
    head_deadline_s: float = Field(
        20.0,
        gt=0,
        description="A job ends, with one line, when Ray's head has not answered for so long. From 60 on Ray is "
        "quicker, and says less (RAY_gcs_rpc_server_reconnect_timeout_s).",
    )
    gpu: str | None = Field(
        None,
        description=f"What the GPUs are, for the plan of memory and time: {', '.join(DEVICES)}; null: not known, so "
        "nothing is held against their memory.",
    )
    local_num_cpus: int | None = Field(
        None, ge=1, description="CPUs a local cluster offers; null: as many as the machine has."
    )
    local_dashboard: bool = Field(True, description="A local cluster serves Ray's dashboard on 127.0.0.1.")
    object_store_memory_bytes: int = Field(256 << 20, ge=80 << 20, description="Object store of a local cluster.")

    @field_validator("gpu")
    @classmethod
    def _is_known(cls, gpu: str | None) -> str | None:
        if gpu is not None and gpu not in DEVICES:
            raise ValueError(f"expected one of {', '.join(DEVICES)}, or null, got {gpu!r:.100}; give one of them")
        return gpu


def _own_sampling(section: EvaluationConfig | SuiteConfig) -> dict[str, Any]:
    keys = ("temperature", "max_response_tokens", "top_p", "top_k", "min_p", "stop")
    own = {key: getattr(section, key) for key in keys}
    return {key: value for key, value in own.items() if value is not None}


class TrainConfig(ConfigSection):
    """One training run."""

    run: RunConfig = Field(default_factory=RunConfig)
    data: Annotated[DataConfig, Fact.SHARED] = Field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Fact.SHARED] = Field(default_factory=ModelConfig)
    warm_start: Annotated[WarmStartConfig, Fact.SHARED] = Field(default_factory=WarmStartConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    learning: LearningConfig = Field(default_factory=LearningConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    tracking: Annotated[TrackingConfig, Resume.FREE] = Field(default_factory=TrackingConfig)
    cluster: Annotated[ClusterConfig, Resume.FREE, Fact.SHARED] = Field(default_factory=ClusterConfig)

    @property
    def makes_warm_start(self) -> bool:
        """No model folder is named, and the engine needs a model: the embedded one, after its warm start."""
        return self.model.path is None and self.rollout.engine != "simulated"

    @property
    def rollout_sampling(self) -> Sampling:
        """Of the rollouts, and of whatever predicts or measures how they turn out: probes, the oracle."""
        rollout = self.rollout
        return Sampling(
            temperature=rollout.temperature,
            max_response_tokens=rollout.max_response_tokens,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            stop=rollout.stop,
            truncated_is_wrong=self.learning.truncated == "wrong",
        )

    @property
    def evaluation_sampling(self) -> Sampling:
        """Of the evaluation set. A response that is cut off is judged by its text."""
        return replace(self.rollout_sampling, truncated_is_wrong=False, **_own_sampling(self.evaluation))

    def suite_sampling(self, name: str) -> Sampling:
        """Of the suite of that name in ``evaluation.suites``."""
        return replace(self.evaluation_sampling, **_own_sampling(self.evaluation.suites[name]))

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if "evaluation" in self.evaluation.suites:
            raise ValueError(
                "evaluation.suites.evaluation: the set of the data section has that name; choose another name"
            )
        for name, suite in self.evaluation.suites.items():
            num = suite.rollouts_per_prompt or self.evaluation.rollouts_per_prompt
            if num > 1 and self.suite_sampling(name).is_greedy:
                key = f"evaluation.suites.{name}"
                raise ValueError(
                    f"{key}.rollouts_per_prompt: a greedy response is the same every time ({key}.temperature=0), got "
                    f"{num} of them; set {key}.rollouts_per_prompt=1"
                )
        if self.evaluation.temperature == 0 and self.evaluation.rollouts_per_prompt > 1:
            raise ValueError(
                "evaluation.rollouts_per_prompt: a greedy response is the same every time (evaluation.temperature=0), "
                f"got {self.evaluation.rollouts_per_prompt} of them; set evaluation.rollouts_per_prompt=1"
            )
        if self.checkpoint.every_s is not None and self.run.max_policy_lag > 0:
            raise ValueError(
                "checkpoint.every_s: with a policy lag a checkpoint by the clock would change the result, got "
                f"{self.checkpoint.every_s:g} and run.max_policy_lag={self.run.max_policy_lag}; set one to null or 0"
            )
        sizes = self.selection.group_size_range
        if sizes is not None and not sizes[0] <= self.rollout.group_size <= sizes[1]:
            raise ValueError(
                f"selection.group_size_range: expected bounds around rollout.group_size = {self.rollout.group_size}, "
                f"got {list(sizes)}; change one of the two"
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
