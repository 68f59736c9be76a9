"""The configuration: one frozen model per component; an unknown key is an error.

A component gets its own section, never the whole config. Field descriptions are the reference documentation.
"""

from gps_ray.config.data import ArithmeticConfig, CountdownConfig, DataConfig
from gps_ray.config.facts import Fact, KeyFacts, Resume, key_facts
from gps_ray.config.learning import LearningConfig
from gps_ray.config.policy import EmbeddedModelConfig, ModelConfig, WarmStartConfig
from gps_ray.config.rollout import RolloutConfig, SimulatedConfig, VllmConfig
from gps_ray.config.run import (
    CheckpointConfig,
    ClusterConfig,
    EvaluationConfig,
    RunConfig,
    SuiteConfig,
    TrackingConfig,
    TrainConfig,
)
from gps_ray.config.section import ConfigSection, load_config, parse_config, read_mapping
from gps_ray.config.selection import (
    ArcusConfig,
    BetaCountsConfig,
    DpsConfig,
    FeaturesConfig,
    FusedConfig,
    GresoConfig,
    GuardConfig,
    PclConfig,
    PpmConfig,
    SecConfig,
    SelectionConfig,
)
from gps_ray.config.sources import COLUMNS, SourceConfig

__all__ = [
    "COLUMNS",
    "ArcusConfig",
    "ArithmeticConfig",
    "BetaCountsConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "ConfigSection",
    "CountdownConfig",
    "DataConfig",
    "DpsConfig",
    "EmbeddedModelConfig",
    "EvaluationConfig",
    "Fact",
    "FeaturesConfig",
    "FusedConfig",
    "GresoConfig",
    "GuardConfig",
    "KeyFacts",
    "LearningConfig",
    "ModelConfig",
    "PclConfig",
    "PpmConfig",
    "Resume",
    "RolloutConfig",
    "RunConfig",
    "SecConfig",
    "SelectionConfig",
    "SimulatedConfig",
    "SourceConfig",
    "SuiteConfig",
    "TrackingConfig",
    "TrainConfig",
    "VllmConfig",
    "WarmStartConfig",
    "key_facts",
    "load_config",
    "parse_config",
    "read_mapping",
]
