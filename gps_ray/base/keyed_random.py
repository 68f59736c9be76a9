"""Random numbers without long-lived generators.

Every draw is a function of its key (run seed, stream, step, prompt, rollout), so a killed and resumed run, or a
chunk that another worker repeats, draws the same numbers. Nothing has to be saved.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["generator", "seed_64", "uniforms"]


def _digest(run_seed: int, stream: str, step: int, prompt: str | int, rollout: int) -> bytes:
    prompt_bytes = str(prompt).encode()
    stream_bytes = stream.encode()
    # Lengths go in front of the variable parts, so that no two keys share one encoding.
    head = struct.pack("<qqqII", run_seed, step, rollout, len(stream_bytes), len(prompt_bytes))
    return hashlib.blake2b(head + stream_bytes + prompt_bytes, digest_size=16).digest()


def generator(
    run_seed: int, stream: str, step: int = 0, prompt: str | int = "", rollout: int = 0
) -> np.random.Generator:
    """A fresh Philox generator for one key.

    ``stream`` names the purpose ("rollout", "selector/candidates", ...): two purposes never share draws.
    """
    key = np.frombuffer(_digest(run_seed, stream, step, prompt, rollout), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


def uniforms(
    run_seed: int, stream: str, step: int, keys: Sequence[tuple[str | int, int]], num_draws: int
) -> NDArray[np.float32]:
    """[keys, num_draws] float32 in [0, 1), one row per (prompt, rollout).

    Row i is ``generator(run_seed, stream, step, *keys[i]).random(num_draws, dtype=float32)``, in a quarter of the
    time: numpy asks the operating system for entropy at every new generator, key or no key.
    """
    bits = np.random.Philox(key=0)
    rng = np.random.Generator(bits)
    state = bits.state
    out = np.empty((len(keys), num_draws), dtype=np.float32)
    for row, (prompt, rollout) in zip(out, keys, strict=True):
        state["state"]["key"] = np.frombuffer(_digest(run_seed, stream, step, prompt, rollout), dtype="<u8")
        bits.state = state
        rng.random(dtype=np.float32, out=row)
    return out


def seed_64(run_seed: int, stream: str, step: int = 0, prompt: str | int = "", rollout: int = 0) -> int:
    """A non-negative 63-bit seed for a library that takes an integer (torch, vLLM)."""
    return int.from_bytes(_digest(run_seed, stream, step, prompt, rollout)[:8], "little") >> 1
