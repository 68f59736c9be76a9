"""What a process of ours need not wait for when it starts."""

from __future__ import annotations

__all__ = ["skip_assisted_decoding"]


def skip_assisted_decoding() -> None:
    """Let transformers believe that scikit-learn is absent, before anything of its generation is imported.

    It wants one function of it, for assisted decoding, which no engine here does, and pays for it with pandas and
    scipy.stats: a quarter of the time, and 80 MB, of every process that holds a model. Only for processes of our own;
    whoever imports gps_ray into theirs keeps their transformers.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = lambda: False
