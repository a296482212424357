"""NumPy arrays and torch tensors in, the same kind out."""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _check

# What POT takes. It returns the kind that came in, or with a flag a pair: in signatures Any.
Array: TypeAlias = NDArray[Any] | torch.Tensor | list[Any]


def kind_of(name, *arrays):
    """Whether the arrays, of which some are None, are of "numpy" or of "torch"."""
    types = {type(t) for t in arrays if t is not None}
    for kind, array in (("torch", torch.Tensor), ("numpy", np.ndarray)):
        if all(issubclass(t, array) for t in types):
            return kind
    got = ", ".join(sorted(t.__name__ for t in types))
    condition = "all be NumPy arrays or all be torch tensors"
    if any(issubclass(t, (torch.Tensor, np.ndarray)) for t in types):
        raise ValueError(_check.message(name, "arguments", condition, got))
    raise _check.unsupported(name, "arguments", condition, got, "POT itself for other backends")


def tensors(name, *arrays):
    """The arrays as tensors, and the function that makes a result what POT would return."""
    given = [t for t in arrays if t is not None]
    if kind_of(name, *given) == "torch":
        dtype = given[0].dtype
        for t in given[1:]:
            dtype = torch.promote_types(dtype, t.dtype)
        return arrays, lambda t: t.to(dtype)
    dtype = np.result_type(*given)
    dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
    converted = [None if t is None else torch.from_numpy(np.array(t, dtype)) for t in arrays]
    return converted, lambda t: t.numpy().astype(dtype)[()]


def without_lists(*points):
    """Lists as arrays of the kind of the others, as in POT."""
    like = next((t for t in points if isinstance(t, torch.Tensor)), None)
    if like is None:
        return [np.array(t) if isinstance(t, list) else t for t in points]
    to = {"dtype": like.dtype, "device": like.device}
    return [torch.tensor(t, **to) if isinstance(t, list) else t for t in points]
