"""Parameters as numpy arrays in the engines' dtype, and torch tensors of them that copy nothing.

numpy has no bfloat16, and Arrow neither: such a parameter travels as uint16, the bits as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor  # the driver reads the table of transports without torch

__all__ = ["in_dtype", "tensors"]


def in_dtype(weights: dict[str, NDArray[Any]], dtype: str) -> tuple[dict[str, NDArray[Any]], frozenset[str]]:
    """float32 parameters by name, rounded to ``dtype`` as a model of that dtype rounds them when it loads, and the
    names of those that are bits of bfloat16 now. ``weights`` is emptied on the way: the model is not there twice."""
    import torch

    if dtype != "bfloat16":
        return weights, frozenset()
    arrays, bits = {}, set()
    for name in list(weights):
        tensor = torch.from_numpy(weights.pop(name))
        if tensor.is_floating_point():
            tensor = tensor.to(torch.bfloat16).view(torch.uint16)
            bits.add(name)
        arrays[name] = tensor.numpy()
    return arrays, frozenset(bits)


def tensors(arrays: Mapping[str, NDArray[Any]], bfloat16: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of what ``in_dtype`` gave, on the same memory: to be read, never written."""
    import torch

    for name, array in arrays.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
        yield name, tensor.view(torch.bfloat16) if name in bfloat16 else tensor
