r"""Sliced Wasserstein distance: its raw operators, which of them answers a call, public functions.

The sliced distance averages the distance on the line over directions theta_l (Rabin, Peyre, Delon,
Bernot 2011; Bonneel, Rabin, Peyre, Pfister 2015):

    SW_p^p(x, y) = 1/L sum_l W_p^p(x theta_l, y theta_l).

The definition on the line stands in ``_quantiles``.
"""

import torch
from torch import Tensor

from . import _check, _ops
from ._masses import no_grad
from ._measures import Measures, without_padding
from ._products import product
from ._quantiles import line_cost
from ._results import nan_everywhere, root_and_reduce
from ._slicing import clouds, directions
from ._types import Impl, Method, Reduction, Slices

__all__ = ["sliced_wasserstein", "wasserstein_1d"]


# --- raw operators of the fast forms ------------------------------------------------------------

_LINE_SCHEMA = (
    "(Tensor u, Tensor v, Tensor? a, Tensor? b, Tensor? n, Tensor? m, float p, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_SLICED_SCHEMA = (
    "(Tensor x, Tensor y, Tensor projections, Tensor? a, Tensor? b, Tensor? n, Tensor? m, float p,"
    " bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _fake_line(u, v, a, b, n, m, p, needs):
    costs = u.new_empty(u.shape[:-1], dtype=_ops.accumulation_dtype(u.dtype))
    return _fake_value(costs), costs, *_fake_grads((u, v, a, b), needs, costs)


def _fake_sliced(x, y, projections, a, b, n, m, p, needs):
    costs = x.new_empty((*x.shape[:-2], projections.shape[-1]), dtype=projections.dtype)
    return _fake_value(costs), costs, *_fake_grads((x, y, projections, a, b), needs, costs)


def _fake_value(costs):
    return costs.new_empty(costs.shape[:-1])


def _fake_grads(tensors, needs, costs):
    return [
        no_grad(costs) if t is None else _ops.empty_grad(t, need)
        for t, need in zip(tensors, needs, strict=True)
    ]


_LINE_OPS = {
    impl: _ops.register(f"line_{impl}", _LINE_SCHEMA, f"{folder}.sliced:line", _fake_line)
    for impl, folder in _ops.FOLDERS.items()
}
_SLICED_OPS = {
    impl: _ops.register(f"sliced_{impl}", _SLICED_SCHEMA, f"{folder}.sliced:sliced", _fake_sliced)
    for impl, folder in _ops.FOLDERS.items()
}


# --- one answer from whichever form -------------------------------------------------------------


def _cost(measures, sets, projections, p, impl, inner=False):
    """Mean over L lines of W_p^p, (*batch), and the cost of each line, (*batch, L).

    ``sets`` are clouds (*batch, N, D) and (*batch, M, D) to be projected along projections
    (*batch, D, L) or, where these are None, rows (*batch, L, N) and (*batch, L, M).
    """
    if impl == "torch":
        dtype = _ops.accumulation_dtype(sets[0].dtype)
        rows = [t.to(dtype) for t in sets]
        if projections is not None:
            rows = [product(t, projections).mT for t in rows]
        a, b = (None if t is None else t.unsqueeze(-2) for t in measures.masses())
        costs = line_cost(*rows, p, a, b)
        value, costs = nan_everywhere(costs.mean(-1)), costs.detach()
    else:
        n, m = measures.counts()
        a, b = (None, None) if n is not None else measures.masses()
        if projections is None:
            op, tensors = _LINE_OPS[impl], (*sets, a, b)
        else:
            op, tensors = _SLICED_OPS[impl], (*sets, projections, a, b)
        value, (costs,) = _ops.value_and_grad(op, tensors, n, m, p, inner=inner)
    return measures.nan_out_of_range(value), costs


def estimate(measures, projections, p, impl, inner=False):
    """Value (*batch) and, without gradient, costs (*batch, L) between checked clouds.

    ``projections`` is what :func:`otkernels._slicing.directions` returns, or a callable; ``inner``
    as for :func:`otkernels._ops.value_and_grad`.
    """
    device = measures.given[0].device
    impl = _ops.choose_impl(measures.function, impl, device)
    if callable(projections):
        sets = _slices(measures, projections)  # computed in whatever the caller's autocast says
        projections = None
    else:
        measures.include("projections", projections.shape[:-2])
        projections = projections.expand(*measures.batch, -1, -1)
        sets = tuple(measures.point_sets())
    with _ops.without_autocast(device):
        return _cost(measures, sets, projections, float(p), impl, inner)


def _slices(measures, function):
    """Rows (*batch, L, N) and (*batch, L, M) that a callable makes of both clouds."""
    rows = []
    for cloud, lengths in zip(measures.point_sets(), measures.lengths, strict=True):
        projected = function(cloud)
        _check.floating(measures.function, "projections(points)", projected)
        shape = tuple(projected.shape)
        ok = shape[:-1] == cloud.shape[:-1] and shape[-1:] > (0,)
        if not ok:  # only now: see _check.weights
            expected = f"have shape (..., N, L) for points {tuple(cloud.shape)}"
            _check.require(ok, measures.function, "projections(points)", expected, shape)
        row = projected.mT
        rows.append(row if lengths is None else without_padding(row, lengths[..., None], -1))
    _check.same_kind(measures.function, *rows, ("projections(x)", "projections(y)"))
    same = rows[0].shape[-2] == rows[1].shape[-2]
    expected = f"give as many slices as for x, {rows[0].shape[-2]}"
    _check.require(same, measures.function, "projections(y)", expected, rows[1].shape[-2])
    return tuple(rows)


# --- public functions ---------------------------------------------------------------------------


def wasserstein_1d(
    u: Tensor,
    v: Tensor,
    *,
    p: float = 2,
    a: Tensor | None = None,
    b: Tensor | None = None,
    u_lengths: Tensor | None = None,
    v_lengths: Tensor | None = None,
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    r"""Wasserstein distance on the line, to the power p: W_p^p along the last axis.

    \int_0^1 |F(t) - G(t)|^p dt for the quantile functions F and G of u and v; for equal sizes and
    uniform weights the mean of |u_(i) - v_(i)|^p over sorted values (docs/math.md, "On the line").

    Args:
        u: (..., N) numbers, float16, bfloat16, float32 or float64.
        v: (..., M) numbers of u's dtype and device; leading axes broadcast with u's.
        p: exponent, any number of at least 1.
        a: (..., N) non-negative weights of u, any floating dtype, normalised to total mass one;
            None is uniform.
        b: (..., M) the same for v.
        u_lengths: (...) integers: the first so many numbers of each row of u count, the rest is
            padding, of any content. None is all.
        v_lengths: (...) the same for v.
        validate: check values too, which waits for a GPU: numbers and weights finite, weights not
            negative, lengths in range.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, float32 (float64 for float64 input). No root is taken.

    Gradients: u, v, a and b; first order ("torch" also higher). Where u_(i) = v_(i) the
        sub-gradient is 0; equal values of one side share no order, so each of their gradients is
        one valid choice; where levels of both sides coincide, weights get the middle of their
        sub-gradients. A NaN, a negative weight or a length out of range makes value and gradient of
        its own row NaN.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here;
            lengths out of range on the CPU, and with ``validate`` whatever that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton".

    >>> import torch
    >>> wasserstein_1d(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0])).item()
    1.0
    """
    name = "wasserstein_1d"
    _check.lines(name, u, v)
    _check.exponent(name, p)
    measures = Measures(name, -1, ("u", "v"), (u, v), (a, b), (u_lengths, v_lengths), validate)
    impl = _ops.choose_impl(name, impl, u.device)
    rows = tuple(t.unsqueeze(-2) for t in measures.point_sets())
    return _cost(measures, rows, None, float(p), impl)[0]


def sliced_wasserstein(
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
    root: bool = False,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Sliced Wasserstein distance between point clouds, to the power p.

    Mean over directions theta_l of W_p^p(x theta_l, y theta_l), a Monte-Carlo estimate of the mean
    over the sphere (Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures",
    section 2; docs/math.md, "Sliced").

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's. Sizes may
            differ: the distance is exact, nothing is resampled.
        p: exponent, any number of at least 1.
        n_projections: number L of directions to draw when ``projections`` is None.
        projections: (D, L) or (..., D, L) directions, used as given and not normalised; any
            floating dtype, converted to the accumulation dtype. Or a callable that returns the
            slices (..., N, L) of points (..., N, D), for non-linear slices (Kolouri et al. 2019,
            "Generalized sliced Wasserstein distances"); gradients flow through it.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        a: (..., N) non-negative weights of x, any floating dtype, normalised to total mass one;
            None is uniform.
        b: (..., M) the same for y.
        x_lengths: (...) integers: the first so many points of each cloud of x count, the rest is
            padding, of any content. None is all.
        y_lengths: (...) the same for y.
        generator: source of the drawn directions, on x's device; None is torch's global stream.
            One draw serves x, y and every problem of the batch.
        root: return SW_p, the p-th root, with sub-gradient 0 where the distance is 0.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU: points, weights and directions finite,
            weights not negative, lengths in range.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x, y, a, b and given projections; first order ("torch" also higher). Sub-gradient 0
        where matched points coincide; see :func:`wasserstein_1d` for ties. A NaN, a negative weight
        or a length out of range makes value and gradient of its own problem NaN and leaves the
        others alone; an infinite input gives a non-finite value.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here;
            lengths out of range on the CPU, and with ``validate`` whatever that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: a second derivative of "cpu" or "triton".

    Cost: O(B L N (D + log N)) time; memory for one chunk of directions at a time with "cpu" and
        "triton", for all L with "torch".

    >>> import torch
    >>> sliced_wasserstein(torch.zeros(4, 2), torch.ones(4, 2), projections=torch.eye(2)).item()
    1.0
    """
    name = "sliced_wasserstein"
    _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
    measures = clouds(name, x, y, p, (a, b), (x_lengths, y_lengths), validate)
    if not callable(projections):
        projections = directions(name, x, projections, n_projections, method, generator, validate)
    value, _ = estimate(measures, projections, p, impl)
    return root_and_reduce(value, p, root, reduction)
