from __future__ import annotations

from pathlib import Path

import pytest

from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import make_embedded_model


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    small = EmbeddedModelConfig(hidden_size=32, num_layers=1, num_heads=1, intermediate_size=32)
    make_embedded_model(small, ("What", "is", "one", "two"), folder)
    return folder
