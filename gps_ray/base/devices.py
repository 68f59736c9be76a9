"""The GPUs that a plan knows, as their makers' data sheets have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["DEVICES", "Device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """memory_bytes: what a program may take, about 97 % of what is sold. bytes_per_s: of its memory. flops: dense
    bfloat16 operations per second."""

    memory_bytes: float
    bytes_per_s: float
    flops: float


def _device(memory_gb: float, gb_per_s: float, tflops: float) -> Device:
    return Device(memory_bytes=0.97 * memory_gb * 2**30, bytes_per_s=gb_per_s * 1e9, flops=tflops * 1e12)


DEVICES: Final[Mapping[str, Device]] = {
    "A10-24GB": _device(24, 600, 125),
    "L4-24GB": _device(24, 300, 121),
    "RTX4090-24GB": _device(24, 1008, 165),
    "L40S-48GB": _device(48, 864, 362),
    "A100-40GB": _device(40, 1555, 312),
    "A100-80GB": _device(80, 2039, 312),
    "H100-80GB": _device(80, 3350, 989),
    "H200-141GB": _device(141, 4800, 989),
    "B200-180GB": _device(180, 8000, 2250),
}
