"""The policy a run begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gps_ray.config.facts import Resume
from gps_ray.config.section import ConfigSection

__all__ = ["EmbeddedModelConfig", "ModelConfig", "WarmStartConfig"]


class EmbeddedModelConfig(ConfigSection):
    """The small model made on the spot where model.path is null (Hugging Face layout, loadable by vLLM)."""

    family: Literal["llama", "qwen3"] = Field(
        "llama", description="Architecture; qwen3 adds a norm on queries and keys."
    )
    hidden_size: int = Field(128, ge=32, description="Width of the residual stream.")
    num_layers: int = Field(3, ge=1, description="Transformer layers.")
    num_heads: int = Field(
        4, ge=1, description="hidden_size / num_heads is the head dimension; vLLM on CPU takes 32, 48, 64."
    )
    intermediate_size: int = Field(384, ge=1, description="Width inside the feed-forward layers.")
    max_position_embeddings: int = Field(512, ge=1, description="Longest prompt + response, in tokens.")
    tie_embeddings: bool = Field(True, description="Input and output embeddings are one matrix.")
    seed: int = Field(0, ge=0, description="Seed of the initial weights.")

    @model_validator(mode="after")
    def _possible(self) -> EmbeddedModelConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size: {self.hidden_size} does not give {self.num_heads} heads of an even dimension; "
                "change hidden_size or num_heads"
            )
        return self


class ModelConfig(ConfigSection):
    """The policy to start from."""

    path: Path | None = Field(
        None, description="A local Hugging Face folder; null makes and warm-starts the embedded model."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What forward and backward passes are computed in, and the engines' weights; AdamW's are float32.",
    )
    embedded: EmbeddedModelConfig = Field(default_factory=EmbeddedModelConfig)


class WarmStartConfig(ConfigSection):
    """Supervised training of the embedded model on generated solutions, before RL."""

    cache_directory: Annotated[Path, Resume.FREE] = Field(
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
    num_warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rates rise linearly.")
    microbatch_tokens: int = Field(2048, ge=1, description="Tokens (with padding) per forward pass.")
    seed: int = Field(0, ge=0, description="Seed of the examples and their order.")
    num_threads: int = Field(
        1,
        ge=1,
        description="Torch threads of the one train worker: part of the result. Two cost half as much CPU again.",
    )
    deadline_s: Annotated[float, Resume.FREE] = Field(
        1800, gt=0, description="The whole warm start must be done by then."
    )
