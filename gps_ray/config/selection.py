"""Which prompts next: predictors, rivals and the selection itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gps_ray.config.facts import Resume
from gps_ray.config.section import ConfigSection

__all__ = [
    "ArcusConfig",
    "BetaCountsConfig",
    "DpsConfig",
    "FeaturesConfig",
    "FusedConfig",
    "GresoConfig",
    "GuardConfig",
    "PclConfig",
    "PpmConfig",
    "SecConfig",
    "SelectionConfig",
]


class FeaturesConfig(ConfigSection):
    """Prompt features for predictor and diversity."""

    provider: str = Field("wordllama", description="'wordllama', or an import path 'package.module:Class'.")
    dimension: Literal[64, 128, 256] = Field(256, description="Numbers per prompt.")
    cache_directory: Annotated[Path | None, Resume.FREE] = Field(
        Path("runs/features"), description="Features by hash of provider and texts; null: they are not kept."
    )
    prompt_states: Path | None = Field(
        None,
        description="File of jobs.prompt_states: what a model's middle layers say of the prompts, a further kernel of "
        "gps_fused. null: none.",
    )
    policy_states: bool = Field(
        False,
        description="Read the prompts' states from the policy that the run starts from, once, in the process that "
        "starts the run, and keep them in cache_directory.",
    )
    state_depths: tuple[float, ...] = Field(
        (0.75,), min_length=1, description="policy_states: which layers, as shares of the model's depth."
    )
    state_max_tokens: int = Field(
        512, ge=2, description="policy_states: tokens that are read of a prompt, from its end."
    )

    @model_validator(mode="after")
    def _one_source_of_states(self) -> FeaturesConfig:
        if self.policy_states and self.prompt_states is not None:
            raise ValueError("prompt_states and policy_states: expected one of the two; leave the other out")
        if not all(0 < depth <= 1 for depth in self.state_depths):
            raise ValueError(f"state_depths: expected shares in (0, 1], got {list(self.state_depths)}")
        return self


class PpmConfig(ConfigSection):
    """The prompt predictive model (GPS, arXiv 2602.01970). The paper gives few of these values; the others are ours."""

    model_dim: int = Field(64, ge=8, description="Width of the encoders.")
    num_layers: int = Field(1, ge=1, description="Transformer layers of each of the two encoders.")
    num_heads: int = Field(4, ge=1, description="Attention heads of each encoder.")
    decoder_hidden: int = Field(128, ge=8, description="Width of the decoder's hidden layer.")
    latent_dim: int = Field(16, ge=1, description="Z: size of the latent context z.")
    min_latent_std: float = Field(0.1, gt=0, lt=1, description="Smallest standard deviation of z")
    rate_scale: float | None = Field(
        None,
        gt=0,
        description="Scale of the (centred) success rate among the E features of a token; null: sqrt(E), so that it "
        "weighs as much as they do together. At 1 the latent carried almost nothing (swap test).",
    )
    num_latent_draws: int = Field(16, ge=1, description="M: draws of z per prediction")
    learning_rate: float = Field(1.5e-3, gt=0, description="Adam's learning rate.")
    kl_weight: float = Field(1.0, ge=0, description="beta: weight of the KL between posterior and prior of z.")
    replay_steps: int = Field(32, ge=1, description="Steps replayed per update; 1 is the paper's newest batch only.")
    updates_per_step: int = Field(1, ge=1, description="K: passes over the replay per step")
    pairs_per_update: int = Field(2, ge=1, description="Replayed pairs per gradient step of Adam")
    prior: Literal["history", "standard"] = Field(
        "history", description="standard replaces the prior by N(0, I) (ablation)."
    )
    use_latent: bool = Field(True, description="False forces z = 0 (ablation).")


class BetaCountsConfig(ConfigSection):
    """Discounted Beta counts per prompt, the predictor of mopps (arXiv 2507.04632) and beta_mean."""

    discount: float = Field(
        0.9, ge=0, le=1, description="lam: what a visit keeps of the counts; mopps 0.5 Countdown, 1.0 maths."
    )
    prior_right: float = Field(1.0, gt=0, description="a0: right rollouts that a prompt begins with.")
    prior_wrong: float = Field(1.0, gt=0, description="b0: wrong rollouts that a prompt begins with.")


class DpsConfig(ConfigSection):
    """DPS (arXiv 2603.10887): a three-state Markov chain per prompt."""

    discount: float = Field(
        0.5, ge=0, le=1, description="lam: what a step keeps of the transition counts; 0.5 Countdown, 0.7 maths."
    )
    prior_count: float = Field(1.0, gt=0, description="alpha0: Dirichlet pseudo-count of every transition.")


class GresoConfig(ConfigSection):
    """GRESO (arXiv 2506.02177): skip prompts whose recent groups were not useful, with adapted probabilities."""

    start_probability: float = Field(0.5, gt=0, lt=1, description="p_easy and p_hard at the start.")
    min_survival: float = Field(0.01, gt=0, le=1, description="Least probability of not being skipped.")
    probability_step: float = Field(0.01, ge=0, lt=1, description="Change of p_easy and p_hard per step.")
    min_probability: float = Field(0.05, gt=0, lt=1, description="p_easy and p_hard never fall below this.")
    max_probability: float = Field(0.95, gt=0, lt=1, description="p_easy and p_hard never rise above this.")
    target_easy: float = Field(0.083, ge=0, le=1, description="Wanted share of all-right groups among the rolled out.")
    target_hard: float = Field(0.167, ge=0, le=1, description="Wanted share of all-wrong groups.")
    safety_factor: float = Field(1.25, ge=1, description="Oversampling of the later rounds of a step.")


class ArcusConfig(ConfigSection):
    """ARCUS (arXiv 2609.38018): beliefs of psi = arcsin sqrt(success rate), in radians. The sizes are ours."""

    prior_variance: float = Field(0.15, gt=0, description="Of psi before the first outcome, around a rate of 1/2.")
    drift_variance: float = Field(0.005, ge=0, description="Growth of every belief's variance per step.")
    upward_drift: float = Field(0.002, ge=0, description="Growth of every psi per step: training helps.")


class SecConfig(ConfigSection):
    """SEC (arXiv 2505.14970): a bandit over kinds of prompts, here clusters of their text features."""

    num_kinds: int = Field(8, ge=2, description="C: clusters of the pool, the arms of the bandit.")
    rate: float = Field(0.5, gt=0, le=1, description="Weight of the newest step in the value of a kind.")
    temperature: float = Field(0.4, gt=0, description="Of the softmax over values, which lie in [0, 1].")


class PclConfig(ConfigSection):
    """PCL (arXiv 2510.01135): a value model of the prompt. The paper's is a language model; the sizes here are ours."""

    hidden_dim: int = Field(256, ge=1, description="Width of each of the two hidden layers.")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW's learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's decoupled weight decay.")
    updates_per_step: int = Field(
        4, ge=1, description="Gradient steps on the newest batch; from random weights one per step learns too slowly."
    )


class FusedConfig(ConfigSection):
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
    states_variance: float = Field(
        2.4,
        ge=0,
        description="Kernel on the prompts' states (features.prompt_states or policy_states), where there are any.",
    )
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
    num_kinds: int = Field(
        16, ge=2, description="Clusters of the pool's texts whose progress the acquisition learning_progress follows."
    )
    own_record: bool = Field(
        True, description="False keeps no prompt's own effect: its outcomes teach the shared part alone (ablation)."
    )


class GuardConfig(ConfigSection):
    """A way back to uniform slots where the policy falls on prompts that are not selected (selection/guard.py)."""

    enabled: bool = Field(False, description="Watch the slots that are drawn evenly, and draw more while it falls.")
    min_share: float = Field(
        0.125, gt=0, le=1, description="Least share of the slots drawn evenly; the selector's random slots count."
    )
    max_share: float = Field(1.0, gt=0, le=1, description="Largest share: 1 is uniform selection while it falls.")
    window_groups: int = Field(
        64, ge=16, description="Groups of even slots that are compared with those of every earlier such window."
    )
    confidence: float = Field(
        0.99, ge=0.8, lt=1, description="One-sided, over all the comparisons of a window together."
    )

    @model_validator(mode="after")
    def _rises(self) -> GuardConfig:
        if self.max_share < self.min_share:
            raise ValueError(f"max_share: expected at least min_share={self.min_share:g}, got {self.max_share:g}")
        return self


class SelectionConfig(ConfigSection):
    """Which prompts next."""

    selector: str = Field(
        "gps",
        description="uniform, gps, gps_paper, ... or an import path 'package.module:name' of a factory or a "
        "SelectorRow.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="What a selector named by import path takes as keyword arguments."
    )
    predictor: str | None = Field(
        None,
        description="ppm, ... or an import path 'package.module:name' of a factory or a PredictorRow; null: the "
        "selector's own.",
    )
    predictor_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of a predictor named by import path."
    )
    acquisition: str | None = Field(
        None,
        description="nearest_half, useful_group, useful_per_token, ... or an import path 'package.module:function'; "
        "null: the selector's own.",
    )
    acquisition_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of an acquisition named by import path."
    )
    sampling_exponent: float | None = Field(
        None,
        gt=0,
        description="Prompts are drawn with probability ~ score ** this instead of taken by rank; null: by rank. Needs "
        "an acquisition whose scores are not negative (useful_group, useful_per_token).",
    )
    overhead_tokens: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="What a response costs beside its own tokens, as so many tokens more; only the acquisition "
        "useful_per_token reads it.",
    )
    num_prompts: int = Field(32, ge=1, description="B: prompts per step.")
    candidate_multiple: int | None = Field(
        8, ge=1, description="Candidates are this many times B, at random; null: the whole pool."
    )
    diversity_within: float = Field(
        0.04,
        ge=0,
        description="lambda of the dispersion within the batch, beside the score; with sampling_exponent beside its "
        "logarithm, which has Gumbel noise of 1.3 / sampling_exponent.",
    )
    diversity_recent: float = Field(0.04, ge=0, description="lambda of the distance from recent batches.")
    num_recent_batches: int = Field(4, ge=0, description="Batches the second term looks back on.")
    random_share: float = Field(
        0.0, ge=0, le=1, description="Share of B filled at random, to keep the predictor calibrated."
    )
    warm_up_steps: int = Field(
        0,
        ge=0,
        description="The random share falls from 1 to random_share over so many first steps, in which no predictor "
        "knows much; 0: from the first step as later. For selectors that score prompts.",
    )
    group_size_range: tuple[int, int] | None = Field(
        None,
        description="[fewest, most] rollouts of a prompt, rollout.group_size on average: shared out by what a further "
        "rollout adds to the chance of a useful group. Needs a predictor of success rates (dps has none); null: "
        "rollout.group_size for every prompt.",
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
    num_threads: Annotated[int, Resume.APPROXIMATE] = Field(1, ge=1, description="Torch threads of the selector.")
    deadline_s: Annotated[float, Resume.FREE] = Field(
        300, gt=0, description="Each answer of the selector is due by then."
    )
    ppm: PpmConfig = Field(default_factory=PpmConfig)
    beta_counts: BetaCountsConfig = Field(default_factory=BetaCountsConfig)
    dps: DpsConfig = Field(default_factory=DpsConfig)
    greso: GresoConfig = Field(default_factory=GresoConfig)
    pcl: PclConfig = Field(default_factory=PclConfig)
    arcus: ArcusConfig = Field(default_factory=ArcusConfig)
    sec: SecConfig = Field(default_factory=SecConfig)
    fused: FusedConfig = Field(default_factory=FusedConfig)
    features: FeaturesConfig = Field(default_factory=FeaturesConfig)
    guard: GuardConfig = Field(default_factory=GuardConfig)

    @model_validator(mode="after")
    def _possible(self) -> SelectionConfig:
        if self.group_size_range is not None and not 2 <= self.group_size_range[0] <= self.group_size_range[1]:
            raise ValueError(
                f"group_size_range: expected [fewest, most] with 2 <= fewest <= most, got {list(self.group_size_range)}"
            )
        return self
