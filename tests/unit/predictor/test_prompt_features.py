"""Features: unit norm, cached, refused where a provider is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import wordllama

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import FloatArray, Prompt
from gps_ray.config import FeaturesConfig
from gps_ray.predictor.prompt_features import WordLlamaFeatures, build_prompt_table, embed_texts

CALLS: list[int] = []


class LengthFeatures:
    """A provider of a user's own: letters and blanks; a text without either has none."""

    name = "lengths 1"
    dimension = 2

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config

    def embed(self, texts: Sequence[str]) -> FloatArray:
        CALLS.append(len(texts))
        return np.array([[sum(c.isalpha() for c in text), text.count(" ")] for text in texts], dtype=np.float64)


class NarrowFeatures(LengthFeatures):
    name = "too narrow"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts), 1))


class InfiniteFeatures(LengthFeatures):
    name = "infinite"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.full((len(texts), 2), np.inf)


def _config(directory: Path, provider: str) -> FeaturesConfig:
    return FeaturesConfig(provider=provider, cache_directory=directory)


def test_wordllama_offline_unit_norm_and_blank_text(tmp_path: Path) -> None:
    config = FeaturesConfig(dimension=64, cache_directory=tmp_path)
    vectors = embed_texts(["make 24 from 4 6 8", "make 25 from 4 6 8", "", "the capital of France"], config)
    assert vectors.shape == (4, 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1], atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3]


def test_wordllamas_vectors_are_its_own_to_the_bit() -> None:
    texts = ["make 24 from 4 6 8", "", "the capital of France " * 40, "\u6570\u5b66 \U0001f9ee", "a"]
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    found = WordLlamaFeatures(FeaturesConfig()).embed(texts)
    np.testing.assert_array_equal(found, model.embed(texts, norm=False))


def test_cache_is_keyed_by_provider_and_texts_and_survives_a_torn_file(tmp_path: Path) -> None:
    config = _config(tmp_path, f"{__name__}:LengthFeatures")
    CALLS.clear()
    first = embed_texts(["a b", "abc", "1"], config)
    np.testing.assert_allclose(first, [[2 / 5**0.5, 1 / 5**0.5], [1, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(embed_texts(["a b", "abc", "1"], config), first)
    assert CALLS == [3]
    embed_texts(["a b", "ab", "c1"], config)  # the same letters, cut elsewhere
    assert CALLS == [3, 3]
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-3])
    np.testing.assert_array_equal(embed_texts(["a b", "abc", "1"], config), first)
    assert CALLS == [3, 3, 3]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("provider", "found"), [("NarrowFeatures", r"\(1, 1\)"), ("InfiniteFeatures", "not finite")])
def test_a_provider_that_returns_the_wrong_thing_is_refused(tmp_path: Path, provider: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"selection\.features\.provider.*shape \(1, 2\).*{found}"):
        embed_texts(["a"], _config(tmp_path, f"{__name__}:{provider}"))


@pytest.mark.parametrize("provider", ["bert", "no.such.module:X", f"{__name__}:Absent"])
def test_an_unknown_provider_names_the_key(tmp_path: Path, provider: str) -> None:
    with pytest.raises(ConfigError, match=r"selection\.features\.provider"):
        embed_texts(["a"], _config(tmp_path, provider))


def test_table_holds_the_pool_first_and_no_prompt_twice(tmp_path: Path) -> None:
    prompts = [Prompt(prompt_id=str(i), text="x" * i, answer="", task="t") for i in range(5)]
    table = build_prompt_table(prompts[:3], prompts[2:], _config(tmp_path, f"{__name__}:LengthFeatures"))
    assert table.prompt_ids == ("0", "1", "2", "3", "4")
    assert table.texts == ("", "x", "xx", "xxx", "xxxx")
    assert table.num_pool == 3
    assert table.embeddings.shape == (5, 2)
    empty = build_prompt_table([], [], _config(tmp_path, f"{__name__}:LengthFeatures"))
    assert empty.embeddings.shape == (0, 2)
