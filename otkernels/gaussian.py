"""Wasserstein distance of the Gaussians fitted to samples."""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check, _ops, _transforms
from ._fidelity import fidelity
from ._measures import Measures
from ._results import nan_everywhere
from ._roots import EPS
from ._types import Impl, Reduction
from .bures import BuresInfo, finished, of_variances, trace
from .moments import divisor_factor, moments

__all__ = [
    "gaussian_wasserstein",
    "gaussian_wasserstein_to_normal",
    "gaussian_wasserstein_with_info",
]


def gaussian_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    correction: int = 0,
    eps: float = 0.0,
    diagonal: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Wasserstein-2 distance between the Gaussians fitted to two point clouds, squared.

    :func:`otkernels.bures_wasserstein` of weighted means and covariances (docs/math.md, "Gaussian
    Wasserstein distance"; docs/conventions.md for other libraries' divisors and ridges). With
    ``correction=1`` and features of a network it is the Frechet distance (Heusel, Ramsauer,
    Unterthiner, Nessler, Hochreiter 2017). Moments are summed in float64. A cloud of N < D points
    does not form its covariance, its centred points are the factor (but it does with ``eps`` and
    for a gradient to its weights).

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        a: (..., N) non-negative weights of x, any floating dtype, normalised to total mass one;
            None is uniform.
        b: (..., M) the same for y.
        x_lengths: (...) integers: the first so many points of each cloud of x count, the rest is
            padding, of any content. None is all.
        y_lengths: (...) the same for y.
        correction: covariances are divided by n - correction, n the number of points whose weight
            is not 0: 0 for the covariance of the measure, 1 for the unbiased one.
        eps: added to the diagonal of both covariances, in the squared unit of the points.
        diagonal: keep only the diagonals of the covariances.
        squared: return W_2^2; False is the root, with sub-gradient 0 where W_2^2 is 0 or rounded
            to below.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU: points and weights finite, weights not
            negative, lengths in range, more points than ``correction`` that count.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input). Its error is
        relative to the traces of both covariances.

    Gradients: x, y, a and b; first order ("torch" also higher). Finite and exact also for
        N <= D, for constant and repeated features and for equal clouds. A NaN, a negative weight,
        a length out of range or no more than ``correction`` points make value and gradient of
        their own problem NaN and leave the others alone.

    Raises:
        ValueError: shape, dtype or device that does not fit, a negative ``eps``, no more points
            than ``correction``, an impl that cannot run here; lengths out of range on the CPU, and
            with ``validate`` whatever that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton".

    Cost: O(B (N D min(N, D) + min(N, D)^3)) time; with ``eps`` O(B (N D^2 + D^3)).

    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> gaussian_wasserstein(x, 3 * x + 1).item()  # means 1 and 4, deviations 1 and 3
    13.0
    """
    info = gaussian_wasserstein_with_info(
        x,
        y,
        a=a,
        b=b,
        x_lengths=x_lengths,
        y_lengths=y_lengths,
        correction=correction,
        eps=eps,
        diagonal=diagonal,
        squared=squared,
        reduction=reduction,
        validate=validate,
        impl=impl,
    )
    return info.value


def gaussian_wasserstein_with_info(
    x: Tensor,
    y: Tensor,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    correction: int = 0,
    eps: float = 0.0,
    diagonal: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> BuresInfo:
    """:func:`gaussian_wasserstein`, with what is known of its accuracy.

    Arguments as there. ``residual`` and ``redone`` have one entry for each problem, also after a
    reduction.

    Returns:
        :class:`otkernels.BuresInfo`.

    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> gaussian_wasserstein_with_info(x, x).value.item()
    0.0
    """
    function = "gaussian_wasserstein"
    check_options(function, correction, eps, reduction)
    _check.clouds(function, x, y)
    both = Measures(function, -2, ("x", "y"), (x, y), (a, b), (x_lengths, y_lengths), validate)
    for k, name in enumerate(("x", "y")):
        _check_size(function, name, both, k, correction, validate)
    impl = _ops.choose_impl(function, impl, x.device)
    with _ops.without_autocast(x.device):
        fits = [
            _fitted(points, masses, correction, eps, diagonal, impl)
            for points, masses in zip(both.point_sets(), both.masses(), strict=True)
        ]
        value, residual, redone = between(*fits, diagonal, impl)
        value = both.nan_out_of_range(value)
        return finished(value, residual, redone, x.dtype, squared, reduction)


def gaussian_wasserstein_to_normal(
    x: Tensor,
    *,
    a: Tensor | None = None,
    x_lengths: Tensor | None = None,
    correction: int = 0,
    eps: float = 0.0,
    diagonal: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Wasserstein-2 distance of the Gaussian fitted to points from the standard normal, squared.

    |m|^2 + tr S + D - 2 tr S^1/2, without a sample of the normal distribution.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        a: (..., N) weights, see :func:`gaussian_wasserstein`.
        x_lengths: (...) how many points of each cloud count.
        correction: the covariance is divided by n - correction.
        eps: added to the diagonal of the covariance of x.
        diagonal: keep only the diagonal of the covariance.
        squared: False returns the root.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x and a, as for :func:`gaussian_wasserstein`.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`gaussian_wasserstein`.

    >>> import torch
    >>> gaussian_wasserstein_to_normal(torch.tensor([[0.0], [4.0]])).item()  # mean 2, deviation 2
    5.0
    """
    function = "gaussian_wasserstein_to_normal"
    check_options(function, correction, eps, reduction)
    _check.cloud(function, "x", x)
    own = Measures(function, -2, ("x", "x"), (x, x), (a, a), (x_lengths, x_lengths), validate)
    _check_size(function, "x", own, 0, correction, validate)
    impl = _ops.choose_impl(function, impl, x.device)
    with _ops.without_autocast(x.device):
        points, masses = next(own.point_sets()), own.masses()[0]
        fit = _fitted(points, masses, correction, eps, diagonal, impl)
        value, residual, redone = between(fit, None, diagonal, impl)
        value = own.nan_out_of_range(value)
        return finished(value, residual, redone, x.dtype, squared, reduction).value


class Fit(NamedTuple):
    """A Gaussian fitted to points: mean (*batch, D) and spread, float64.

    The spread is (*batch, D) variances, (*batch, D, D) a covariance or, with ``rows``, a factor X
    (*batch, N, D) of the covariance X^T X, in the accumulation dtype of the points.
    """

    mean: Tensor
    spread: Tensor
    dtype: torch.dtype  # of the points
    rows: bool = False

    def trace(self):
        """Trace of the covariance, float64."""
        return self.spread.double().square().sum((-2, -1)) if self.rows else trace(self.spread)


def _fitted(points, masses, correction, eps, diagonal, impl):
    """The :class:`Fit` of points (*batch, N, D) with masses (*batch, N), None for 1/N each."""
    n, d = points.shape[-2:]
    # A root of a mass has no gradient at 0.
    rows = n < d and not (eps or diagonal or _transforms.needs_grad(masses))
    if rows or diagonal:
        return _by_points(points, masses, correction, eps, rows)
    mean, cov = moments(points, masses, correction=correction, double=True, impl=impl)
    return Fit(mean, with_ridge(cov, eps, diagonal), points.dtype)


def with_ridge(spread, eps, diagonal):
    """The variances, or the covariance, with eps added to each variance."""
    if not eps:
        return spread
    return spread + (eps if diagonal else torch.diag_embed(torch.full_like(spread[..., 0], eps)))


def _by_points(points, masses, correction, eps, rows):
    """The :class:`Fit` with ``rows``, or else with variances."""
    wide = points.double()
    mass = torch.full_like(wide[..., :1], 1 / wide.shape[-2])
    mass = mass if masses is None else masses[..., None]
    factor = divisor_factor(points, masses, correction, torch.float64)
    mean = (wide * mass).sum(-2, keepdim=True)
    if rows:
        spread = ((wide - mean) * (mass * factor).sqrt()).to(_ops.accumulation_dtype(points.dtype))
    else:
        variances = ((wide - mean).square() * mass * factor).sum(-2)
        spread = with_ridge(variances, eps, diagonal=True)
    return Fit(mean[..., 0, :], spread, points.dtype, rows)


def between(x, y, diagonal, impl):
    """Squared distance of two fits, residual and redone; y None is the standard normal."""
    value, residual, redone = _between_spreads(x, y, diagonal, impl)
    apart = x.mean if y is None else x.mean - y.mean
    return nan_everywhere(value + apart.square().sum(-1)), residual, redone


def _between_spreads(x, y, diagonal, impl):
    """Tr S_x + tr S_y - 2 fidelity, residual and redone; y None is the standard normal."""
    if diagonal:
        return of_variances(x.spread, torch.ones_like(x.spread) if y is None else y.spread)
    options = {"x_rows": x.rows, "double": x.dtype == torch.float64, "impl": impl}
    # Points are known to eps of their size, so deviations below that are rounding; covariances
    # are summed in float64.
    eps = torch.finfo(_ops.accumulation_dtype(x.dtype)).eps
    options["cutoff"] = max(eps**2, x.spread.shape[-1] * EPS)
    if y is None:
        root, residual, redone = fidelity(x.spread, **options)
        return x.trace() + x.spread.shape[-1] - 2 * root, residual, redone
    root, residual, redone = fidelity(x.spread, y.spread, y_rows=y.rows, **options)
    return x.trace() + y.trace() - 2 * root, residual, redone


def check_options(function, correction, eps, reduction):
    """The options that functions and modules share."""
    _check.not_negative_int(function, "correction", correction)
    real = isinstance(eps, numbers.Real) and not isinstance(eps, bool)
    if not (real and 0 <= eps < math.inf):
        # Only now, because a number that is being traced has no repr.
        raise ValueError(_check.message(function, "eps", "be a number >= 0", repr(eps)))
    _check.one_of(function, "reduction", reduction, _check.REDUCTIONS)


def _check_size(function, name, measures, k, correction, validate):
    """Side k must have more points than the correction; with ``validate`` those that count, too."""
    n, masses = measures.sizes[k], measures.masses()[k] if validate else None
    if masses is not None:
        n = (masses > 0).sum(-1).min().item()
    condition = f"have more points than correction={correction}"
    _check.require(n > correction, function, name, condition, n)
