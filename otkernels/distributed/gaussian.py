"""Gaussian Wasserstein distances of the global batch: each rank sums the moments of its points.

Two sums over ranks, of D + 2 and of D^2 + D + 2 numbers for each cloud, whatever the number of
points: nothing is gathered. The rest, of D^3, every rank does for itself.
"""

import torch
from torch import Tensor

from .. import _check, _ops
from .._measures import nan_out_of_range
from .._types import Group, Impl, Reduction
from ..bures import finished
from ..gaussian import Fit, between, check_options, with_ridge
from ._ranks import WORLD, Ranks
from ._shares import Shares, checked

__all__ = ["gaussian_wasserstein", "gaussian_wasserstein_to_normal", "mean_cov"]


def mean_cov(
    x: Tensor,
    *,
    weights: Tensor | None = None,
    lengths: Tensor | None = None,
    correction: int = 0,
    validate: bool = False,
    process_group: Group = WORLD,
) -> tuple[Tensor, Tensor]:
    """:func:`otkernels.mean_cov` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        weights: (..., N) weights of these points; the total of all ranks is one.
        lengths: (...) how many points of each cloud count on this rank.
        correction: 0 for the covariance of the measure, 1 for the unbiased one.
        validate: check values too, and that all ranks have arguments that fit, which waits for a
            GPU.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (mean, cov): (..., D) and (..., D, D), float32 (float64 for float64 input); the same numbers
        on all ranks. NaN where no more than ``correction`` points count.

    Gradients: x and weights, of any order, of the sum of the ranks' losses, see
        :func:`sliced_wasserstein`.

    Raises:
        ValueError, TypeError: as :func:`otkernels.mean_cov`; no process group.
        RuntimeError: with ``validate``, another rank has refused its arguments.

    Cost: sums over ranks of D^2 + 2 D + 4 numbers, float64, and of D^2 + D + 2 for the gradient.
    """
    function = "distributed.mean_cov"

    def prepare():
        _check.not_negative_int(function, "correction", correction)
        measures = checked(function, (x,), (weights,), (lengths,), validate)
        return measures, {"correction": correction}

    ranks = Ranks(function, process_group)
    measures = _prepared(ranks, ("x",), x, prepare, validate)
    with _ops.without_autocast(x.device):
        fit = _fitted(ranks, measures, 0, correction, False)
        dtype = _ops.accumulation_dtype(x.dtype)
        return fit.mean.to(dtype), fit.spread.to(dtype)


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
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.gaussian_wasserstein` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        y: (..., M, D) points of this rank, likewise.
        a: (..., N) weights of x on this rank; the total of all ranks is one.
        b: (..., M) the same for y.
        x_lengths: (...) how many points of each cloud of x count on this rank.
        y_lengths: (...) the same for y.
        correction: covariances are divided by n - correction, n the points of all ranks.
        eps: added to the diagonal of both covariances.
        diagonal: keep only the diagonals of the covariances.
        squared: False returns the root.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, and that all ranks have arguments that fit, which waits for a
            GPU. Without it arguments that differ are not found: ranks of which only some need a
            gradient wait until the process group's time-out, and with different D the sums may
            come out wrong.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Gradients: x, y, a and b, of the sum of the ranks' losses, see :func:`sliced_wasserstein`.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`otkernels.gaussian_wasserstein`; no
            process group; with ``validate``, arguments that differ between ranks.
        RuntimeError: with ``validate``, another rank has refused its arguments.

    Cost: as :func:`mean_cov` for both clouds; O(D^3) on every rank. Also for N < D covariances are
        formed.
    """
    function = "distributed.gaussian_wasserstein"

    def prepare():
        check_options(function, correction, eps, reduction)
        measures = checked(function, (x, y), (a, b), (x_lengths, y_lengths), validate)
        return measures, {"correction": correction, "eps": float(eps), "diagonal": diagonal}

    ranks = Ranks(function, process_group)
    measures = _prepared(ranks, ("x", "y"), x, prepare, validate)
    impl = _ops.choose_impl(function, impl, x.device)
    with _ops.without_autocast(x.device):
        fits = [_fitted(ranks, measures, k, correction, diagonal, eps) for k in (0, 1)]
        distance = between(*fits, diagonal, impl)
        return finished(*distance, x.dtype, squared, reduction).value


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
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.gaussian_wasserstein_to_normal` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        a: (..., N) weights of these points; the total of all ranks is one.
        x_lengths: (...) how many points of each cloud count on this rank.
        correction: the covariance is divided by n - correction, n the points of all ranks.
        eps: added to the diagonal of the covariance.
        diagonal: keep only its diagonal.
        squared: False returns the root.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: as for :func:`gaussian_wasserstein`.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Gradients, cost: as :func:`gaussian_wasserstein`.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as :func:`gaussian_wasserstein`.
    """
    function = "distributed.gaussian_wasserstein_to_normal"

    def prepare():
        check_options(function, correction, eps, reduction)
        measures = checked(function, (x,), (a,), (x_lengths,), validate)
        return measures, {"correction": correction, "eps": float(eps), "diagonal": diagonal}

    ranks = Ranks(function, process_group)
    measures = _prepared(ranks, ("x",), x, prepare, validate)
    impl = _ops.choose_impl(function, impl, x.device)
    with _ops.without_autocast(x.device):
        fit = _fitted(ranks, measures, 0, correction, diagonal, eps)
        distance = between(fit, None, diagonal, impl)
        return finished(*distance, x.dtype, squared, reduction).value


def _prepared(ranks, names, x, prepare, validate):
    """The measures of this rank; with ``validate`` all ranks make sure that theirs fit."""
    if not validate:
        return prepare()[0]
    shares = Shares(ranks, names, getattr(x, "device", None), prepare)
    shares.require_points(shares.options["correction"])
    return shares.measures


def _fitted(ranks, measures, k, correction, diagonal, eps=0.0):
    """The Gaussian fitted to set k of all ranks."""
    points, weights = measures.own_points(k).double(), _weights(measures, k)
    with torch.no_grad():
        # Around the mean of all ranks squares lose no digits, wherever the points lie.
        _, mass, first, _ = _summed(ranks, points, weights, points.new_empty(0))
        center = first / mass
    rows = points - center[..., None, :]
    weighed = rows * weights[..., None]
    squares = (weighed * rows).sum(-2) if diagonal else (weighed.mT @ rows).flatten(-2)
    count, mass, first, second = _summed(ranks, rows, weights, squares)
    factor = count / torch.where(count > correction, count - correction, torch.nan)
    rest, second = first / mass, second / mass  # the centre is off by its rounding
    if diagonal:
        spread = (second - rest.square()) * factor
    else:
        cov = second.unflatten(-1, rest.shape[-1:] * 2) - rest[..., :, None] * rest[..., None, :]
        spread = (cov + cov.mT) / 2 * factor[..., None]
    mean = (center + rest).expand(*measures.batch, -1)
    spread = with_ridge(spread, eps, diagonal).expand(
        *measures.batch, *spread.shape[rest.dim() - 1 :]
    )
    return Fit(mean, spread, measures.given[0].dtype)


def _weights(measures, k):
    """Weights (..., N) of this rank's points; NaN for all where one, or a length, is bad."""
    weights, lengths = measures.own_weights(k).double(), measures.lengths[k]
    weights = torch.where((weights >= 0).all(-1, keepdim=True), weights, torch.nan)
    if lengths is None:
        return weights
    return nan_out_of_range(weights, measures.sizes[k], lengths[..., None], least=0)


def _summed(ranks, rows, weights, squares):
    """Sums over all ranks, in one exchange: of points that count, weights, weighted rows, squares.

    They are (..., 1), (..., 1), (..., D) and (..., S); ``squares (..., S)`` is this rank's sum.
    """
    count = (weights != 0).sum(-1, keepdim=True).double()
    first = (rows * weights[..., None]).sum(-2)
    parts = count, weights.sum(-1, keepdim=True), first, squares
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    widths = [part.shape[-1] for part in parts]
    total = ranks.sum(torch.cat([part.expand(*batch, -1) for part in parts], -1))
    return total.split(widths, -1)
