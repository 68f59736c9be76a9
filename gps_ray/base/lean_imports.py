"""What a process of ours need not wait for when it starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["lean_imports"]


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within it torch, transformers and what needs them are imported, for the first time in this process.

    transformers is told that scikit-learn is absent: it wants one function of it, for assisted decoding, which no
    engine here does, and pays with pandas and scipy.stats, a quarter of the time and 80 MB. And the garbage collector
    rests: what is imported stays, by the million objects, and to look through them again and again is another fifth.

    Only for processes of our own; whoever imports gps_ray into theirs keeps their transformers and their collector.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = lambda: False
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
