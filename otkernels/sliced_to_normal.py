r"""Sliced Wasserstein distance from a cloud to the standard normal distribution, in closed form.

The projection of N(0, I) on a unit vector is N(0, 1), whose quantile function is known. The i-th
of N sorted projections meets it on the levels ((i-1)/N, i/N), so that with the mean q_i of the
quantile function there

    W_2^2(u, N(0, 1)) = 1/N sum_i (u_(i) - q_i)^2 + (1 - 1/N sum_i q_i^2):

the distance on the line to N points, plus what the normal distribution varies within the cells.
"""

import math

import torch
from torch import Tensor

from . import _check, _measures, _ops
from ._masses import equal_masses
from ._products import product
from ._quantiles import line_cost
from ._results import nan_everywhere, root_and_reduce
from ._slicing import directions
from ._types import Impl, Method, Reduction

__all__ = ["sliced_wasserstein_to_normal"]

_SCHEMA = (
    "(Tensor x, Tensor projections, Tensor target, Tensor? n, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def _fake(x, projections, target, n, needs):
    costs = x.new_empty((*x.shape[:-2], projections.shape[-1]), dtype=projections.dtype)
    grads = (_ops.empty_grad(t, need) for t, need in zip((x, projections), needs, strict=True))
    return costs.new_empty(costs.shape[:-1]), costs, *grads


_OPS = {
    impl: _ops.register(f"to_normal_{impl}", _SCHEMA, f"{folder}.sliced:to_normal", _fake)
    for impl, folder in _ops.FOLDERS.items()
}


def _normal_cells(sizes, n):
    """Cells of N(0, 1) of equal mass: the mean of each (..., n) and the variance within (...).

    ``sizes (...)`` says how many cells; the rest of the n are 0. The mean of the quantile function
    over a cell is the fall of the density between its ends, over its mass. Float64.
    """
    sizes = sizes.double()[..., None]
    edge = torch.arange(n + 1, dtype=torch.float64, device=sizes.device)
    level = torch.minimum(edge, sizes - edge).clamp(min=0) / sizes  # the density is symmetric
    density = torch.exp(-torch.special.ndtri(level).square() / 2) / math.sqrt(2 * math.pi)
    means = -sizes * density.diff(dim=-1)
    return means, 1 - (means.square().sum(-1, keepdim=True) / sizes)[..., 0]


def sliced_wasserstein_to_normal(
    x: Tensor,
    *,
    n_projections: int = 128,
    projections: Tensor | None = None,
    method: Method = "gaussian",
    x_lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
    root: bool = False,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Sliced Wasserstein distance, squared, from a point cloud to the standard normal N(0, I).

    Mean over directions of W_2^2 between the projected points and N(0, 1), which is exact: no
    samples of the normal distribution are drawn, and nothing of them is noise. That is the
    penalty of a sliced-Wasserstein autoencoder with a Gaussian prior (Kolouri et al. 2019, "Sliced
    Wasserstein auto-encoders"), with one sort instead of two (docs/math.md, "To the normal").

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        n_projections: number L of directions to draw when ``projections`` is None.
        projections: (D, L) or (..., D, L) unit directions, used as given: along one of another
            length the target is still N(0, 1).
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        x_lengths: (...) integers: the first so many points of each cloud count, the rest is
            padding, of any content. None is all.
        generator: source of the drawn directions, on x's device; None is torch's global stream.
        root: return the square root of the mean.
        reduction: "none", "mean" or "sum" over the leading axes. There are no weights: for those
            use :func:`otkernels.sliced_wasserstein` with samples of the prior.
        validate: check values too, which waits for a GPU: points finite, lengths in range.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input). It is above 0
        for every finite cloud: N points differ from the normal distribution, by about
        log(log N) / N on a line where they are drawn from it.

    Gradients: x and given projections; first order ("torch" also higher). NaN as in
        :func:`otkernels.sliced_wasserstein`.

    Raises:
        ValueError: shape, dtype or device that does not fit, an impl that cannot run here; lengths
            out of range on the CPU, and with ``validate`` whatever that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton".

    >>> x = torch.tensor([[-0.7979], [0.7979]])  # the means of both halves of N(0, 1)
    >>> round(sliced_wasserstein_to_normal(x, projections=torch.eye(1)).item(), 4)
    0.3634
    """
    name = "sliced_wasserstein_to_normal"
    _check.cloud(name, "x", x)
    _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
    if callable(projections):
        got = type(projections).__name__
        _check.require(False, name, "projections", "be a tensor: other slices are not normal", got)
    n, batch = x.shape[-2], x.shape[:-2]
    theta = directions(name, x, projections, n_projections, method, generator, validate)
    batch = _check.broadcastable(name, "projections", theta.shape[:-2], batch, "x's")
    if x_lengths is not None:
        _check.lengths(name, "x_lengths", x_lengths, n, x, validate)
        batch = _check.broadcastable(name, "x_lengths", x_lengths.shape, batch, "x's")
        x = _measures.without_padding(x, x_lengths, -2)
    if validate:
        _check.finite(name, "x", x)
    impl = _ops.choose_impl(name, impl, x.device)
    x, theta = x.expand(*batch, *x.shape[-2:]), theta.expand(*batch, *theta.shape[-2:])
    with _ops.without_autocast(x.device):
        cost = _cost(x, theta, x_lengths, impl)
        return root_and_reduce(cost, 2, root, reduction)


def _cost(x, theta, lengths, impl):
    """The mean over directions, for checked arguments on one batch."""
    n, batch = x.shape[-2], x.shape[:-2]
    counts = torch.full((), n, device=x.device) if lengths is None else lengths.long().clamp(1, n)
    target, within = _normal_cells(counts, n)
    target = target.to(theta.dtype).expand(*batch, n)
    if impl == "torch":
        u = product(x.to(theta.dtype), theta).mT
        masses = None
        if lengths is not None:
            masses = equal_masses(counts, n)[..., None, :]
        v = target.unsqueeze(-2).expand(u.shape)
        cost = nan_everywhere(line_cost(u, v, 2, masses, masses).mean(-1))
    else:
        counted = None if lengths is None else counts.expand(batch)
        cost, _ = _ops.value_and_grad(_OPS[impl], (x, theta), target, counted)
    cost = cost + within.to(cost.dtype)
    return cost if lengths is None else _measures.nan_out_of_range(cost, n, lengths)
