"""Results that depend on the config alone: pinned threads and deterministic kernels, for the length of a block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["deterministic"]


@contextmanager
def deterministic(num_threads: int) -> Iterator[None]:
    """Pin torch's threads (the order of a reduction depends on their number) and refuse non-deterministic kernels.

    Restored at the end: learner, predictor and engine may share a process and each has its own number of threads.
    The promise is bit-for-bit equality on CPUs of one kind; on a GPU the library may lack a deterministic kernel, so
    there nothing is refused, and torch's warnings of it are left out. What torch adds for debugging, filling every new
    tensor with NaN, is off: it costs a tenth of an update.
    """
    threads = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    fills = filling.fill_uninitialized_memory
    torch.set_num_threads(num_threads)
    filling.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
            warnings.filterwarnings("ignore", message=".*defaults to a non-deterministic algorithm")
            warnings.filterwarnings("ignore", message="Deterministic behavior was enabled", category=UserWarning)
            yield
    finally:
        torch.set_num_threads(threads)
        filling.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
