r"""Random Fourier features: kernels of distances as inner products of finitely many numbers.

A kernel of a distance is k(x, y) = E cos(w' (x - y)) over random frequencies w (``frequencies``;
Rahimi, Recht 2007, "Random features for large-scale kernel machines"). The mean of
cos(w' x) cos(w' y) + sin(w' x) sin(w' y) over F / 2 draws of w estimates k without bias and is
exact at x = y.
"""

import math

import torch
from torch import Tensor

from . import _check, _ops
from . import bandwidth as bandwidths
from ._kernels import KERNELS
from ._measures import Measures
from ._products import product
from ._results import nan_everywhere, root_and_reduce
from ._types import Bandwidth, Bandwidths, FeatureKernel, Reduction
from .frequencies import check_kernel, sample_frequencies
from .mmd import check_options, clouds

__all__ = ["mmd_random_features", "random_fourier_features"]

BLOCK = 1024  # points whose features are held at a time where no gradient is wanted


def random_fourier_features(
    x: Tensor,
    *,
    bandwidth: Bandwidths,
    kernel: FeatureKernel = "gaussian",
    n_features: int = 1024,
    frequencies: Tensor | None = None,
    generator: torch.Generator | None = None,
    validate: bool = False,
) -> Tensor:
    """Features whose inner products estimate a kernel: z(x)' z(y) has the mean k(x, y).

    z(x) = sqrt(2 / F) (cos(w_1' x / s), ..., cos(w_{F/2}' x / s), sin(w_1' x / s), ...), so that
    |z(x)|^2 = 1 (Rahimi, Recht 2007, "Random features for large-scale kernel machines"; in pairs of
    cosine and sine as in Sutherland, Schneider 2015, "On the error of random Fourier features").

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        bandwidth: s in units of the points: a number; a sequence of numbers, for the sum of their
            kernels; a tensor (K,) or (..., K). For the median, which must be the same for clouds
            that are compared, see :func:`otkernels.median_bandwidth`.
        kernel: "gaussian", "laplacian", "imq" or "rational_quadratic", see :func:`otkernels.mmd`.
        n_features: even number F of features for each bandwidth, if ``frequencies`` is None.
        frequencies: (D, F / 2) or (..., D, F / 2), see :func:`otkernels.sample_frequencies`; any
            floating dtype. Clouds that are compared need the same ones. All bandwidths share them.
        generator: source of the drawn frequencies, on x's device; None is torch's global stream.
        validate: check values too, which waits for a GPU: points and frequencies finite, bandwidths
            positive.

    Returns:
        (..., N, K F) tensor, float32 (float64 for float64 input): the features of K bandwidths one
        after the other.

    Gradients: x and given frequencies, of any order.

    Raises:
        ValueError: shape, dtype or device that does not fit, an unknown kernel, a bandwidth that is
            not positive, an odd n_features, and with ``validate`` whatever that checks.
        TypeError: not a floating tensor.
        NotImplementedError: a kernel that has no frequencies; a gradient to the bandwidth.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> z = random_fourier_features(x, bandwidth=1.0, n_features=6)
    >>> z.shape, [round(t, 5) for t in z.square().sum(-1).tolist()]
    (torch.Size([2, 6]), [1.0, 1.0])
    """
    name = "random_fourier_features"
    _check.cloud(name, "x", x)
    check_kernel(name, kernel)
    condition = "be a positive number, a sequence of them or a tensor"
    _check.require(not isinstance(bandwidth, str), name, "bandwidth", condition, repr(bandwidth))
    measures = Measures(name, -2, ("x", "x"), (x, x), (None, None), (None, None), validate)
    with _ops.without_autocast(x.device):
        scales = _scales(measures, kernel, bandwidth, validate)
        frequencies = _frequencies(measures, kernel, n_features, frequencies, generator, validate)
        points, _ = measures.point_sets()
        return _features(points.to(frequencies.dtype), frequencies, scales)


def mmd_random_features(
    x: Tensor,
    y: Tensor,
    *,
    kernel: FeatureKernel = "gaussian",
    bandwidth: Bandwidth = "median",
    n_features: int = 1024,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    unbiased: bool = False,
    frequencies: Tensor | None = None,
    generator: torch.Generator | None = None,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
) -> Tensor:
    """Maximum mean discrepancy, squared, of a kernel that random features estimate.

    |sum_i a_i z(x_i) - sum_j b_j z(y_j)|^2 with the features z of
    :func:`random_fourier_features`: a Monte-Carlo estimate of :func:`otkernels.mmd` whose mean over
    draws of the frequencies is that, at a cost linear in the number of points. Its error falls as
    F^(-1/2) (docs/estimators.md has it measured).

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        kernel: "gaussian", "laplacian", "imq" or "rational_quadratic", see :func:`otkernels.mmd`.
        bandwidth: as for :func:`otkernels.mmd`.
        n_features: even number F of features for each bandwidth, if ``frequencies`` is None.
        a: (..., N) weights of x, see :func:`otkernels.mmd`.
        b: (..., M) weights of y.
        x_lengths: (...) how many points of each cloud of x count, see :func:`otkernels.mmd`.
        y_lengths: (...) the same for y.
        unbiased: estimate the U-statistic; it may be negative.
        frequencies: (D, F / 2) or (..., D, F / 2), see :func:`otkernels.sample_frequencies`; any
            floating dtype. Keep them for a loss that does not change between steps.
        generator: source of the drawn frequencies, on x's device; None is torch's global stream.
            One draw serves x, y and every problem of the batch.
        squared: False returns the root, with sub-gradient 0 where MMD^2 is 0. Only with
            ``unbiased=False``.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x, y, a, b and given frequencies, of any order: plain torch. A NaN, an infinite
        point, a negative weight, a length out of range or, with ``unbiased``, all mass in one point
        makes value and gradient of its own problem NaN.

    Raises:
        ValueError, TypeError: as :func:`otkernels.mmd`; an odd n_features.
        NotImplementedError: a kernel that has no frequencies; a gradient to the bandwidth.

    Cost: O(B (N + M) F (D + K)) time. Memory for (N + M) K F numbers where a gradient is wanted,
        and for 1024 K F of each problem where none is.

    >>> import torch
    >>> x, w = torch.zeros(1, 2), torch.tensor([[torch.pi], [0.0]])
    >>> round(mmd_random_features(x, x + 1, bandwidth=1.0, frequencies=w).item(), 4)  # 2 - 2 cos pi
    4.0
    """
    name = "mmd_random_features"
    check_options(name, kernel, unbiased, squared, reduction, "full")
    check_kernel(name, kernel)
    measures = clouds(name, x, y, (a, b), (x_lengths, y_lengths), unbiased, validate)
    with _ops.without_autocast(x.device):
        scales = _scales(measures, kernel, bandwidth, validate)
        frequencies = _frequencies(measures, kernel, n_features, frequencies, generator, validate)
        value = _squared_mmd(measures, frequencies, scales, unbiased)
        value = measures.nan_out_of_range(nan_everywhere(value)).to(frequencies.dtype)
        return root_and_reduce(value, 2, not squared, reduction)


# --- arguments ----------------------------------------------------------------------------------


def _scales(measures, kernel, bandwidth, validate):
    """1 / s for each bandwidth (..., K), in the accumulation dtype."""
    rates = bandwidths.rates(measures, kernel, bandwidth, validate)
    return (rates / KERNELS[kernel].factor).sqrt()


def _frequencies(measures, kernel, n_features, frequencies, generator, validate):
    """Frequencies (..., D, F / 2) in the accumulation dtype: those given, checked, or drawn."""
    function, x = measures.function, measures.given[0]
    d, dtype = x.shape[-1], _ops.accumulation_dtype(x.dtype)
    if frequencies is None:
        _check.positive_int(function, "n_features", n_features)
        _check.require(n_features % 2 == 0, function, "n_features", "be even", n_features)
        options = {"generator": generator, "device": x.device, "dtype": dtype}
        _check.generator(function, generator, x.device)
        return sample_frequencies(d, n_features // 2, kernel=kernel, **options)
    _check.floating(function, "frequencies", frequencies)
    shape = tuple(frequencies.shape)
    ok = len(shape) >= 2 and shape[-2] == d and shape[-1] > 0
    condition = f"have shape ({d}, F / 2) or (..., {d}, F / 2)"
    _check.require(ok, function, "frequencies", condition, shape)
    same = frequencies.device == x.device
    where = f"be on x's device {x.device}"
    _check.require(same, function, "frequencies", where, frequencies.device)
    if validate:
        _check.finite(function, "frequencies", frequencies)
    measures.include("frequencies", shape[:-2])
    return frequencies.to(dtype)


# --- sums ---------------------------------------------------------------------------------------


def _features(points, frequencies, scales):
    """Features (..., N, K F) of points (..., N, D)."""
    angles = product(points, frequencies)[..., None, :] * scales[..., None, :, None]
    pairs = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return pairs.flatten(-2) / math.sqrt(frequencies.shape[-1])


def _squared_mmd(measures, frequencies, scales, unbiased):
    """MMD^2 (*batch) of the kernel z' z, float64."""
    x, y = (points.to(frequencies.dtype) for points in measures.point_sets())
    # A common shift turns all features of a frequency by one angle and leaves the value as it is;
    # near 0 angles are rounded least.
    origin = x[..., :1, :].detach()
    means, squares = [], []
    for points, masses in zip((x, y), measures.masses(), strict=True):
        if masses is None:
            n = points.shape[-2]
            masses = points.new_full((n,), 1 / n, dtype=torch.float64)
        means.append(_mean_feature(points - origin, masses, frequencies, scales))
        squares.append(masses.square().sum(-1))
    value = (means[0] - means[1]).square().sum(-1)
    if unbiased:
        for mean, own in zip(means, squares, strict=True):
            # The mean over pairs of different points, less that over all pairs: |z(x)|^2 is K.
            own = torch.where(own < 1, own, torch.nan)
            value = value - own / (1 - own) * (scales.shape[-1] - mean.square().sum(-1))
    return value


def _mean_feature(points, masses, frequencies, scales):
    """Mean of the features (..., K F) with masses (..., N), float64."""
    masses = masses.to(points.dtype)[..., None, :]
    blocks = zip(points.split(BLOCK, dim=-2), masses.split(BLOCK, dim=-1), strict=True)
    sums = (product(mass, _features(x, frequencies, scales)).double() for x, mass in blocks)
    return sum(sums)[..., 0, :]
