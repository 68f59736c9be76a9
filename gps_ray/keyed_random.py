"""Random numbers without long-lived generators.

Every draw is a function of its key (run seed, stream, step, prompt, rollout), so a killed and resumed run, or a
chunk that another worker repeats, draws the same numbers. Nothing has to be saved.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

__all__ = ["generator", "seed_64"]


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


def seed_64(run_seed: int, stream: str, step: int = 0, prompt: str | int = "", rollout: int = 0) -> int:
    """A non-negative 63-bit seed for a library that takes an integer (torch, vLLM)."""
    return int.from_bytes(_digest(run_seed, stream, step, prompt, rollout)[:8], "little") >> 1
