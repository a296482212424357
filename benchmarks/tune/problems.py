"""The calls that are tuned: families by name, and each op with ``impl="triton"``."""

import otkernels

from .. import cases
from ..case import Case, Shape
from ..families import mmd
from . import singular

FAMILIES = {family.op: family for family in (*cases.FAMILIES, singular.FAMILY)}


def _sliced(x, y, projections, a=None, b=None):
    return otkernels.sliced_wasserstein(x, y, projections=projections, a=a, b=b, impl="triton")


def _ragged(x, y, projections, n, m):
    return otkernels.sliced_wasserstein(
        x, y, projections=projections, x_lengths=n, y_lengths=m, impl="triton"
    )


def _bures(x, y, mean_x, mean_y):
    return otkernels.bures_wasserstein(mean_x, x, mean_y, y, impl="triton")


CALLS = {
    "sliced_wasserstein": _sliced,
    "sliced_wasserstein-unequal": _sliced,
    "sliced_wasserstein-weights": _sliced,
    "sliced_wasserstein-ragged": _ragged,
    "mmd": lambda x, y: mmd.ours(x, y, impl="triton"),
    "energy_distance": lambda x, y: otkernels.energy_distance(x, y, impl="triton"),
    "bures_wasserstein": _bures,
    "bures_wasserstein-singular": _bures,
    "sqrtm": lambda a: otkernels.sqrtm(a, impl="triton"),
    "mean_cov": lambda x: otkernels.mean_cov(x, impl="triton")[1],
}


def case(op, *sizes, mode="forward_backward"):
    """An op at a shape of sizes B, N, D, L and M; those at the end may be left out."""
    b, n, d, directions, m = (*sizes, *(None,) * (5 - len(sizes)))
    return Case(FAMILIES[op], Shape(b, n, d, directions, "tuned", m), mode)


def goals(op, *names, mode="forward_backward"):
    """An op at shapes of its family on a GPU, by their names."""
    shapes = {shape.name: shape for shape in FAMILIES[op].shapes["cuda"]}
    return tuple(Case(FAMILIES[op], shapes[name], mode) for name in names)
