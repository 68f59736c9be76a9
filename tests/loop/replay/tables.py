"""Small recorded series made by a policy whose success rates are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import FeaturesConfig

GROUP_SIZE = 8


class NoFeatures:
    """Embeddings that say nothing: what is learnt comes from the text itself or from outcomes."""

    name, dimension = "nothing", 4

    def __init__(self, config: FeaturesConfig) -> None:
        pass

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.zeros((len(texts), 4))


def features(tmp_path: Path) -> list[str]:
    """Overrides that keep the tests from loading word vectors and from writing to the project."""
    return [f"features.provider={__name__}:NoFeatures", f"features.cache_directory={tmp_path / 'features'}"]


def make_texts(num_prompts: int, stream: str = "series") -> list[str]:
    """Sums of one to eight numbers: the longer, the harder."""
    rng = generator(0, f"test/{stream}")
    return [" + ".join(map(str, rng.integers(10, 99, rng.integers(1, 9)))) for _ in range(num_prompts)]


def make_logits(texts: Sequence[str], skill: float = 0.0) -> FloatArray:
    """Fall with the number of terms; each prompt has an effect of its own. [N]"""
    terms = np.array([text.count("+") + 1 for text in texts], dtype=np.float64)
    own = np.array([generator(0, "test/own", prompt=text).standard_normal() for text in texts])
    logits: FloatArray = 3.0 + skill - 0.8 * terms + own
    return logits


def write(file: Path, **columns: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


def write_series(file: Path, num_prompts: int = 80, num_points: int = 10) -> Path:
    """prompt, successes, rollouts_per_point of a policy that slowly improves."""
    texts = make_texts(num_prompts)
    rates = expit(np.stack([make_logits(texts, 0.05 * point) for point in range(num_points)], axis=1))
    right = generator(1, "test/series").binomial(GROUP_SIZE, rates)
    return write(file, prompt=texts, successes=right.tolist(), rollouts_per_point=[GROUP_SIZE] * num_prompts)


def write_static(file: Path, num_prompts: int = 300, stream: str = "static", extra: Sequence[str] = ()) -> Path:
    """prompt, successes, rollouts of a stronger policy; ``extra`` prompts stand at the end."""
    texts = list(dict.fromkeys([*make_texts(num_prompts, stream), *extra]))
    right = generator(1, "test/static").binomial(64, expit(make_logits(texts, 1.0)))
    return write(file, prompt=texts, successes=right, rollouts=[64] * len(texts))


def write_drifting(file: Path, num_prompts: int = 400, num_points: int = 44) -> Path:
    """A policy that learns fast: the length of sum that it solves half of the time grows from one number to eight.

    What was seen of a prompt early on is wrong later, and what was seen of any prompt lately tells of all others.
    """
    texts = make_texts(num_prompts, "drifting")
    terms = np.array([text.count("+") + 1 for text in texts], dtype=np.float64)
    own = generator(2, "test/own").standard_normal(num_prompts)
    frontier = np.linspace(1.0, 8.0, num_points)
    right = generator(2, "test/drifting").binomial(GROUP_SIZE, expit(1.5 * (frontier - terms[:, None]) + own[:, None]))
    return write(file, prompt=texts, successes=right.tolist(), rollouts_per_point=[GROUP_SIZE] * num_prompts)
