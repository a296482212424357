"""What the sliced losses share: clouds and directions as they come in."""

from . import _check, _ops
from ._measures import Measures
from .projections import METHODS, sample_projections


def clouds(function, x, y, p, weights, lengths, validate=False):
    """The :class:`Measures` of two clouds; checks them and the exponent p."""
    _check.clouds(function, x, y)
    _check.exponent(function, p)
    return Measures(function, -2, ("x", "y"), (x, y), weights, lengths, validate)


def directions(function, x, projections, n_projections, method, generator, validate=False):
    """Directions (..., D, L) in the accumulation dtype: those given, checked, or drawn ones."""
    _check.one_of(function, "method", method, METHODS)
    dtype = _ops.accumulation_dtype(x.dtype)
    if projections is None:
        _check.positive_int(function, "n_projections", n_projections)
        options = {"method": method, "generator": generator, "device": x.device, "dtype": dtype}
        with _ops.without_autocast(x.device):
            return sample_projections(x.shape[-1], n_projections, **options)
    _check.floating(function, "projections", projections)
    shape, d = tuple(projections.shape), x.shape[-1]
    ok = len(shape) >= 2 and shape[-2] == d and shape[-1] > 0
    _check.require(ok, function, "projections", f"have shape ({d}, L) or (..., {d}, L)", shape)
    same = projections.device == x.device
    condition = f"be on x's device {x.device}"
    _check.require(same, function, "projections", condition, projections.device)
    if validate:
        _check.finite(function, "projections", projections)
    return projections.to(dtype)
