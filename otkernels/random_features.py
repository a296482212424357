r"""Random Fourier features: kernels of distances as inner products of finitely many numbers.

A kernel k(x, y) = phi(|x - y|^2) that is positive definite in every dimension is a mixture of
Gaussians, phi(u) = E exp(-T u) (Schoenberg 1938), and a Gaussian is the characteristic function of
a normal vector g, so

    k(x, y) = E cos(w' (x - y)),   w = sqrt(2 T) g,

    gaussian                 phi(u) = exp(-u)         T = 1
    laplacian                phi(u) = exp(-sqrt(u))   T = 1 / 2 h^2, h standard normal
    imq, rational_quadratic  phi(u) = 1 / (1 + u)     T exponential of mean 1

(Rahimi, Recht 2007, "Random features for large-scale kernel machines"). For "laplacian" w = g / |h|
has the multivariate Cauchy law. The mean of cos(w' x) cos(w' y) + sin(w' x) sin(w' y) over F / 2
draws of w estimates k without bias and is exact at x = y.
"""

import math

import torch

from . import _check, _ops
from . import bandwidth as bandwidths
from ._kernels import KERNELS
from ._measures import Measures
from ._results import nan_everywhere, root_and_reduce
from .mmd import check_options, clouds

__all__ = ["mmd_random_features", "random_fourier_features", "sample_frequencies"]

BLOCK = 1024  # points whose features are held at a time where no gradient is wanted


def sample_frequencies(d, n, *, kernel="gaussian", generator=None, device=None, dtype=None):
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
    _check_kernel(name, kernel)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    floats = torch.float32, torch.float64
    _check.require(dtype in floats, name, "dtype", "be float32 or float64", dtype)
    device = torch.get_default_device() if device is None else torch.device(device)
    _check.generator(name, generator, device)
    # Float64, in which no draw is 0: the laplacian's frequencies divide by one.
    options = {"dtype": torch.float64, "device": device, "generator": generator}
    normal = torch.randn(d, n, **options)
    mixture = _mixture(KERNELS[kernel].profile, n, options)
    return (normal * (2 * KERNELS[kernel].factor * mixture).sqrt()).to(dtype)


def random_fourier_features(
    x,
    *,
    bandwidth,
    kernel="gaussian",
    n_features=1024,
    frequencies=None,
    generator=None,
    validate=False,
):
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
    _check_kernel(name, kernel)
    condition = "be a positive number, a sequence of them or a tensor"
    _check.require(not isinstance(bandwidth, str), name, "bandwidth", condition, repr(bandwidth))
    measures = Measures(name, -2, ("x", "x"), (x, x), (None, None), (None, None), validate)
    with _ops.without_autocast(x.device):
        scales = _scales(measures, kernel, bandwidth, validate)
        frequencies = _frequencies(measures, kernel, n_features, frequencies, generator, validate)
        points, _ = measures.point_sets()
        return _features(points.to(frequencies.dtype), frequencies, scales)


def mmd_random_features(
    x,
    y,
    *,
    kernel="gaussian",
    bandwidth="median",
    n_features=1024,
    a=None,
    b=None,
    x_lengths=None,
    y_lengths=None,
    unbiased=False,
    frequencies=None,
    generator=None,
    squared=True,
    reduction="none",
    validate=False,
):
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
    _check_kernel(name, kernel)
    measures = clouds(name, x, y, (a, b), (x_lengths, y_lengths), unbiased, validate)
    with _ops.without_autocast(x.device):
        scales = _scales(measures, kernel, bandwidth, validate)
        frequencies = _frequencies(measures, kernel, n_features, frequencies, generator, validate)
        value = _squared_mmd(measures, frequencies, scales, unbiased)
        value = measures.nan_out_of_range(nan_everywhere(value)).to(frequencies.dtype)
        return root_and_reduce(value, 2, not squared, reduction)


# --- arguments ----------------------------------------------------------------------------------


def _check_kernel(function, kernel):
    """The kernel must be a mixture of Gaussians."""
    _check.one_of(function, "kernel", kernel, KERNELS)
    if KERNELS[kernel].factor is None:
        names = ", ".join(repr(name) for name in KERNELS if KERNELS[name].factor is not None)
        condition = f"have random frequencies, as {names} do"
        instead = f"mmd or mmd_blocks with kernel={kernel!r}"
        raise _check.unsupported(function, "kernel", condition, repr(kernel), instead)


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


def _mixture(profile, n, options):
    """Draws (n,) of T, see above."""
    if profile == "gaussian":
        return torch.ones(n, dtype=options["dtype"], device=options["device"])
    if profile == "laplacian":
        return 0.5 / torch.randn(n, **options).square()
    return -torch.log1p(-torch.rand(n, **options))


# --- sums ---------------------------------------------------------------------------------------


def _features(points, frequencies, scales):
    """Features (..., N, K F) of points (..., N, D)."""
    angles = (points @ frequencies)[..., None, :] * scales[..., None, :, None]
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
    return sum((mass @ _features(x, frequencies, scales)).double() for x, mass in blocks)[..., 0, :]
