"""Frozen prompt features: WordLlama's word vectors, or a provider of the user's own; cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

import numpy as np

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.import_path import load_object
from gps_ray.base.types import FloatArray, Prompt
from gps_ray.config import FeaturesConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_states import stored_states

__all__ = ["PromptFeatures", "WordLlamaFeatures", "build_prompt_table", "embed_texts", "load_provider"]


_TEXTS_AT_ONCE = 1024


class PromptFeatures(Protocol):
    """A feature provider. ``name`` is part of the cache key: it must change whenever the features would."""

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """[N, dimension], finite; need not be normalised. A zero row stands for a prompt without features."""
        ...


class WordLlamaFeatures:
    """Mean of static token vectors (WordLlama, 256-d; 64 and 128 are its first dimensions). Deterministic."""

    def __init__(self, config: FeaturesConfig) -> None:
        self.dimension: int = config.dimension
        self.name = f"wordllama {version('wordllama')}"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        import wordllama  # half a second of import, needed only where the cache has nothing

        # The vectors lie inside the package; its own default would look for them on the network.
        model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        # What model.embed does, to the bit (a test holds it), without padding every text to the longest of its batch.
        model.tokenizer.no_padding()
        last, pooled = len(model.embedding) - 1, np.empty((len(texts), model.embedding.shape[1]), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = list(texts[start : start + _TEXTS_AT_ONCE])
            for i, encoding in enumerate(model.tokenizer.encode_batch_fast(part, add_special_tokens=False), start):
                ids = np.minimum(encoding.ids, last).astype(np.int64)
                pooled[i] = model.embedding[ids].sum(0, dtype=np.float32) / np.float32(max(len(ids), 1))
        return pooled[:, : self.dimension]


def load_provider(config: FeaturesConfig) -> PromptFeatures:
    """'wordllama', or the factory at an import path, called with the config section."""
    if config.provider == "wordllama":
        return WordLlamaFeatures(config)
    provider: PromptFeatures = load_object(config.provider, "selection.features.provider")(config)
    return provider


def embed_texts(texts: Sequence[str], config: FeaturesConfig) -> FloatArray:
    """Features of unit norm [N, E] float32 (zero rows stay zero), from the cache where it has them.

    Raises DataError where the provider returns another shape than [N, dimension], or a value that is not finite.
    """
    provider = load_provider(config)
    shape = (len(texts), provider.dimension)
    path = config.cache_directory / f"{_key(provider, texts)}.npy" if config.cache_directory else None
    cached = _read(path, shape) if path else None
    if cached is not None:
        return cached
    vectors = np.asarray(provider.embed(texts) if texts else np.zeros(shape), dtype=np.float64)
    if vectors.shape != shape or not np.isfinite(vectors).all():
        found = f"shape {vectors.shape}" if vectors.shape != shape else "values that are not finite"
        raise DataError(
            f"selection.features.provider: {config.provider} should return finite features of shape {shape}, got "
            f"{found}; mend the provider or set selection.features.provider to wordllama"
        )
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    features: FloatArray = np.divide(vectors, norm, out=np.zeros(shape), where=norm > 0).astype(np.float32)
    if path:
        try:
            _write(path, features)
        except OSError as error:
            raise DataError(
                f"selection.features.cache_directory: {path.parent} cannot be written ({one_line(error)}); choose "
                "another, or set it to null"
            ) from error
    return features


def _write(path: Path, features: FloatArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two runs may fill the cache at once: each writes its own file, the last rename wins, both hold the same.
    with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        np.save(file, features, allow_pickle=False)
    Path(file.name).replace(path)


def _key(provider: PromptFeatures, texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(f"{provider.name}\0{provider.dimension}".encode(), digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, int]) -> FloatArray | None:
    """The cached array, or None where there is none or it is not whole (it is then made anew)."""
    try:
        array: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def build_prompt_table(
    pool: Sequence[Prompt],
    extra_prompts: Sequence[Prompt],
    features_config: FeaturesConfig,
    read_policy: Callable[[Sequence[Prompt]], FloatArray] | None = None,
) -> PromptTable:
    """The pool, then prompts that are only predicted (held-out probes); one that is in the pool stands there alone.

    ``read_policy`` gives the states [N, F] of all of them where ``features_config.policy_states`` asks for them
    (``policy_reader``). Raises ConfigError where it is missing, DataError where ``prompt_states`` lacks a prompt.
    """
    in_pool = {prompt.prompt_id for prompt in pool}
    prompts = [*pool, *(prompt for prompt in extra_prompts if prompt.prompt_id not in in_pool)]
    texts = tuple(prompt.text for prompt in prompts)
    if features_config.policy_states and read_policy is not None:
        states: FloatArray | None = read_policy(prompts)
    else:
        states = stored_states(features_config, texts)
    return PromptTable(
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        texts=texts,
        embeddings=embed_texts(texts, features_config),
        num_pool=len(pool),
        states=states,
    )
