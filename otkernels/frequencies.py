r"""Frequencies of kernels: the random part of random Fourier features.

A kernel k(x, y) = phi(|x - y|^2) that is positive definite in every dimension is a mixture of
Gaussians, phi(u) = E exp(-T u) (Schoenberg 1938), and a Gaussian is the characteristic function of
a normal vector g, so

    k(x, y) = E cos(w' (x - y)),   w = sqrt(2 T) g,

    gaussian                 phi(u) = exp(-u)         T = 1
    laplacian                phi(u) = exp(-sqrt(u))   T = 1 / 2 h^2, h standard normal
    imq, rational_quadratic  phi(u) = 1 / (1 + u)     T exponential of mean 1

For "laplacian" w = g / |h| has the multivariate Cauchy law.
"""

import torch
from torch import Tensor

from . import _check, _ops
from ._kernels import KERNELS
from ._types import Device, FeatureKernel

__all__ = ["sample_frequencies"]


def sample_frequencies(
    d: int,
    n: int,
    *,
    kernel: FeatureKernel = "gaussian",
    generator: torch.Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw ``n`` frequencies of a kernel in R^d, at bandwidth 1.

    The mean of cos(w' (x - y) / s) over frequencies w estimates k(x, y) at bandwidth s.

    Args:
        d: dimension of the space, at least 1.
        n: number of frequencies, at least 1; each makes two features.
        kernel: "gaussian", "laplacian", "imq" or "rational_quadratic", see :func:`otkernels.mmd`.
        generator: source of randomness on ``device``; None is torch's global stream there.
        device: where to draw; None is torch's default device.
        dtype: float32 or float64; None is torch's default dtype.

    Returns:
        (d, n) tensor, a frequency a column, in radians for each bandwidth of length. Those of
        "laplacian" have no mean: a few are very large.

    Raises:
        ValueError: a size < 1, an unknown kernel, another dtype, a generator of another device.
        NotImplementedError: a kernel that has no frequencies.

    >>> sample_frequencies(3, 5, kernel="laplacian").shape
    torch.Size([3, 5])
    """
    name = "sample_frequencies"
    _check.positive_int(name, "d", d)
    _check.positive_int(name, "n", n)
    check_kernel(name, kernel)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    floats = torch.float32, torch.float64
    _check.require(dtype in floats, name, "dtype", "be float32 or float64", dtype)
    device = torch.empty(0, device=device).device
    _check.generator(name, generator, device)
    # Float64, in which no draw is 0: the laplacian's frequencies divide by one.
    options = {"dtype": torch.float64, "device": device, **_ops.stream(generator)}
    normal = torch.randn(d, n, **options)
    mixture = _mixture(KERNELS[kernel].profile, n, options)
    return (normal * (2 * KERNELS[kernel].factor * mixture).sqrt()).to(dtype)


def check_kernel(function, kernel):
    """The kernel must be a mixture of Gaussians."""
    _check.one_of(function, "kernel", kernel, KERNELS)
    if KERNELS[kernel].factor is None:
        names = ", ".join(repr(name) for name in KERNELS if KERNELS[name].factor is not None)
        condition = f"have random frequencies, as {names} do"
        instead = f"mmd or mmd_blocks with kernel={kernel!r}"
        raise _check.unsupported(function, "kernel", condition, repr(kernel), instead)


def _mixture(profile, n, options):
    """Draws (n,) of T, see above."""
    if profile == "gaussian":
        return torch.ones(n, dtype=options["dtype"], device=options["device"])
    if profile == "laplacian":
        return 0.5 / torch.randn(n, **options).square()
    return -torch.log1p(-torch.rand(n, **options))
