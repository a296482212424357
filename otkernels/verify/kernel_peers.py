"""Other libraries' kernel discrepancies: GeomLoss, KeOps through it, scikit-learn, torchmetrics."""

import contextlib
import io

import numpy as np
import torch

from .peers import Peer

__all__ = ["GEOMLOSS", "GEOMLOSS_ENERGY", "KEOPS", "SKLEARN", "SKLEARN_ENERGY", "TORCHMETRICS"]

# GeomLoss's tensorized distances, in units of the bandwidth, are at least this.
FLOOR = 1e-4


def _uniform(x, y, a, b):
    """Masses of total one."""
    pairs = zip((x, y), (a, b), strict=True)
    return [z.new_full((len(z),), 1 / len(z)) if w is None else w / w.sum() for z, w in pairs]


def _geomloss(geomloss, x, y, *, kernel, bandwidth=1.0, a=None, b=None, backend="tensorized"):
    a, b = _uniform(x, y, a, b)
    bandwidths = bandwidth if isinstance(bandwidth, tuple) else (bandwidth,)
    losses = (geomloss.SamplesLoss(kernel, blur=s, backend=backend) for s in bandwidths)
    value = 2 * sum(loss(a, x, b, y) for loss in losses)
    if kernel == "gaussian" or backend == "online":
        return value
    too_low = FLOOR if kernel == "energy" else len(bandwidths) * -np.expm1(-FLOOR)
    return value + too_low * _coincident(x, y, a, b)


def _coincident(x, y, a, b):
    """What pairs of coincident points, whose distance GeomLoss takes to be FLOOR, weigh."""
    sums = ((x, a, x, a, 1), (y, b, y, b, 1), (x, a, y, b, -2))
    return sum(
        factor * (u @ (s[:, None] == t).all(-1).to(u.dtype) @ v) for s, u, t, v, factor in sums
    )


def _keops(geomloss, x, y, **keywords):
    import pykeops

    pykeops.set_verbose(False)
    with contextlib.redirect_stdout(io.StringIO()):
        return _geomloss(geomloss, x, y, backend="online", **keywords)


def _matrices(kernel, bandwidths):
    """scikit-learn's function for each kernel, as a matrix between two arrays."""
    from sklearn.gaussian_process import kernels
    from sklearn.metrics import DistanceMetric, pairwise

    one = {
        "gaussian": lambda s: kernels.RBF(s),
        "laplacian": lambda s: kernels.Matern(s, nu=0.5),
        "imq": lambda s: kernels.RationalQuadratic(s / np.sqrt(2), alpha=1.0),
        "rational_quadratic": lambda s: kernels.RationalQuadratic(s, alpha=1.0),
        "energy": lambda s: lambda x, y: -DistanceMetric.get_metric("euclidean").pairwise(x, y),
        "polynomial": lambda s: lambda x, y: pairwise.polynomial_kernel(x, y, degree=3, coef0=1),
    }[kernel]
    return lambda x, y: sum(one(s)(x, y) for s in bandwidths)


def _sklearn(sklearn, x, y, *, kernel, bandwidth=1.0, unbiased=False, a=None, b=None):
    """From scikit-learn the matrices; the sums of them are NumPy's."""
    a, b = (w.detach().numpy() for w in _uniform(x, y, a, b))
    x, y = x.detach().numpy(), y.detach().numpy()
    matrix = _matrices(kernel, np.atleast_1d(bandwidth))
    value = -2 * a @ matrix(x, y) @ b
    for points, mass in ((x, a), (y, b)):
        gram = matrix(points, points)
        if unbiased:
            np.fill_diagonal(gram, 0.0)
        value += mass @ gram @ mass / (1 - unbiased * (mass @ mass))
    return torch.tensor(value)


def _of_energy(call):
    return lambda module, x, y, **keywords: call(module, x, y, kernel="energy", **keywords)


def _kid(kid, x, y, **settings):
    return kid.poly_mmd(x, y)


# Where |x|^2 is 10^7 the distance of a point to itself comes out as up to 1e-4, in float64.
FAR = {"offset": ("value", "grad x", "grad y")}
GEOMLOSS = Peer("GeomLoss", "geomloss", _geomloss, FAR)
GEOMLOSS_ENERGY = Peer("GeomLoss", "geomloss", _of_energy(_geomloss), FAR)
KEOPS = Peer("GeomLoss on KeOps", "geomloss", _keops, needs="pykeops")
SKLEARN = Peer("scikit-learn", "sklearn", _sklearn)
SKLEARN_ENERGY = Peer("scikit-learn", "sklearn", _of_energy(_sklearn))
TORCHMETRICS = Peer("torchmetrics", "torchmetrics.image.kid", _kid)
