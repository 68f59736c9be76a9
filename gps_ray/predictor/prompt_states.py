"""What a model's middle layers say of prompts (``model/middle_states.py``), kept on disk by model and text.

A file of states holds digests of texts [N, 16] uint8 and states [N, F] float16, and says which model, depths and limit
of tokens they are of. It is written as it grows, so that a long reading that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gps_ray.base.errors import ConfigError, DataError, one_line
from gps_ray.base.types import FloatArray
from gps_ray.config import FeaturesConfig

__all__ = ["StatesOf", "StoredStates", "fill_states", "load_states", "stored_states", "text_digest"]

_FORMAT = 1
_PROMPTS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesOf:
    """model: its fingerprint; depths: shares of its layers; max_tokens: read of a prompt, from its end."""

    model: str
    depths: tuple[float, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStates:
    """of; digests of N texts; states [N, F] float16."""

    of: StatesOf
    digests: tuple[bytes, ...]
    states: FloatArray

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those that have no state, each once, in order."""
        known = set(self.digests)
        return [text for text in dict.fromkeys(texts) if text_digest(text) not in known]

    def take(self, texts: Sequence[str]) -> FloatArray:
        """Their states [K, F]; none may be missing."""
        row_of = {digest: row for row, digest in enumerate(self.digests)}
        taken: FloatArray = self.states[[row_of[text_digest(text)] for text in texts]]
        return taken

    def with_more(self, texts: Sequence[str], states: FloatArray) -> StoredStates:
        digests = (*self.digests, *map(text_digest, texts))
        joined = states if not self.digests else np.concatenate([self.states, states])
        return StoredStates(of=self.of, digests=digests, states=joined)

    def save(self, file: Path) -> None:
        """Written beside and renamed: a reader finds the old file or the new one."""
        file.parent.mkdir(parents=True, exist_ok=True)
        digests = np.frombuffer(b"".join(self.digests), dtype=np.uint8).reshape(-1, 16)
        about = {"about": json.dumps({"format": _FORMAT, **asdict(self.of)})}
        with NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as partial:
            pass
        save_file({"digests": digests, "states": np.ascontiguousarray(self.states)}, partial.name, about)
        Path(partial.name).replace(file)


def text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def load_states(file: Path) -> StoredStates:
    """Raises DataError where the file holds no whole states of this format."""
    try:
        with safe_open(file, framework="numpy") as stored:
            about = json.loads(stored.metadata()["about"])
            digests, states = stored.get_tensor("digests"), stored.get_tensor("states")
        if about.pop("format") != _FORMAT or len(digests) != len(states):
            raise DataError(f"{file}: prompt states of another format; make them anew (jobs.prompt_states)")
        of = StatesOf(model=about["model"], depths=tuple(about["depths"]), max_tokens=about["max_tokens"])
        return StoredStates(of=of, digests=tuple(row.tobytes() for row in digests), states=states)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{file}: expected prompt states written by jobs.prompt_states ({one_line(error)}); change "
            "selection.features.prompt_states"
        ) from error


def stored_states(config: FeaturesConfig, texts: Sequence[str]) -> FloatArray | None:
    """[N, F] float16 from the file that the config names; None where it names none.

    Raises DataError where the file has none of a text, ConfigError where the config wants those of a policy.
    """
    if config.policy_states:
        raise ConfigError(
            "selection.features.policy_states: there is no policy here to read; make a file with jobs.prompt_states "
            "and set selection.features.prompt_states"
        )
    if config.prompt_states is None:
        return None
    stored = load_states(config.prompt_states)
    missing = stored.missing(texts)
    if missing:
        raise DataError(
            f"selection.features.prompt_states: {config.prompt_states} has no state of {len(missing)} of {len(texts)} "
            f"prompts, the first {missing[0][:60]!r}; read them too with jobs.prompt_states, or set "
            "selection.features.prompt_states=null"
        )
    return stored.take(texts)


def fill_states(
    file: Path,
    of: StatesOf,
    texts: Sequence[str],
    read: Callable[[Sequence[str]], FloatArray],
    say: Callable[[str], None] = lambda line: None,
) -> StoredStates:
    """The file with the states of all ``texts``; ``read`` gives those [K, F] that it lacks, some hundred at a time.

    Raises DataError where the file is of another model, other depths or another limit.
    """
    stored = load_states(file) if file.exists() else StoredStates(of=of, digests=(), states=np.zeros((0, 0)))
    if stored.of != of:
        raise DataError(f"{file}: holds the states of {stored.of}, not of {of}; give another file")
    missing = stored.missing(texts)
    for start in range(0, len(missing), _PROMPTS_AT_ONCE):
        part = missing[start : start + _PROMPTS_AT_ONCE]
        stored = stored.with_more(part, read(part))
        stored.save(file)
        say(f"{start + len(part)} of {len(missing)} prompts read")
    return stored
