r"""Max-sliced Wasserstein distance: the direction along which two clouds differ most.

    max over theta of W_p^p(x theta, y theta), |theta| = 1

(Deshpande et al. 2019, "Max-sliced Wasserstein distance and its use for GANs"). The function is not
concave; it is searched by ascent on the sphere from several starts, each accepted step better than
the one before.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from . import _check, _ops, _transforms
from ._results import root_and_reduce
from ._slicing import clouds, directions
from ._types import Impl, Method, Reduction
from .sliced import estimate

__all__ = ["max_sliced_wasserstein"]

# Angle of the first step, in radians, and its factors after a step up and after one refused.
FIRST_STEP = 0.3
LONGER, SHORTER = 1.5, 0.4


@overload
def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: Tensor | None = ...,
    method: Method = ...,
    n_starts: int = ...,
    n_steps: int = ...,
    start: Tensor | None = ...,
    a: Tensor | None = ...,
    b: Tensor | None = ...,
    x_lengths: Tensor | None = ...,
    y_lengths: Tensor | None = ...,
    generator: torch.Generator | None = ...,
    root: bool = ...,
    reduction: Reduction = ...,
    return_direction: Literal[False] = ...,
    validate: bool = ...,
    impl: Impl | None = ...,
) -> Tensor: ...


@overload
def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: Tensor | None = ...,
    method: Method = ...,
    n_starts: int = ...,
    n_steps: int = ...,
    start: Tensor | None = ...,
    a: Tensor | None = ...,
    b: Tensor | None = ...,
    x_lengths: Tensor | None = ...,
    y_lengths: Tensor | None = ...,
    generator: torch.Generator | None = ...,
    root: bool = ...,
    reduction: Reduction = ...,
    return_direction: Literal[True],
    validate: bool = ...,
    impl: Impl | None = ...,
) -> tuple[Tensor, Tensor]: ...


def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2,
    n_projections: int = 128,
    projections: Tensor | None = None,
    method: Method = "gaussian",
    n_starts: int = 4,
    n_steps: int = 20,
    start: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
    root: bool = False,
    reduction: Reduction = "none",
    return_direction: bool = False,
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Max-sliced Wasserstein distance between point clouds, to the power p: a searched lower bound.

    Candidates are ``n_projections`` drawn directions, the difference of the means and ``start``.
    The best ``n_starts`` of them, for each problem by itself, climb by ``n_steps`` steps along
    great circles, uphill along the gradient. A step that does not raise the cost is taken back and
    the next is shorter. The result is never below the best candidate, up to rounding.

    Args:
        x: (..., N, D) points; this and what is not listed as in
            :func:`otkernels.sliced_wasserstein`.
        y: (..., M, D) points.
        p: exponent.
        n_projections: number of directions to draw when ``projections`` is None.
        projections: (D, L) or (..., D, L) candidates instead of drawn ones; they are normalised.
        method: how directions are drawn.
        n_starts: how many candidates climb.
        n_steps: how many steps each of them takes; 0 takes the best candidate as it is.
        start: (..., D) one more candidate for each problem, such as the direction of the last
            call (not normalised; zero is no candidate).
        a: (..., N) weights of x.
        b: (..., M) weights of y.
        x_lengths: (...) how many points of each cloud of x count.
        y_lengths: (...) the same for y.
        generator: source of the drawn directions.
        root: return the p-th root.
        reduction: "none", "mean" or "sum" over the leading axes.
        return_direction: return the direction too.
        validate: check values too.
        impl: implementation, of each evaluation.

    Returns:
        (...) tensor, or () after a reduction; with ``return_direction`` a pair of it and the unit
        direction (..., D) of each problem, in the accumulation dtype and without gradient.

    Gradients: x, y, a and b, at the direction found, which is constant (Danskin's theorem: that is
        the gradient of the maximum where it is unique and no two projected points of a cloud
        coincide there; on such a tie, where small clouds often have their maximum, it is that of
        one of the plans that meet).

    Raises:
        ValueError: as :func:`otkernels.sliced_wasserstein`; n_starts < 1, n_steps < 0.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton"; torch.export.

    Cost: about (L + 2 n_starts n_steps) / L times that of a sliced distance over L directions.

    >>> x = torch.randn(50, 3)
    >>> y = x + torch.tensor([2.0, 0.0, 0.0])
    >>> round(max_sliced_wasserstein(x, y, root=True).item(), 4)
    2.0
    """
    name = "max_sliced_wasserstein"
    _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
    _check.positive_int(name, "n_starts", n_starts)
    _check.not_negative_int(name, "n_steps", n_steps)
    if _transforms.is_exporting():
        how = "torch.export does not trace its search. Use torch.compile."
        raise NotImplementedError(f"{name}: {how}")
    weights, lengths = (a, b), (x_lengths, y_lengths)
    measures = clouds(name, x, y, p, weights, lengths, validate)
    theta = directions(name, x, projections, n_projections, method, generator, validate)
    with torch.no_grad(), _ops.without_autocast(x.device):
        weights = tuple(None if t is None else t.detach() for t in weights)
        fixed = clouds(name, x.detach(), y.detach(), p, weights, lengths)

        def costs(theta):
            """The sum of all costs, and each of them (..., L)."""
            value, each = estimate(fixed, theta, p, impl, inner=True)
            return value.sum() * each.shape[-1], each

        fixed.include("projections", theta.shape[:-2])
        theta = _candidates(fixed, theta.detach(), start)
        each = costs(theta)[1]
        theta, best = _top(theta, each, n_starts)
        theta, best = _climb(costs, theta, best, n_steps)
        theta, _ = _top(theta, best, 1)
    value, _ = estimate(measures, theta, p, impl)
    value = root_and_reduce(value, p, root, reduction)
    return (value, theta[..., 0]) if return_direction else value


def _candidates(measures, theta, start):
    """Unit directions (*batch, D, K): theta (..., D, L), the difference of the means, the start."""
    means = [(m.unsqueeze(-2) @ points).squeeze(-2) for points, m in measures.weighed()]
    found = [means[0] - means[1]]
    if start is not None:
        _check_start(measures, start)
        found.append(start)
    found = [theta, *(f.detach().to(theta.dtype).unsqueeze(-1) for f in found)]
    unit = _unit(torch.cat([f.expand(*measures.batch, -1, -1) for f in found], dim=-1))
    # Where means coincide, say, there is no direction: the first of theta stands in for it, or the
    # first axis if that is none either.
    axis = torch.eye(unit.shape[-2], 1, dtype=unit.dtype, device=unit.device)
    for stand_in in (unit[..., :1], axis):
        unit = torch.where((unit == 0).all(-2, keepdim=True), stand_in, unit)
    return unit


def _check_start(measures, start):
    name, d = measures.function, measures.given[0].shape[-1]
    _check.floating(name, "start", start)
    shape = tuple(start.shape)
    _check.require(shape[-1:] == (d,), name, "start", f"have shape (..., {d})", shape)
    device = measures.given[0].device
    _check.require(
        start.device == device, name, "start", f"be on x's device {device}", start.device
    )
    measures.include("start", shape[:-1])


def _unit(theta):
    """Columns of theta (..., D, L) at unit length; a zero stays zero."""
    norm = theta.norm(dim=-2, keepdim=True)
    return theta / torch.where(norm == 0, 1, norm)


def _top(theta, costs, k):
    """The k directions of theta (..., D, L) with the highest costs (..., L), and those costs."""
    # A NaN belongs to its whole problem, where any direction will do.
    best, index = costs.nan_to_num(nan=-torch.inf).topk(min(k, costs.shape[-1]), dim=-1)
    theta = theta.expand(*costs.shape[:-1], *theta.shape[-2:])
    index = index.unsqueeze(-2).expand(*index.shape[:-1], theta.shape[-2], -1)
    return theta.gather(-1, index), best


def _climb(costs, theta, best, n_steps):
    """Directions (..., D, S) after so many steps uphill, and their costs (..., S)."""
    angle = torch.full_like(best, FIRST_STEP)
    gradient = torch.func.grad(costs, has_aux=True)
    slope, _ = gradient(theta)
    for _ in range(n_steps):
        tangent = _unit(slope - (slope * theta).sum(-2, keepdim=True) * theta)
        turned = _unit(theta * angle.cos().unsqueeze(-2) + tangent * angle.sin().unsqueeze(-2))
        slope_there, there = gradient(turned)
        up = there > best
        theta = torch.where(up.unsqueeze(-2), turned, theta)
        slope = torch.where(up.unsqueeze(-2), slope_there, slope)
        best = torch.where(up, there, best)
        angle = angle * torch.where(up, LONGER, SHORTER)
    return theta, best
