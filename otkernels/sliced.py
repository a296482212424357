r"""Sliced Wasserstein distance: the definition, its fast forms, and which of them answers a call.

For measures on the line the optimal plan is monotone, so with quantile functions F and G

    W_p^p(u, v) = \int_0^1 |F(t) - G(t)|^p dt,

and the sliced distance averages it over directions theta_l (Rabin, Peyre, Delon, Bernot 2011;
Bonneel, Rabin, Peyre, Pfister 2015):

    SW_p^p(x, y) = 1/L sum_l W_p^p(x theta_l, y theta_l).
"""

import torch

from . import _check, _ops
from .projections import sample_projections

__all__ = ["sliced_wasserstein", "wasserstein_1d"]


# --- the definition -----------------------------------------------------------------------------


def _line_cost(u, v, p, a=None, b=None):
    """W_p^p between rows u (..., N) and v (..., M) with weights a (..., N), b (..., M) or None."""
    if a is None and b is None and u.shape[-1] == v.shape[-1]:
        return _power(u.sort(dim=-1).values - v.sort(dim=-1).values, p).mean(-1)
    u, order_u = u.sort(dim=-1)
    v, order_v = v.sort(dim=-1)
    if a is None and b is None:
        i, j, mass = _uniform_cells(u.shape[-1], v.shape[-1], u.device)
        gap = u[..., i] - v[..., j]
    else:
        levels_u = _levels(a, order_u)
        levels_v = _levels(b, order_v)
        i, j, mass = _weighted_cells(levels_u, levels_v)
        gap = u.gather(-1, i) - v.gather(-1, j)
    return (_power(gap, p) * mass.to(gap.dtype)).sum(-1)


def _power(gap, p):
    """|gap|^p. At gap = 0 the sub-gradient is 0, for p = 1 too."""
    if p == 1:
        return gap.abs()
    return gap * gap if p == 2 else gap.abs().pow(p)


def _uniform_cells(n, m, device):
    """Cells on which both quantile functions of n and m equal masses are constant.

    Levels i/n and j/m are the integers i*m and j*n over n*m, so cells are exact. Returns the index
    of the point of each side and the mass (float64) of each of the n + m - 1 cells; where two
    levels coincide a cell is empty.
    """
    steps = torch.cat(
        [
            torch.arange(1, n + 1, device=device) * m,
            torch.arange(1, m, device=device) * n,
        ]
    )
    levels = steps.sort().values
    mass = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
    return (levels - 1) // m, (levels - 1) // n, mass


def _levels(weights, order):
    """Cumulative normalised weights (float64) in sorted order; the last is exactly 1."""
    shape = order.shape
    if weights is None:
        n = shape[-1]
        return (torch.arange(1, n + 1, device=order.device).double() / n).expand(shape)
    total = weights.double().expand(shape).gather(-1, order).cumsum(-1)
    return total / total[..., -1:]


def _weighted_cells(levels_u, levels_v):
    """As :func:`_uniform_cells`, for arbitrary levels (..., N) and (..., M)."""
    levels = torch.cat([levels_u, levels_v], dim=-1).sort(dim=-1).values
    mass = torch.diff(levels, dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    index = [
        torch.searchsorted(side.detach().contiguous(), levels.detach()).clamp(
            max=side.shape[-1] - 1
        )
        for side in (levels_u, levels_v)
    ]
    return *index, mass


def _sliced_cost(x, y, projections, p, a, b):
    """Mean of :func:`_line_cost` over the columns of projections (..., D, L)."""
    dtype = projections.dtype
    u = (x.to(dtype) @ projections).mT
    v = (y.to(dtype) @ projections).mT
    a, b = (None if w is None else w.unsqueeze(-2) for w in (a, b))
    return _nan_everywhere(_line_cost(u, v, p, a, b).mean(-1))


def _nan_everywhere(cost):
    """The cost, with a NaN gradient at every point of a problem whose cost is NaN.

    Without it points away from the NaN would get finite and wrong gradients.
    """
    return cost * torch.where(cost.isnan(), cost, torch.ones_like(cost)).detach()


# --- fast forms ---------------------------------------------------------------------------------

_LINE_SCHEMA = "(Tensor u, Tensor v, float p, bool need_u, bool need_v) -> (Tensor, Tensor, Tensor)"
_SLICED_SCHEMA = (
    "(Tensor x, Tensor y, Tensor projections, float p, bool need_x, bool need_y)"
    " -> (Tensor, Tensor, Tensor)"
)


def _fake_line(u, v, p, need_u, need_v):
    value = u.new_empty(u.shape[:-1], dtype=_ops.accumulation_dtype(u.dtype))
    return value, _ops.empty_grad(u, need_u), _ops.empty_grad(v, need_v)


def _fake_sliced(x, y, projections, p, need_x, need_y):
    value = x.new_empty(x.shape[:-2], dtype=projections.dtype)
    return value, _ops.empty_grad(x, need_x), _ops.empty_grad(y, need_y)


_LINE_OPS = {
    impl: _ops.register(f"line_{impl}", _LINE_SCHEMA, f"{folder}.sliced:line", _fake_line)
    for impl, folder in (("cpu", "cpu"), ("triton", "kernels"))
}
_SLICED_OPS = {
    impl: _ops.register(f"sliced_{impl}", _SLICED_SCHEMA, f"{folder}.sliced:sliced", _fake_sliced)
    for impl, folder in (("cpu", "cpu"), ("triton", "kernels"))
}


def _choose(function, impl, device, beyond):
    """The implementation that answers a call with the list ``beyond`` of what only "torch" covers.

    None then means "torch"; an explicit request for another is refused, naming the first item.
    """
    chosen = _ops.choose_impl(function, impl, device)
    if chosen == "torch" or not beyond:
        return chosen
    if impl is None:
        return "torch"
    argument, condition, got = beyond[0]
    condition = f"{condition} with impl={chosen!r}"
    raise _check.unsupported(function, argument, condition, got, "impl='torch'")


def _beyond_fast(names, n, m, a, b, projections=None):
    """(argument, condition, got) of each thing that the fast forms do not cover."""
    if a is not None or b is not None:
        yield "a and b", "be None", "weights"
    if n != m:
        yield names, "have equal sizes", f"{n} and {m}"
    if projections is not None and projections.requires_grad and torch.is_grad_enabled():
        yield "projections", "not require a gradient", "requires_grad=True"


# --- public functions ---------------------------------------------------------------------------


def wasserstein_1d(u, v, *, p=2, a=None, b=None, impl=None):
    r"""Wasserstein distance on the line, to the power p: W_p^p along the last axis.

    \int_0^1 |F(t) - G(t)|^p dt for the quantile functions F and G of u and v; for equal sizes and
    uniform weights the mean of |u_(i) - v_(i)|^p over sorted values (docs/math.md, "On the line").

    Args:
        u: (..., N) numbers, float16, bfloat16, float32 or float64.
        v: (..., M) numbers of u's dtype and device; leading axes broadcast with u's.
        p: exponent, any number of at least 1.
        a: (..., N) non-negative weights of u, normalised to total mass one; None is uniform.
        b: (..., M) the same for v.
        impl: None picks the fastest that covers the call: "triton" on a GPU and "cpu" on the CPU
            for equal sizes and uniform weights, "torch" for the rest. An explicit choice is obeyed
            or refused.

    Returns:
        (...) tensor, float32 (float64 for float64 input). No root is taken.

    Gradients: u and v, and a and b through "torch"; first order ("torch" also higher). Where
        u_(i) = v_(i) the sub-gradient is 0; equal values of one side share no order, so each of
        their gradients is one valid choice. A NaN makes value and gradient of its own row NaN.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here.
        TypeError: not a floating tensor.
        NotImplementedError: a capability the chosen impl lacks, or its second derivative.

    >>> wasserstein_1d(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0])).item()
    1.0
    """
    name = "wasserstein_1d"
    _check.lines(name, u, v)
    _check.exponent(name, p)
    _check.weights(name, "a", a, u, "u")
    _check.weights(name, "b", b, v, "v")
    batch = _check.broadcastable(name, "v", v.shape[:-1], u.shape[:-1], "u's")
    for argument, w in (("a", a), ("b", b)):
        if w is not None:
            batch = _check.broadcastable(name, argument, w.shape[:-1], batch, "u's and v's")
    beyond = list(_beyond_fast("u and v", u.shape[-1], v.shape[-1], a, b))
    chosen = _choose(name, impl, u.device, beyond)
    u, v = u.expand(*batch, -1), v.expand(*batch, -1)
    if chosen == "torch":
        dtype = _ops.accumulation_dtype(u.dtype)
        return _nan_everywhere(_line_cost(u.to(dtype), v.to(dtype), float(p), a, b))
    return _ops.value_and_grad(_LINE_OPS[chosen], u, v, float(p))


def sliced_wasserstein(
    x,
    y,
    *,
    p=2,
    n_projections=128,
    projections=None,
    a=None,
    b=None,
    generator=None,
    root=False,
    reduction="none",
    impl=None,
):
    """Sliced Wasserstein distance between point clouds, to the power p.

    Mean over directions theta_l of W_p^p(x theta_l, y theta_l), a Monte-Carlo estimate of the mean
    over the sphere (Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures",
    section 2; docs/math.md, "Sliced").

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        p: exponent, any number of at least 1.
        n_projections: number L of directions to draw when ``projections`` is None.
        projections: (D, L) or (..., D, L) directions, used as given and not normalised; any
            floating dtype, converted to the accumulation dtype.
        a: (..., N) non-negative weights of x, normalised to total mass one; None is uniform.
        b: (..., M) the same for y.
        generator: source of the drawn directions, on x's device; None is torch's global stream.
            One draw serves x, y and every problem of the batch.
        root: return SW_p, the p-th root, with sub-gradient 0 where the distance is 0.
        reduction: "none", "mean" or "sum" over the leading axes.
        impl: None picks the fastest that covers the call: "triton" on a GPU and "cpu" on the CPU
            for equal sizes, uniform weights and constant directions, "torch" for the rest. An
            explicit choice is obeyed or refused.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x and y, and a, b and projections through "torch"; first order ("torch" also
        higher). Sub-gradient 0 where matched points coincide. A NaN makes value and gradient of its
        own problem NaN and leaves the others alone; an infinite input gives a non-finite value.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here.
        TypeError: not a floating tensor.
        NotImplementedError: a capability the chosen impl lacks, or its second derivative.

    Cost: O(B L N (D + log N)) time; memory for one chunk of directions at a time with "cpu" and
        "triton", for all L with "torch".

    >>> sliced_wasserstein(torch.zeros(4, 2), torch.ones(4, 2), projections=torch.eye(2)).item()
    1.0
    """
    name = "sliced_wasserstein"
    _check.clouds(name, x, y)
    _check.exponent(name, p)
    _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
    _check.weights(name, "a", a, x[..., 0], "x")
    _check.weights(name, "b", b, y[..., 0], "y")
    dtype = _ops.accumulation_dtype(x.dtype)
    if projections is None:
        _check.positive_int(name, "n_projections", n_projections)
        projections = sample_projections(
            x.shape[-1], n_projections, generator=generator, device=x.device, dtype=dtype
        )
    else:
        _check_projections(name, projections, x)
        projections = projections.to(dtype)
    batch = _check.broadcastable(name, "y", y.shape[:-2], x.shape[:-2], "x's")
    extra = (("a", a, 1), ("b", b, 1), ("projections", projections, 2))
    for argument, tensor, own in extra:
        if tensor is not None:
            batch = _check.broadcastable(name, argument, tensor.shape[:-own], batch, "x's and y's")
    beyond = list(_beyond_fast("x and y", x.shape[-2], y.shape[-2], a, b, projections))
    chosen = _choose(name, impl, x.device, beyond)
    x, y = x.expand(*batch, -1, -1), y.expand(*batch, -1, -1)
    with _ops.without_autocast(x.device):
        if chosen == "torch":
            cost = _sliced_cost(x, y, projections, float(p), a, b)
        else:
            theta = projections.detach().expand(*batch, -1, -1)
            cost = _ops.value_and_grad(_SLICED_OPS[chosen], x, y, theta, float(p))
        return _reduce(_root(cost, p) if root else cost, reduction)


def _check_projections(name, projections, x):
    _check.floating(name, "projections", projections)
    shape, d = tuple(projections.shape), x.shape[-1]
    ok = len(shape) >= 2 and shape[-2] == d and shape[-1] > 0
    _check.require(ok, name, "projections", f"have shape ({d}, L) or (..., {d}, L)", shape)
    same = projections.device == x.device
    _check.require(same, name, "projections", f"be on x's device {x.device}", projections.device)


def _root(cost, p):
    """cost^(1/p) with sub-gradient 0 at 0."""
    zero = cost == 0
    return torch.where(zero, 0, torch.where(zero, 1, cost) ** (1 / p))


def _reduce(cost, reduction):
    return {"none": lambda: cost, "mean": cost.mean, "sum": cost.sum}[reduction]()
