r"""Wasserstein distance of Gaussians with given moments.

    W_2^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2

The last trace, the fidelity, stands in ``_fidelity``; moments of samples in ``gaussian``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import _check, _ops
from ._fidelity import fidelity
from ._results import nan_everywhere, root_and_reduce
from ._types import Impl, Reduction
from .sqrtm import check_covariance, cutoff_of

__all__ = ["BuresInfo", "bures_wasserstein", "bures_wasserstein_with_info"]


class BuresInfo(NamedTuple):
    """What :func:`bures_wasserstein_with_info` and its like return.

    Attributes:
        value: the distance, as the function without info returns it.
        residual: (...) measured relative error, float64, without gradient: how far from symmetric
            is what must be symmetric, the matrix T of the gradient or, without gradient or for
            points, H of the polar decomposition; on the CPU for fewer points than features the
            lack of orthogonality of singular vectors. It does not show what rounding did to the
            covariances before. 0 for diagonal covariances.
        redone: (...) booleans: problems that the fast form did in its slow and safe way (float64,
            by eigenvalues on the CPU), because a covariance is singular or nearly, or the first
            residual was too large; with "triton" always for fewer points than features. False with
            ``impl="torch"``, which knows no other way.
    """

    value: torch.Tensor
    residual: torch.Tensor
    redone: torch.Tensor


def bures_wasserstein(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor,
    cov_y: Tensor,
    *,
    diagonal: bool = False,
    pairwise: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Wasserstein-2 distance between Gaussians with given means and covariances, squared.

    |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x^1/2 S_y S_x^1/2)^1/2 (Dowson, Landau 1982; Givens,
    Shortt 1984; the Bures distance of the covariances where the means are equal). No
    eigendecomposition is taken where covariances are regular: the last trace is the nuclear norm
    of F_x^T F_y for any factors S = F F^T, and its gradient comes from the polar factor of that
    product (docs/math.md, "Gaussian Wasserstein distance").

    Args:
        mean_x: (..., D) means, float16, bfloat16, float32 or float64.
        cov_x: (..., D, D) symmetric positive semi-definite covariances, of which the symmetric
            part counts, in the squared unit of the means; with ``diagonal``, (..., D) variances.
            Eigenvalues up to the dtype's eps (for float64 D eps) times the largest count as 0:
            they are rounding. What has negative ones beyond that is no covariance, and its result
            means nothing; ``validate`` refuses it.
        mean_y: (..., D) means of mean_x's dtype and device.
        cov_y: covariances of y. All leading axes broadcast.
        diagonal: covariances are given by their diagonals.
        pairwise: all pairs: x's (..., P, D) and (..., P, D, D) against y's (..., Q, D) and
            (..., Q, D, D) give (..., P, Q).
        squared: return W_2^2; False is the root, with sub-gradient 0 where W_2^2 is 0 or rounded
            to below.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU: finite, covariances symmetric up to
            rounding and without negative eigenvalue.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input). Its error is
        relative to tr S_x + tr S_y, so equal Gaussians may come out at a little below 0.

    Gradients: all four; first order ("torch" also higher). That of a covariance is symmetric,
        I - T with T the matrix of the Monge map from its Gaussian to the other one; finite also at
        equal covariances and equal eigenvalues. Where a covariance is singular, W_2^2 has no
        gradient in the directions that leave its range; there it is I - T with T = 0 between two
        such directions, and exact in all others. A NaN makes value and gradient of its own problem
        NaN and leaves the others alone.

    Raises:
        ValueError: shape, dtype or device that does not fit, an unknown reduction, an impl that
            cannot run here; with ``validate`` whatever that checks.
        TypeError: not a floating tensor.
        NotImplementedError: a second derivative of "cpu" or "triton".

    Cost: O(B D^3) time.

    >>> import torch
    >>> zero, one = torch.zeros(2), torch.eye(2)
    >>> bures_wasserstein(zero, one, zero + 1, 4 * one).item()  # 2 + 2 (2 - 1)^2
    4.0
    """
    info = bures_wasserstein_with_info(
        mean_x,
        cov_x,
        mean_y,
        cov_y,
        diagonal=diagonal,
        pairwise=pairwise,
        squared=squared,
        reduction=reduction,
        validate=validate,
        impl=impl,
    )
    return info.value


def bures_wasserstein_with_info(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor,
    cov_y: Tensor,
    *,
    diagonal: bool = False,
    pairwise: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> BuresInfo:
    """:func:`bures_wasserstein`, with what is known of its accuracy.

    Arguments as there. ``residual`` and ``redone`` have one entry for each problem, also after a
    reduction.

    Returns:
        :class:`BuresInfo`.

    >>> import torch
    >>> zero, one = torch.zeros(2), torch.eye(2)
    >>> bures_wasserstein_with_info(zero, one, zero, one).redone.item()
    False
    """
    function = "bures_wasserstein"
    _check.one_of(function, "reduction", reduction, _check.REDUCTIONS)
    given = checked(function, (mean_x, cov_x, mean_y, cov_y), diagonal, validate)
    impl = _ops.choose_impl(function, impl, mean_x.device)
    axes = (1, 1, 1, 1) if diagonal else (1, 2, 1, 2)
    if pairwise:
        given = _all_pairs(function, given, axes)
    given, cutoff = broadcast(function, given, axes), cutoff_of(cov_x)
    with _ops.without_autocast(mean_x.device):
        # Once and for all: I - T is small where I and T, of half precision each, are not.
        wide = _ops.accumulation_dtype(mean_x.dtype)
        mean_x, cov_x, mean_y, cov_y = (t.to(wide) for t in given)
        if diagonal:
            value, residual, redone = of_variances(cov_x, cov_y)
        else:
            value, residual, redone = of_covariances(cov_x, cov_y, cutoff, impl)
        value = nan_everywhere(value + (mean_x.double() - mean_y.double()).square().sum(-1))
        return finished(value, residual, redone, mean_x.dtype, squared, reduction)


def of_covariances(x, y, cutoff, impl):
    """Tr S_x + tr S_y - 2 fidelity, residual and redone, of covariances (*batch, D, D)."""
    double = x.dtype == torch.float64
    root, residual, redone = fidelity(x, y, cutoff=cutoff, double=double, impl=impl)
    return trace(x) + trace(y) - 2 * root, residual, redone


def trace(cov):
    """Trace of (..., D, D) in float64."""
    return cov.diagonal(dim1=-2, dim2=-1).double().sum(-1)


def of_variances(x, y):
    """The same of variances (..., D), plain torch for every impl."""
    x, y = x.double(), y.double()
    value = (x + y - 2 * _root(x) * _root(y)).sum(-1)
    residual = torch.zeros_like(value)
    return nan_everywhere(value), residual, residual > 0


def _root(variance):
    """Root with sub-gradient 0 at 0; a negative variance is rounding and counts as 0."""
    zero = variance <= 0
    return torch.where(zero, 0, torch.where(zero, 1, variance).sqrt())


def finished(value, residual, redone, dtype, squared, reduction):
    """The :class:`BuresInfo` of squared distances in float64."""
    value = value.to(_ops.accumulation_dtype(dtype))
    value = root_and_reduce(value, 2, not squared, reduction)
    return BuresInfo(value, residual.detach(), redone)


def checked(function, given, diagonal, validate):
    """The moments of two Gaussians, as given: means (..., D) and covariances."""
    names = "mean_x", "cov_x", "mean_y", "cov_y"
    first = given[0]
    for name, value in zip(names, given, strict=True):
        _check.floating(function, name, value)
        shape = tuple(value.shape)
        if name.startswith("mean") or diagonal:
            ok = len(shape) >= 1 and shape[-1] > 0
            _check.require(ok, function, name, "have shape (..., D), D >= 1", shape)
            if validate:
                _check.finite(function, name, value)
            if validate and name.startswith("cov"):
                least = value.min().item() if value.numel() else 0.0
                _check.require(least >= 0, function, name, "not be negative", least)
        else:
            check_covariance(function, name, value, validate)
        d = first.shape[-1]
        _check.require(shape[-1] == d, function, name, f"have mean_x's {d} features", shape)
        _check.same_kind(function, first, value, ("mean_x", name))
    return given


def _all_pairs(function, given, axes):
    """Every x (..., P, 1) against every y (..., 1, Q)."""
    names = "mean_x", "cov_x", "mean_y", "cov_y"
    pairs = []
    for name, value, own, new in zip(names, given, axes, (1, 1, 2, 2), strict=True):
        condition = "have an axis of Gaussians with pairwise=True"
        _check.require(value.dim() > own, function, name, condition, tuple(value.shape))
        pairs.append(value.unsqueeze(-own - new))
    return pairs


def broadcast(function, given, axes):
    """All four with the same leading axes; the last ``axes`` of each are its own."""
    batch = given[0].shape[:-1]
    names = "cov_x", "mean_y", "cov_y"
    for name, value, own in zip(names, given[1:], axes[1:], strict=True):
        batch = _check.broadcastable(function, name, value.shape[:-own], batch, "the others'")
    return [
        value.expand(*batch, *value.shape[-own:]) for value, own in zip(given, axes, strict=True)
    ]
