r"""Maximum mean discrepancy and energy distance (Gretton et al. 2012; Szekely, Rizzo 2013).

    MMD^2(x, y) = E k(x, x') + E k(y, y') - 2 E k(x, y)

for independent draws from both measures. The sums stand in ``_kernel_sums``, the kernels in
``_kernels``, how a bandwidth is found in ``bandwidth``.
"""

from typing import get_args

from torch import Tensor

from . import _check, _ops
from . import bandwidth as bandwidths
from ._kernel_sums import discrepancy
from ._kernels import KERNELS
from ._measures import Measures
from ._results import nan_everywhere, root_and_reduce
from ._types import Bandwidth, Impl, Kernel, Precision, Reduction

__all__ = ["energy_distance", "mmd"]

PRECISIONS = get_args(Precision)


def check_options(function, kernel, unbiased, squared, reduction, precision):
    """The options that functions and modules share."""
    _check.one_of(function, "kernel", kernel, KERNELS)
    _check.one_of(function, "reduction", reduction, _check.REDUCTIONS)
    _check.one_of(function, "precision", precision, PRECISIONS)
    condition = "be True with unbiased=True, whose estimates may be negative"
    _check.require(squared or not unbiased, function, "squared", condition, squared)


def clouds(function, x, y, weights, lengths, unbiased, validate=False, names=("x", "y")):
    """The :class:`Measures` of two clouds, of two points at least if ``unbiased``."""
    _check.clouds(function, x, y)
    for name, cloud in zip(names, (x, y), strict=True):
        n = cloud.shape[-2]
        condition = "have at least two points with unbiased=True"
        _check.require(n > 1 or not unbiased, function, name, condition, tuple(cloud.shape))
    return Measures(function, -2, names, (x, y), weights, lengths, validate)


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = "gaussian",
    bandwidth: Bandwidth = "median",
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    unbiased: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    precision: Precision = "full",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Maximum mean discrepancy between point clouds, squared.

    sum_ij a_i a_j k(x_i, x_j) + sum_ij b_i b_j k(y_i, y_j) - 2 sum_ij a_i b_j k(x_i, y_j), without
    a factor 1/2 (Gretton, Borgwardt, Rasch, Schoelkopf, Smola 2012, "A kernel two-sample test",
    equations 3 and 5; docs/math.md, "Maximum mean discrepancy"; docs/conventions.md for other
    libraries' factors). No N x M array is kept: memory is O(N D + M D) with "cpu" and "triton".

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        kernel: with r = |x - y| and the bandwidth s, "gaussian" exp(-r^2 / 2 s^2), "laplacian"
            exp(-r / s), "imq" s^2 / (s^2 + r^2), "rational_quadratic" 1 / (1 + r^2 / 2 s^2),
            "polynomial" (<x, y> / D + 1)^3 or "energy" -r. The last two take no bandwidth.
        bandwidth: s, in units of the points. A number; a sequence of numbers, whose kernels are
            summed (:func:`otkernels.wae_bandwidths` gives one); a tensor (K,) or (..., K) of them,
            for every problem its own; or "median", :func:`otkernels.median_bandwidth` of x and y.
            No gradient flows through it.
        a: (..., N) non-negative weights of x, any floating dtype, normalised to total mass one;
            None is uniform.
        b: (..., M) the same for y.
        x_lengths: (...) integers: the first so many points of each cloud of x count, the rest is
            padding, of any content. None is all.
        y_lengths: (...) the same for y.
        unbiased: the U-statistic, which leaves out pairs of a point with itself and divides by
            1 - sum a_i^2, that is by n (n - 1) pairs without weights. Its mean over draws is the
            truth, so where that is near 0 it is often negative.
        squared: return MMD^2; False is the root, with sub-gradient 0 where MMD^2 is 0 or rounded to
            below. Only with ``unbiased=False``.
        reduction: "none", "mean" or "sum" over the leading axes.
        precision: "full" is as accurate as float32 products; "fast" permits one half-precision
            product in its place where that is faster (on a GPU: about 1e-5 of the largest kernel
            value, 1e-3 of the gradient).
        validate: check values too, which waits for a GPU: points, weights and bandwidths finite,
            weights not negative, bandwidths positive, lengths in range.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x, y, a and b; first order ("torch" also higher). "laplacian" and "energy" have
        sub-gradient 0 where two points coincide. A NaN, a negative weight, a length out of range
        or, with ``unbiased``, all mass in one point makes value and gradient of its own problem NaN
        and leaves the others alone.

    Raises:
        ValueError: shape, dtype or device that does not fit, an unknown kernel, a bandwidth that is
            not positive, ``unbiased`` with one point, an impl that cannot run here; lengths out of
            range on the CPU, and with ``validate`` whatever that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton"; a gradient to the bandwidth.

    Cost: O(B (N + M)^2 D) time. "torch" holds N M D numbers for each problem.

    >>> import torch
    >>> round(mmd(torch.zeros(1, 2), torch.ones(1, 2), bandwidth=1.0).item(), 4)  # 2 - 2 / e
    1.2642
    """
    return answer(
        "mmd",
        x,
        y,
        (a, b),
        (x_lengths, y_lengths),
        kernel,
        bandwidth,
        unbiased=unbiased,
        squared=squared,
        reduction=reduction,
        precision=precision,
        validate=validate,
        impl=impl,
    )


def energy_distance(
    x: Tensor,
    y: Tensor,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    unbiased: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    precision: Precision = "full",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Energy distance between point clouds: 2 E|x - y| - E|x - x'| - E|y - y'|.

    ``mmd(x, y, kernel="energy")``: the squared MMD of the kernel -|x - y| (Szekely, Rizzo 2013,
    "Energy statistics"; Sejdinovic, Sriperumbudur, Gretton, Fukumizu 2013, theorem 22). It needs no
    bandwidth and scales with the points. In one dimension it is twice the squared Cramer distance.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        a: (..., N) weights of x, see :func:`mmd`.
        b: (..., M) weights of y.
        x_lengths: (...) how many points of each cloud of x count, see :func:`mmd`.
        y_lengths: (...) the same for y.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        reduction: "none", "mean" or "sum" over the leading axes.
        precision: "full" or "fast", see :func:`mmd`.
        validate: check values too, which waits for a GPU.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x, y, a and b as for :func:`mmd`; sub-gradient 0 where two points coincide.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`mmd`.

    >>> import torch
    >>> energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).item()
    10.0
    """
    return answer(
        "energy_distance",
        x,
        y,
        (a, b),
        (x_lengths, y_lengths),
        "energy",
        "median",
        unbiased=unbiased,
        squared=squared,
        reduction=reduction,
        precision=precision,
        validate=validate,
        impl=impl,
    )


def answer(
    function,
    x,
    y,
    weights,
    lengths,
    kernel,
    bandwidth,
    *,
    unbiased,
    squared,
    reduction,
    precision,
    validate,
    impl,
    within_y=None,
):
    """A call of the public ``function``; ``within_y (...)`` is y's own term, if it is known."""
    check_options(function, kernel, unbiased, squared, reduction, precision)
    measures = clouds(function, x, y, weights, lengths, unbiased, validate)
    terms = True, within_y is None, True
    with _ops.without_autocast(x.device):
        value = _terms(measures, terms, kernel, bandwidth, unbiased, precision, validate, impl)
        if within_y is not None:
            value = nan_everywhere(value + within_y)
        value = measures.nan_out_of_range(value).to(_ops.accumulation_dtype(x.dtype))
        return root_and_reduce(value, 2, not squared, reduction)


def within(function, y, b, y_lengths, kernel, bandwidth, *, unbiased, precision, validate, impl):
    """The term E k(y, y') of y (..., M, D) alone: (...), float64."""
    lengths, names = (y_lengths, y_lengths), ("y", "y")
    measures = clouds(function, y, y, (b, b), lengths, unbiased, validate, names)
    terms = True, False, False
    with _ops.without_autocast(y.device):
        return _terms(measures, terms, kernel, bandwidth, unbiased, precision, validate, impl)


def _terms(measures, terms, kernel, bandwidth, unbiased, precision, validate, impl):
    """Those of the terms xx, yy, xy that are wanted, added up: (*batch), float64."""
    impl = _ops.choose_impl(measures.function, impl, measures.given[0].device)
    rates = bandwidths.rates(measures, kernel, bandwidth, validate)
    return discrepancy(
        *measures.point_sets(),
        *measures.masses(),
        rates,
        kernel=kernel,
        unbiased=unbiased,
        terms=terms,
        counts=measures.counts(),
        fast=precision == "fast",
        impl=impl,
    )
