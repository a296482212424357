"""POT's random directions: the same bits for the same seeds."""

from typing import Any, TypeAlias

import numpy as np
import torch

from .. import _check
from ._arrays import Array

Seed: TypeAlias = int | np.random.RandomState | torch.Generator


def _named_kind(name, backend):
    kind = "numpy" if backend is None else str(backend)
    if kind not in ("numpy", "torch"):
        instead = "POT itself for other backends"
        raise _check.unsupported(name, "backend", "be 'numpy' or 'torch'", repr(kind), instead)
    return kind


class _Streams:
    """POT's random streams: one for NumPy and one for each kind of device, apart from any other.

    A seed starts them anew, and draws without a seed go on from there.
    """

    def __init__(self):
        self.numpy = np.random.RandomState()
        self.torch = {}

    def normal(self, size, seed, kind, type_as):
        """Standard normal numbers (size)."""
        if kind == "numpy":
            if isinstance(seed, np.random.RandomState):
                return seed.randn(*size)
            if seed is not None:
                self.numpy.seed(seed)
            return self.numpy.randn(*size)
        device = torch.device("cpu") if type_as is None else type_as.device
        dtype = None if type_as is None else type_as.dtype
        generator = self._generator(seed, device.type)
        return torch.randn(size, generator=generator, dtype=dtype, device=device)

    def _generator(self, seed, kind):
        if isinstance(seed, torch.Generator):
            self.torch[seed.device.type] = seed
        kinds = {kind, "cpu", *self.torch}
        for k in kinds - set(self.torch):
            self.torch[k] = torch.Generator(k)
            self.torch[k].seed()
        if isinstance(seed, int):
            for generator in self.torch.values():
                generator.manual_seed(seed)
        elif seed is not None and not isinstance(seed, torch.Generator):
            condition = "be None, an integer or a torch.Generator for tensors"
            raise ValueError(_check.message("compat.pot", "seed", condition, repr(seed)))
        return self.torch[kind]


_streams = _Streams()


def get_random_projections(
    d: int,
    n_projections: int,
    seed: Seed | None = None,
    backend: Any = None,
    type_as: Array | None = None,
) -> Any:
    """POT's directions: (d, n_projections), uniform on the sphere, the same for the same seed.

    Args:
        d: dimension.
        n_projections: number of directions.
        seed: an integer; for NumPy also a RandomState, for torch also a Generator. None goes on
            from the last seed.
        backend: "numpy", "torch" or a backend object of POT; None is NumPy.
        type_as: for torch, a tensor of the dtype and device wanted. NumPy draws float64.

    >>> get_random_projections(3, 5, seed=0).shape
    (3, 5)
    """
    kind = _named_kind("get_random_projections", backend)
    normal = _streams.normal((d, n_projections), seed, kind, type_as)
    if kind == "numpy":
        return normal / np.sqrt(np.sum(normal**2, 0, keepdims=True))
    return normal / torch.sqrt(torch.sum(normal**2, 0, keepdim=True))


def get_projections_sphere(
    d: int,
    n_projections: int,
    seed: Seed | None = None,
    backend: Any = None,
    type_as: Array | None = None,
) -> Any:
    """POT's planes: (n_projections, d, 2) orthonormal pairs; arguments as for the directions.

    >>> get_projections_sphere(3, 5, seed=0).shape
    (5, 3, 2)
    """
    kind = _named_kind("get_projections_sphere", backend)
    normal = _streams.normal((n_projections, d, 2), seed, kind, type_as)
    return (np if kind == "numpy" else torch).linalg.qr(normal)[0]
