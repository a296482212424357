"""Sliced Wasserstein on the sphere: points projected on random great circles.

A plane with orthonormal basis (e, f) cuts the sphere of R^D in a great circle, and the point of it
next to x has the angle of (<x, e>, <x, f>). The sliced distance averages W_p^p on these circles
(Bonet, Berg, Courty, Septier, Drumetz, Pham 2023, "Spherical sliced-Wasserstein").
"""

import math

import torch
from torch import Tensor

from . import _check, _ops
from ._circle import circle_cost
from ._measures import Measures
from ._products import product
from ._results import nan_everywhere, root_and_reduce
from ._types import Device, Impl, Reduction

__all__ = ["sample_great_circles", "sliced_wasserstein_sphere", "wasserstein_circle"]

# How far a squared norm may be from 1 under validate=True: POT's bound, or rounding to half types.
OFF_SPHERE = 1e-4


def _fake_plan(u, v, a, b, p):
    orders = (torch.empty_like(t, dtype=torch.int64) for t in (u, v))
    return *orders, u.new_empty((*u.shape[:-1], 1), dtype=torch.int64)


_PLAN_OP = _ops.register(
    "circle_plan_cpu",
    "(Tensor u, Tensor v, Tensor? a, Tensor? b, float p) -> (Tensor, Tensor, Tensor)",
    "cpu.spherical:plan",
    _fake_plan,
)


def _choose(function, impl, device):
    """The fast form of ``find_plan`` if it answers for ``impl`` on a device, or None."""
    if impl == "triton":
        instead = "impl=None or impl='torch'"
        raise _check.unsupported(function, "impl", "be 'torch' or 'cpu'", "'triton'", instead)
    if impl is not None:
        _check.one_of(function, "impl", impl, _check.IMPLS)
    on_cpu = device.type == "cpu"
    _check.require(on_cpu or impl != "cpu", function, "impl", f"be 'torch' on {device}", "'cpu'")
    return _PLAN_OP if on_cpu and impl != "torch" else None


def wasserstein_circle(
    u: Tensor,
    v: Tensor,
    *,
    p: float = 2,
    a: Tensor | None = None,
    b: Tensor | None = None,
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Wasserstein distance on the circle of length 1, to the power p, along the last axis.

    The distance between two points is the length of the shorter arc, at most 1/2. The minimum over
    all ways to cut the circle open is found exactly (docs/spherical.md, "On the circle").

    Args:
        u: (..., N) coordinates, float16, bfloat16, float32 or float64, in turns: those that differ
            by an integer are the same point. An angle is divided by 2 pi first.
        v: (..., M) coordinates of u's dtype and device; leading axes broadcast with u's.
        p: exponent, any number of at least 1.
        a: (..., N) non-negative weights of u, normalised to total mass one; None is uniform.
        b: (..., M) the same for v.
        validate: check values too, which waits for a GPU: coordinates and weights finite, weights
            not negative.
        impl: None is "cpu" on the CPU and "torch" elsewhere. Both share the formula of value and
            gradients; "cpu" finds the plan by faster sorts.

    Returns:
        (...) tensor, float32 (float64 for float64 input). No root is taken.

    Gradients: u, v, a and b, to any order where the loss is smooth. Where matched points coincide
        the sub-gradient is 0. A NaN, an infinity, a negative weight or a total of 0 makes value
        and gradient of its own row NaN.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here.
        TypeError: not a floating tensor.
        NotImplementedError: impl="triton".

    Cost: two sorts, then log2(2 lcm(N, M)) rounds over M points, or 54 with weights.

    >>> wasserstein_circle(torch.tensor([0.0, 0.5]), torch.tensor([0.75, 0.25])).item()
    0.0625
    """
    name = "wasserstein_circle"
    _check.lines(name, u, v)
    _check.exponent(name, p)
    measures = Measures(name, -1, ("u", "v"), (u, v), (a, b), (None, None), validate)
    plan = _choose(name, impl, u.device)
    dtype = _ops.accumulation_dtype(u.dtype)
    rows = (t.to(dtype) for t in measures.point_sets())
    rows = (t - t.floor() for t in rows)
    return nan_everywhere(circle_cost(*rows, float(p), *measures.masses(), plan))


def sliced_wasserstein_sphere(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2,
    n_projections: int = 128,
    projections: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    generator: torch.Generator | None = None,
    root: bool = False,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
) -> Tensor:
    """Spherical sliced Wasserstein distance between points of the unit sphere, to the power p.

    Mean over great circles of W_p^p between the points projected on them, with distances in turns:
    the length of a circle is 1, as in POT (docs/spherical.md, "On the sphere").

    Args:
        x: (..., N, D) points, D >= 2, float16, bfloat16, float32 or float64. Only their directions
            count: lengths, which should be 1, have no influence.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's.
        p: exponent, any number of at least 1.
        n_projections: number L of circles to draw when ``projections`` is None.
        projections: (L, D, 2) or (..., L, D, 2) pairs of orthonormal vectors, the layout of POT;
            used as given, in the accumulation dtype. See :func:`sample_great_circles`.
        a: (..., N) non-negative weights of x, normalised to total mass one; None is uniform.
        b: (..., M) the same for y.
        generator: source of the drawn circles, on x's device; None is torch's global stream.
        root: return the p-th root, with sub-gradient 0 where the distance is 0.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too, which waits for a GPU: points on the sphere, planes and weights
            finite, weights not negative.
        impl: None is "cpu" on the CPU and "torch" elsewhere. Both share the formula of value and
            gradients; "cpu" finds the plans by faster sorts.

    Returns:
        (...) tensor, or () after a reduction; float32 (float64 for float64 input).

    Gradients: x, y, projections, a and b, to any order where the loss is smooth. That to a point
        is tangent to the sphere; it grows as the inverse distance of the point from the axis of a
        circle and is set to 0 on it. A NaN, an infinity or a weight that is none makes value and
        gradient of its own problem NaN.

    Raises:
        ValueError: shape, dtype or device that does not fit, p < 1, an impl that cannot run here.
        TypeError: not a floating tensor.
        NotImplementedError: impl="triton".

    Cost: O(B L N (D + log N)) time, 54 rounds in place of log N with weights; memory for all L.

    >>> x = torch.eye(3)
    >>> sliced_wasserstein_sphere(x, x).item()
    0.0
    """
    name = "sliced_wasserstein_sphere"
    _check.clouds(name, x, y)
    _check.require(x.shape[-1] > 1, name, "x", "have at least 2 features", tuple(x.shape))
    _check.exponent(name, p)
    _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
    dtype = _ops.accumulation_dtype(x.dtype)
    if projections is None:
        _check.positive_int(name, "n_projections", n_projections)
        projections = sample_great_circles(
            x.shape[-1], n_projections, generator=generator, device=x.device, dtype=dtype
        )
    else:
        _check_projections(name, projections, x)
    measures = Measures(name, -2, ("x", "y"), (x, y), (a, b), (None, None), validate)
    measures.include("projections", projections.shape[:-3])
    if validate:
        _check.finite(name, "projections", projections)
        _check_on_sphere(name, "x", x)
        _check_on_sphere(name, "y", y)
    plan = _choose(name, impl, x.device)
    with _ops.without_autocast(x.device):
        frames = projections.to(dtype)
        rows = (_coordinates(t.to(dtype), frames) for t in measures.point_sets())
        weights = (None if t is None else t.unsqueeze(-2) for t in measures.masses())
        cost = nan_everywhere(circle_cost(*rows, float(p), *weights, plan).mean(-1))
        return root_and_reduce(cost, p, root, reduction)


def sample_great_circles(
    d: int,
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw ``n`` planes through the origin of R^d uniformly, each as an orthonormal basis.

    Args:
        d: dimension of the space, at least 2.
        n: number of planes, at least 1.
        generator: source of randomness on ``device``; None is torch's global stream there.
        device: where to draw; None is torch's default device.
        dtype: float32 or float64; None is torch's default dtype.

    Returns:
        (n, d, 2) tensor, the layout of ``sliced_wasserstein_sphere`` and of POT. The same generator
        state on the same device gives the same bits.

    Raises:
        ValueError: d < 2, n < 1, another dtype, a generator of another device.

    >>> sample_great_circles(3, 5).shape
    torch.Size([5, 3, 2])
    """
    name = "sample_great_circles"
    _check.positive_int(name, "d", d)
    _check.require(d > 1, name, "d", "be at least 2", d)
    _check.positive_int(name, "n", n)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    ok = dtype in (torch.float32, torch.float64)
    _check.require(ok, name, "dtype", "be float32 or float64", dtype)
    device = torch.empty(0, device=device).device
    _check.generator(name, generator, device)
    normal = torch.randn(n, d, 2, device=device, dtype=dtype, **_ops.stream(generator))
    return torch.linalg.qr(normal).Q


def _coordinates(x, frames):
    """Coordinates (..., L, N) in turns, from -1/2 to 1/2, of the points x (..., N, D)."""
    first, second = (product(frames[..., k], x.mT) for k in (0, 1))
    # On the axis of the circle every point of it is as near: take 0, and no gradient.
    on_axis = (first == 0) & (second == 0)
    first, second = torch.where(on_axis, 1, first), torch.where(on_axis, 0, second)
    turns = torch.atan2(second, first) / (2 * math.pi)
    # Two infinities have an angle for atan2, but not that of the point.
    return torch.where((first + second).isfinite(), turns, torch.nan)


def _check_projections(name, projections, x):
    _check.floating(name, "projections", projections)
    shape, d = tuple(projections.shape), x.shape[-1]
    ok = len(shape) >= 3 and shape[-2:] == (d, 2) and shape[-3] > 0
    _check.require(ok, name, "projections", f"have shape (L, {d}, 2) or (..., L, {d}, 2)", shape)
    same = projections.device == x.device
    _check.require(same, name, "projections", f"be on x's device {x.device}", projections.device)


def _check_on_sphere(name, argument, points):
    bound = max(OFF_SPHERE, 4 * torch.finfo(points.dtype).eps)
    off = (points.double().square().sum(-1) - 1).abs()
    worst = off.max().item() if off.numel() else 0.0
    condition = f"have points of squared norm 1, up to {bound:.1g}"
    _check.require(worst <= bound, name, argument, condition, f"one that is off by {worst:.3g}")
