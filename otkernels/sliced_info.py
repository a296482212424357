r"""Sliced Wasserstein distance with what is known of its Monte-Carlo error, and a way to cut it.

The value is the mean of L costs, one a direction, and so has the standard error s / sqrt(L) with s
their standard deviation. A control variate lowers s. For W_2^2 it is the Gaussian approximation of
Nguyen and Ho 2024 ("Sliced Wasserstein estimation with control variates", ICLR), whose parts are
quadratic forms of the direction,

    q_1 = (theta . (mean_x - mean_y))^2,  q_2 = theta^T cov_x theta,  q_3 = theta^T cov_y theta,

each of known mean over the sphere, trace / D. A cost is exactly q_1 plus that of the centred
clouds, so q_1 is subtracted as it is; of the others, the combination nearest to the rest by least
squares. Their known means are added back.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import _check
from ._slicing import clouds, directions
from ._types import Impl, Method, Slices
from .sliced import estimate

__all__ = ["SlicedWassersteinInfo", "sliced_wasserstein_with_info"]


class SlicedWassersteinInfo(NamedTuple):
    """What :func:`sliced_wasserstein_with_info` returns."""

    value: torch.Tensor
    """(...) the estimate of SW_p^p; the only one with a gradient."""
    costs: torch.Tensor
    """(..., L) W_p^p of each direction."""
    standard_error: torch.Tensor
    """(...) standard error of the value over the draw of independent directions."""


def sliced_wasserstein_with_info(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2,
    n_projections: int = 128,
    projections: Tensor | Slices | None = None,
    method: Method = "gaussian",
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
    control_variate: bool = False,
    validate: bool = False,
    impl: Impl | None = None,
) -> SlicedWassersteinInfo:
    """Sliced Wasserstein distance to the power p, the cost of each direction and a standard error.

    Args:
        x: (..., N, D) points; this and the rest as in :func:`otkernels.sliced_wasserstein`.
        y: (..., M, D) points.
        p: exponent.
        n_projections: number L of directions to draw when ``projections`` is None.
        projections: directions (D, L) or (..., D, L), or a callable.
        method: how directions are drawn.
        a: (..., N) weights of x.
        b: (..., M) weights of y.
        x_lengths: (...) how many points of each cloud of x count.
        y_lengths: (...) the same for y.
        generator: source of the drawn directions.
        control_variate: for p = 2, subtract the Gaussian approximation of the costs, of known mean
            over the sphere (see the module). Two coefficients are fitted to the L costs, which
            leaves a bias of order 1/L; directions must be uniform on the sphere, each by itself:
            drawn ones are. Needs L > 3. docs/directions.md has measured cuts of the error.
        validate: check values too.
        impl: implementation.

    Returns:
        :class:`SlicedWassersteinInfo`. The standard error is that of independent directions: with
        "orthogonal" and "sobol", whose errors cancel in part, it errs on the large side. It is NaN
        for L = 1. costs are those without control variate; value is their mean without one.

    Gradients: of value, to all that :func:`otkernels.sliced_wasserstein` differentiates. The fitted
        coefficients are taken as constants.

    Raises:
        ValueError: as :func:`otkernels.sliced_wasserstein`; control_variate with another p than 2,
            with a callable or with less than 4 directions.
        TypeError: not a floating tensor; lengths that are no integers.

    >>> info = sliced_wasserstein_with_info(torch.zeros(4, 2), torch.ones(4, 2))
    >>> info.costs.shape
    torch.Size([128])
    """
    name = "sliced_wasserstein_with_info"
    measures = clouds(name, x, y, p, (a, b), (x_lengths, y_lengths), validate)
    if control_variate:
        _check.require(p == 2, name, "p", "be 2 with control_variate=True", repr(p))
        tensor = not callable(projections)
        condition = "be directions with control_variate=True"
        _check.require(tensor, name, "projections", condition, type(projections).__name__)
    if not callable(projections):
        projections = directions(name, x, projections, n_projections, method, generator, validate)
    if control_variate:
        n_directions = projections.shape[-1]
        condition = "have L > 3 for a control variate"
        _check.require(n_directions > 3, name, "projections", condition, n_directions)
    value, costs = estimate(measures, projections, p, impl)
    if not control_variate:
        n_directions = costs.shape[-1]
        error = costs.std(-1) if n_directions > 1 else torch.full_like(value.detach(), torch.nan)
        return SlicedWassersteinInfo(value, costs, error / n_directions**0.5)
    controls = _controls(measures, projections)
    shift, others = controls[..., 0, :], controls[..., 1:, :]
    coefficients, error = _regress(costs - shift.detach(), others.detach())
    known = shift.mean(-1) + (coefficients * others.mean(-1)).sum(-1)
    value = value - known.to(value.dtype)
    return SlicedWassersteinInfo(value, costs, error.to(costs.dtype))


def _controls(measures, projections):
    """The three quadratic forms less their means over the sphere: (*batch, 3, L), float64."""
    theta = projections.double()
    means, covariances = zip(*(_moments(*side) for side in measures.weighed()), strict=True)
    shift = means[0] - means[1]
    forms = [
        (shift.unsqueeze(-2) @ theta).squeeze(-2).square() - shift.square().mean(-1, keepdim=True),
        *(
            ((covariance @ theta) * theta).sum(-2)
            - covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
            for covariance in covariances
        ),
    ]
    return torch.stack([f.expand(*measures.batch, -1) for f in forms], dim=-2)


def _moments(points, masses):
    """Mean (..., D) and covariance (..., D, D)."""
    mean = (masses.unsqueeze(-2) @ points).squeeze(-2)
    centred = points - mean.unsqueeze(-2)
    return mean, centred.mT @ (masses.unsqueeze(-1) * centred)


def _regress(costs, controls):
    """Coefficients (..., K) of controls (..., K, L) for costs (..., L), and the standard error.

    Least squares with a constant, whose value at controls 0 is the estimate. By Gram and Schmidt,
    leaving out a control that depends on those before it: a solver would raise on NaN and on equal
    covariances.
    """
    left = costs.double() - costs.double().mean(-1, keepdim=True)
    centred = controls - controls.mean(-1, keepdim=True)
    *_, n_controls, n_directions = controls.shape
    means = controls.mean(-1)
    leverage = 1 / n_directions
    coefficients = torch.zeros_like(controls[..., 0])
    basis = []
    for k in range(n_controls):
        vector = centred[..., k, :]
        combination = torch.zeros_like(coefficients)
        combination[..., k] = 1
        size = vector.square().sum(-1, keepdim=True)
        for other, of_controls in basis:
            share = (vector * other).sum(-1, keepdim=True)
            vector = vector - share * other
            combination = combination - share * of_controls
        norm = vector.square().sum(-1, keepdim=True)
        new = norm > 1e-12 * size
        scale = torch.where(new, torch.where(new, norm, 1).rsqrt(), 0)
        basis.append((vector * scale, combination * scale))
        share = (left * basis[-1][0]).sum(-1, keepdim=True)
        left = left - share * basis[-1][0]
        coefficients = coefficients + share * basis[-1][1]
        leverage = leverage + (basis[-1][1] * means).sum(-1).square()
    variance = left.square().sum(-1) / (n_directions - 1 - n_controls)
    return coefficients, (variance * leverage).sqrt()
