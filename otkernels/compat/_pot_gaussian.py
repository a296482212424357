"""POT's distances of Gaussians and the maps between them."""

import functools
import warnings
from typing import Any

import torch

from .. import _check
from ..bures import bures_wasserstein
from ..gaussian_map import gaussian_map
from ..moments import mean_cov
from ..sqrtm import inv_sqrtm, sqrtm
from ._arrays import Array, tensors, without_lists


def bures_distance(
    Cs: Array, Ct: Array, paired: bool = False, log: bool = False, nx: Any = None
) -> Any:
    """POT's ``bures_distance``: the root of tr Cs + tr Ct - 2 tr (Cs^1/2 Ct Cs^1/2)^1/2.

    Args:
        Cs: (d, d) or (n, d, d) covariances.
        Ct: (d, d) or (m, d, d) covariances, with as many axes.
        paired: with n = m, compare each with its partner only.
        log: also return the dictionary of "Cs12", the roots of Cs.
        nx: without effect; the arrays say which kind they are.

    Returns:
        () for a pair of matrices, (n, m) for all pairs, (n,) with ``paired`` and n = m; with
        ``log`` the pair (distance, dictionary).

    Differs from POT: one pair of tensors gives shape (), not (1,). Where the distance rounds to 0
        the gradient is 0 (POT: NaN, or noise), and near it free of noise. Singular covariances
        work in NumPy too, by dropping eigenvalues up to the dtype's eps times the largest (POT
        takes roots of the negative ones: NaN or LinAlgError). Of a matrix that is not symmetric
        the symmetric part counts (POT for NumPy: the lower triangle). Second derivatives raise
        NotImplementedError (POT leaves terms out without notice). A NaN gives NaN (POT raises).

    >>> import numpy as np
    >>> bures_distance(9 * np.eye(4), np.eye(4)).item()  # the root of 4 (3 - 1)^2
    4.0
    """
    name = "bures_distance"
    (x, y), back = _arrays(name, Cs, Ct)
    _check_covariances(name, x, y, (2, 3))
    zeros = (t.new_zeros(t.shape[:-1]) for t in (x, y))
    distance = back(_distance(*zeros, x, y, paired))
    return (distance, {"Cs12": back(sqrtm(x))}) if log else distance


def bures_wasserstein_distance(
    ms: Array, mt: Array, Cs: Array, Ct: Array, paired: bool = False, log: bool = False
) -> Any:
    """POT's ``bures_wasserstein_distance``: W_2 of Gaussians, the root.

    Args:
        ms: (d,) or (n, d) means.
        mt: (d,) or (m, d) means.
        Cs: (d, d) or (n, d, d) covariances.
        Ct: (d, d) or (m, d, d) covariances.
        paired: with n = m, compare each with its partner only.
        log: also return the dictionary of "Cs12", the roots of Cs.

    Returns:
        As :func:`bures_distance`.

    Differs from POT: as :func:`bures_distance`; also ``paired`` with n other than m gives all pairs
        (POT fails, or for m = 1 returns n x n numbers that are no distances).

    >>> import numpy as np
    >>> bures_wasserstein_distance(np.zeros(2), np.array([3, 4]), np.eye(2), np.eye(2)).item()
    5.0
    """
    name = "bures_wasserstein_distance"
    (ms, mt, x, y), back = _arrays(name, ms, mt, Cs, Ct)
    _check_covariances(name, x, y, (2, 3))
    for argument, mean, of, cov in (("ms", ms, "Cs", x), ("mt", mt, "Ct", y)):
        ok, shape = mean.shape == cov.shape[:-1], tuple(cov.shape[:-1])
        _check.require(ok, name, argument, f"have {of}'s shape {shape}", tuple(mean.shape))
    distance = back(_distance(ms, mt, x, y, paired))
    return (distance, {"Cs12": back(sqrtm(x))}) if log else distance


def empirical_bures_wasserstein_distance(
    xs: Array,
    xt: Array,
    reg: float = 1e-6,
    ws: Array | None = None,
    wt: Array | None = None,
    bias: bool = True,
    log: bool = False,
) -> Any:
    """POT's ``empirical_bures_wasserstein_distance``: W_2 of the fitted Gaussians, the root.

    Args:
        xs: (n, d) points.
        xt: (m, d) points.
        reg: added to the diagonals of both covariances, which are divided by n and by m.
        ws: (n, 1) or (n,) weights, divided by their total; None is uniform.
        wt: (m, 1) or (m,) weights.
        bias: False takes both means as 0: means do not count, and covariances are second moments
            about 0.
        log: also return the dictionary of "Cs12", "Cs" and "Ct": root and covariances.

    Returns:
        The distance (), or with ``log`` the pair (distance, dictionary).

    Differs from POT: as :func:`bures_distance`; moments and distance are taken in float64 and then
        rounded to the dtype of the points. Weights (n,) work (POT: an error, or for n = d weights
        of the features). Negative weights give NaN (POT takes them as they are).

    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0]])
    >>> empirical_bures_wasserstein_distance(x, x + 3).item()
    3.0
    """
    name = "empirical_bures_wasserstein_distance"
    (ms, mt, x, y), back = _fitted(name, xs, xt, reg, ws, wt, bias)
    distance = back(_distance(ms, mt, x, y, False))
    if not log:
        return distance
    return distance, {"Cs12": back(sqrtm(x)), "Cs": back(x), "Ct": back(y)}


def bures_wasserstein_mapping(ms: Array, mt: Array, Cs: Array, Ct: Array, log: bool = False) -> Any:
    """POT's ``bures_wasserstein_mapping``: points map by ``x @ A + b``.

    Args:
        ms: (d,) or (1, d) mean.
        mt: (d,) or (1, d) mean.
        Cs: (d, d) covariance.
        Ct: (d, d) covariance.
        log: also return the dictionary of "Cs12" and "Cs12inv", root and inverse root of Cs.

    Returns:
        (A, b), with ``log`` (A, b, dictionary): (d, d), and b in the shape of the means.

    Differs from POT: the map is computed in float64 whatever the dtype. A is exactly symmetric. It
        is NaN where Cs is singular to rounding (POT raises, or divides by the noise). Gradients and
        NaN as :func:`bures_distance`.

    >>> import numpy as np
    >>> a, b = bures_wasserstein_mapping(np.zeros(2), np.ones(2), np.eye(2), 4 * np.eye(2))
    >>> a.round(9).tolist(), b.tolist()
    ([[2.0, 0.0], [0.0, 2.0]], [1.0, 1.0])
    """
    name = "bures_wasserstein_mapping"
    (ms, mt, x, y), back = _arrays(name, ms, mt, Cs, Ct)
    _check_covariances(name, x, y, (2,))
    d = len(x)
    for argument, mean in (("ms", ms), ("mt", mt)):
        ok = tuple(mean.shape) in ((d,), (1, d))
        condition = f"have shape ({d},) or (1, {d})"
        _check.require(ok, name, argument, condition, tuple(mean.shape))
    ms, mt, x, y = (t.double() for t in (ms, mt, x, y))
    a, b = _map(ms, mt, x, y)
    return (back(a), back(b), _roots(x, back)) if log else (back(a), back(b))


def empirical_bures_wasserstein_mapping(
    xs: Array,
    xt: Array,
    reg: float = 1e-6,
    ws: Array | None = None,
    wt: Array | None = None,
    bias: bool = True,
    log: bool = False,
) -> Any:
    """POT's ``empirical_bures_wasserstein_mapping``: the map between the fitted Gaussians.

    Arguments as for :func:`empirical_bures_wasserstein_distance`; ``log`` returns the dictionary of
    "Cs12", "Cs12inv", "Cs" and "Ct".

    Returns:
        (A, b), with ``log`` (A, b, dictionary): (d, d) and (1, d), and points map by ``x @ A + b``.
        b is 0 with ``bias=False``.

    Differs from POT: as :func:`bures_wasserstein_mapping` and
        :func:`empirical_bures_wasserstein_distance`. As in POT a result that is not finite warns.

    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0]])
    >>> a, b = empirical_bures_wasserstein_mapping(x, 3 * x + 1, reg=0)
    >>> a.round(9).tolist(), b.round(9).tolist()
    ([[3.0]], [[1.0]])
    """
    name = "empirical_bures_wasserstein_mapping"
    (ms, mt, x, y), back = _fitted(name, xs, xt, reg, ws, wt, bias)
    a, b = _map(ms[None], mt[None], x, y)
    if _finite(ms, mt, x, y) and not _finite(a, b):
        message = f"{name}: a covariance is singular, so there is no map; a larger reg helps"
        warnings.warn(message, stacklevel=2)
    if not log:
        return back(a), back(b)
    return back(a), back(b), {**_roots(x, back), "Cs": back(x), "Ct": back(y)}


# --- what the functions share ---------------------------------------------------------------------


def _arrays(name, *arrays):
    """The arrays as tensors of one dtype, and the way back."""
    found, back = tensors(name, *without_lists(*arrays))
    dtypes = (t.dtype for t in found if t is not None)
    dtype = functools.reduce(torch.promote_types, dtypes)
    return [None if t is None else t.to(dtype) for t in found], back


def _check_covariances(name, Cs, Ct, axes):
    wanted = " or ".join({2: "(d, d)", 3: "(n, d, d)"}[k] for k in axes)
    for argument, cov in (("Cs", Cs), ("Ct", Ct)):
        _check.floating(name, argument, cov)
        ok = cov.dim() in axes and cov.shape[-1] == cov.shape[-2] > 0
        _check.require(ok, name, argument, f"have shape {wanted}", tuple(cov.shape))
    ok = Cs.dim() == Ct.dim() and Cs.shape[-1] == Ct.shape[-1]
    condition = f"have as many axes and features as Cs {tuple(Cs.shape)}"
    _check.require(ok, name, "Ct", condition, tuple(Ct.shape))


def _distance(ms, mt, Cs, Ct, paired):
    """W_2 of one pair (), of partners (n,) or of all pairs (n, m)."""
    pairwise = Cs.dim() == 3 and not (paired and len(Cs) == len(Ct))
    return bures_wasserstein(ms, Cs, mt, Ct, pairwise=pairwise, squared=False)


def _map(ms, mt, Cs, Ct):
    """A and b, b in the shape of the means."""
    zero = Cs.new_zeros(len(Cs))
    a, _ = gaussian_map(zero, Cs, zero, Ct)
    return a, mt - ms @ a


def _roots(cov, back):
    return {"Cs12": back(sqrtm(cov)), "Cs12inv": back(inv_sqrtm(cov))}


def _fitted(name, xs, xt, reg, ws, wt, bias):
    """Means (d,), covariances (d, d), both in float64, and the way back."""
    (xs, xt, ws, wt), back = _arrays(name, xs, xt, ws, wt)
    for argument, points in (("xs", xs), ("xt", xt)):
        _check.floating(name, argument, points)
        shape = tuple(points.shape)
        _check.require(len(shape) == 2 and len(points), name, argument, "have shape (n, d)", shape)
    d = xs.shape[1]
    _check.require(xt.shape[1] == d, name, "xt", f"have xs's {d} features", tuple(xt.shape))
    (ms, x), (mt, y) = (
        _moments(name, argument, points, weights, bias)
        for argument, points, weights in (("ws", xs, ws), ("wt", xt, wt))
    )
    ridge = reg * torch.eye(d, dtype=x.dtype, device=x.device)
    return (ms, mt, x + ridge, y + ridge), back


def _moments(name, argument, points, weights, bias):
    if weights is not None:
        n, shape = len(points), tuple(weights.shape)
        ok = shape in ((n,), (n, 1))
        _check.require(ok, name, argument, f"have shape ({n}, 1) or ({n},)", shape)
        weights = weights.reshape(n)
    mean, cov = mean_cov(points.double(), weights=weights)
    if bias:
        return mean, cov
    return torch.zeros_like(mean), cov + torch.outer(mean, mean)


def _finite(*tensors):
    return all(bool(t.isfinite().all()) for t in tensors)
