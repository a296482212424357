"""POT's sliced and Gaussian distances, value for value: change the import, keep the calls.

    from otkernels.compat.pot import sliced_wasserstein_distance

Signatures, defaults, roots, seeds, dtypes and log dictionaries are those of POT 0.9.7. NumPy arrays
and torch tensors are taken, and what comes in comes out. POT is not imported. Whatever differs
from it is listed with each function, and in docs/compat.md.
"""

from typing import Any, Literal

import torch

from .. import _check
from .._results import root_and_reduce
from ..sliced import sliced_wasserstein
from ..sliced import wasserstein_1d as wasserstein_on_rows
from ..spherical import sliced_wasserstein_sphere as mean_over_circles
from ._arrays import Array, kind_of, tensors, without_lists
from ._pot_draws import Seed, get_projections_sphere, get_random_projections
from ._pot_gaussian import (
    bures_distance,
    bures_wasserstein_distance,
    bures_wasserstein_mapping,
    empirical_bures_wasserstein_distance,
    empirical_bures_wasserstein_mapping,
)

__all__ = [
    "bures_distance",
    "bures_wasserstein_distance",
    "bures_wasserstein_mapping",
    "empirical_bures_wasserstein_distance",
    "empirical_bures_wasserstein_mapping",
    "get_projections_sphere",
    "get_random_projections",
    "max_sliced_wasserstein_distance",
    "sliced_wasserstein_distance",
    "sliced_wasserstein_sphere",
    "wasserstein_1d",
]

# How far a point's squared norm may be from 1: POT's bound.
OFF_SPHERE = 1e-4
# How far the totals of weights may differ by rounding, beside that of half types.
TOTALS_APART = 1e-5


def wasserstein_1d(
    u_values: Array,
    v_values: Array,
    u_weights: Array | None = None,
    v_weights: Array | None = None,
    p: float = 1,
    require_sort: bool = True,
    return_plans: Literal[False] = False,
) -> Any:
    """POT's ``wasserstein_1d``: W_p^p along the first axis, without root.

    Args:
        u_values: (n, ...) locations.
        v_values: (m, ...) locations.
        u_weights: (n,) or (n, ...) weights; None is uniform.
        v_weights: (m,) or (m, ...) weights; None is uniform.
        p: exponent, at least 1.
        require_sort: False promises sorted values; a broken promise raises ValueError.
        return_plans: only False.

    Returns:
        (...) costs, of the same kind as the values.

    Differs from POT: more than one trailing axis works. Weights of different total raise ValueError
        (POT gives the surplus to the last point). The gradient to weights is that along changes
        that keep their total: POT's, up to a constant, except where levels of both sides coincide.
        With require_sort=False unsorted values raise (POT matches them in the given order).

    Raises:
        NotImplementedError: return_plans, for which there is ``ot.lp.wasserstein_1d``.

    >>> import numpy as np
    >>> wasserstein_1d(np.array([0.0, 2.0]), np.array([3.0, 1.0]), p=2).item()
    1.0
    """
    name = "wasserstein_1d"
    if return_plans is not False:
        instead = "POT's ot.lp.wasserstein_1d for plans"
        raise _check.unsupported(name, "return_plans", "be False", repr(return_plans), instead)
    (u, v, a, b), back = tensors(name, u_values, v_values, u_weights, v_weights)
    if not require_sort:
        for argument, values in (("u_values", u), ("v_values", v)):
            ok = not bool((values.diff(dim=0) < 0).any())
            condition = "be sorted with require_sort=False"
            _check.require(ok, name, argument, condition, "unsorted values")
    u, v, a, b = (None if t is None else t.movedim(0, -1) for t in (u, v, a, b))
    cost = wasserstein_on_rows(u, v, p=p, a=a, b=b)
    return back(cost * _total(name, a, b))


def sliced_wasserstein_distance(
    X_s: Array,
    X_t: Array,
    a: Array | None = None,
    b: Array | None = None,
    n_projections: int = 50,
    p: float = 2,
    projections: Array | None = None,
    seed: Seed | None = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """POT's ``sliced_wasserstein_distance``: the p-th root of the mean over directions.

    Args:
        X_s: (n, d) points.
        X_t: (m, d) points.
        a: (n,) weights; None is uniform.
        b: (m,) weights; None is uniform.
        n_projections: number of directions to draw.
        p: exponent, at least 1.
        projections: (d, L) directions, used as given; then nothing is drawn.
        seed: see :func:`get_random_projections`.
        log: also return the directions and the cost W_p^p along each.
        scaler: None, an object with ``transform`` or a function, applied to both sets of points.

    Returns:
        The distance, or with ``log`` the pair (distance, dictionary of "projections" (d, L) and
        "projected_emds" (L,)).

    Differs from POT: the gradient is 0, not NaN, where the distance is 0. Weights of different
        total raise ValueError (POT gives the surplus to the last point). The gradient to weights is
        that along changes that keep their total. Integers count as float64 (POT makes their uniform
        weights 0).

    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> sliced_wasserstein_distance(x, x + 1, projections=np.eye(2)).item()
    1.0
    """
    name = "sliced_wasserstein_distance"
    given = _clouds(name, X_s, X_t, a, b, n_projections, projections, seed, scaler)
    (x, y, a, b, theta), back, projections = given
    if log:
        costs = _costs(x, y, a, b, theta, p, name)
        cost = costs.mean()
    else:
        cost = sliced_wasserstein(x, y, p=p, projections=theta, a=a, b=b) * _total(name, a, b)
    distance = back(root_and_reduce(cost, p, True, "none"))
    return (distance, _log(projections, back(costs))) if log else distance


def max_sliced_wasserstein_distance(
    X_s: Array,
    X_t: Array,
    a: Array | None = None,
    b: Array | None = None,
    n_projections: int = 50,
    p: float = 2,
    projections: Array | None = None,
    seed: Seed | None = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """POT's ``max_sliced_wasserstein_distance``: the largest distance along random directions.

    Arguments, result and differences are those of :func:`sliced_wasserstein_distance`. As in POT
    no direction is searched for beyond those drawn.

    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> max_sliced_wasserstein_distance(x, x + [3, 4], projections=np.eye(2)).item()
    4.0
    """
    name = "max_sliced_wasserstein_distance"
    given = _clouds(name, X_s, X_t, a, b, n_projections, projections, seed, scaler)
    (x, y, a, b, theta), back, projections = given
    costs = _costs(x, y, a, b, theta, p, name)
    distance = back(root_and_reduce(costs.max(), p, True, "none"))
    return (distance, _log(projections, back(costs))) if log else distance


def sliced_wasserstein_sphere(
    X_s: Array,
    X_t: Array,
    a: Array | None = None,
    b: Array | None = None,
    n_projections: int = 50,
    p: float = 2,
    projections: Array | None = None,
    seed: Seed | None = None,
    log: bool = False,
) -> Any:
    """POT's ``sliced_wasserstein_sphere``: the p-th root of the mean over great circles.

    Args:
        X_s: (n, d) points of the unit sphere.
        X_t: (m, d) points of the unit sphere.
        a: (n,) weights of total 1; None is uniform.
        b: (m,) weights of total 1; None is uniform.
        n_projections: number of circles to draw.
        p: exponent, at least 1.
        projections: (L, d, 2) orthonormal pairs, used as given; then nothing is drawn.
        seed: see :func:`get_random_projections`.
        log: also return the circles and the cost W_p^p on each.

    Returns:
        The distance, or with ``log`` the pair (distance, dictionary of "projections" (L, d, 2) and
        "projected_emds" (L,)).

    Differs from POT: the cut of each circle is exact (POT stops its search within 1e-7). A NaN
        gives NaN (POT's search does not end). Given projections need no matching n_projections.
        Weights of a total other than 1 raise ValueError (POT's number is then no distance), and
        their gradient takes into account that the best cut moves with them. The root has gradient 0
        where the distance is 0.

    >>> import numpy as np
    >>> sliced_wasserstein_sphere(np.eye(3), np.eye(3), seed=0).item()
    0.0
    """
    name = "sliced_wasserstein_sphere"
    kind = kind_of(name, X_s, X_t, a, b)
    _same_features(name, X_s, X_t)
    if projections is None:
        projections = get_projections_sphere(X_s.shape[1], n_projections, seed, kind, X_s)
    (x, y, a, b, circles), back = tensors(name, X_s, X_t, a, b, projections)
    for argument, points in (("X_s", x), ("X_t", y)):
        off = (points.detach().square().sum(-1) - 1).abs().max()
        condition = f"be on the unit sphere, squared norms within {OFF_SPHERE:g} of 1"
        _check.require(not off > OFF_SPHERE, name, argument, condition, f"one {off:.3g} off")
    rows = circles[:, None] if log else circles  # each circle a problem, if each cost is wanted
    costs = mean_over_circles(x, y, p=p, projections=rows, a=a, b=b)
    off = abs(_total(name, a, b) - 1)
    _check.require(not off > TOTALS_APART, name, "weights", "have a total of 1", f"{off:.3g} off")
    distance = back(root_and_reduce(costs.mean(), p, True, "none"))
    return (distance, _log(projections, back(costs))) if log else distance


# --- what the functions share ---------------------------------------------------------------------


def _clouds(name, X_s, X_t, a, b, n_projections, projections, seed, scaler):
    """(x, y, a, b, directions) as tensors, the way back, and the directions as they came."""
    X_s, X_t = without_lists(X_s, X_t)
    kind = kind_of(name, X_s, X_t, a, b, projections)
    X_s, X_t = (_scaled(name, scaler, t) for t in (X_s, X_t))
    _same_features(name, X_s, X_t)
    if projections is None:
        projections = get_random_projections(X_s.shape[1], n_projections, seed, kind, X_s)
    return *tensors(name, X_s, X_t, a, b, projections), projections


def _scaled(name, scaler, points):
    if scaler is None:
        return points
    if callable(getattr(scaler, "transform", None)):
        return scaler.transform(points)
    condition = "be None, have a method transform or be callable"
    _check.require(callable(scaler), name, "scaler", condition, type(scaler).__name__)
    return scaler(points)


def _same_features(name, X_s, X_t):
    for argument, points in (("X_s", X_s), ("X_t", X_t)):
        shape = tuple(points.shape)
        _check.require(len(shape) == 2, name, argument, "have shape (n, d)", shape)
    d = X_s.shape[1]
    _check.require(X_t.shape[1] == d, name, "X_t", f"have X_s's {d} features", tuple(X_t.shape))


def _costs(x, y, a, b, theta, p, name):
    """W_p^p along each direction (L,)."""
    u, v = ((points @ theta.to(points.dtype)).mT for points in (x, y))
    return wasserstein_on_rows(u, v, p=p, a=a, b=b) * _total(name, a, b)


def _total(name, a, b):
    """The total that weights (..., n) and (..., m) have in common: POT's costs grow with it.

    Totals are read and compared: one side's mass could not all be moved to that of the other.
    """
    given = [t.detach() for t in (a, b) if t is not None]
    if not given:
        return 1.0
    first, second = (1.0 if t is None else t.detach().sum(-1) for t in (a, b))
    apart = (first - second).abs().max().item()
    bound = max(TOTALS_APART, *(4 * torch.finfo(t.dtype).eps for t in given))
    condition = "have the same total"
    _check.require(not apart > bound, name, "both sides' weights", condition, f"{apart:.3g} apart")
    return first


def _log(projections, costs):
    return {"projections": projections, "projected_emds": costs}
