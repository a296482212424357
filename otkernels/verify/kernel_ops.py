"""What is verified of kernel discrepancies and bandwidths."""

import otkernels

from . import kernels
from .entry import Op
from .inputs import AXES, Case, pairs
from .kernel_peers import GEOMLOSS, GEOMLOSS_ENERGY, KEOPS, SKLEARN, SKLEARN_ENERGY, TORCHMETRICS

__all__ = ["OPS"]

SEVERAL = (0.25, 1.0, 4.0)
LADDER = (1.0, 1.5, 3.0)
DRAWS = 1000


def _settings(*kernels_, bandwidths=(2.0,), **more):
    """One for each kernel and bandwidth."""
    return tuple(
        {"kernel": kernel} | ({"bandwidth": s} if s else {}) | more
        for kernel in kernels_
        for s in bandwidths
    )


NO_BANDWIDTH = {"bandwidths": (None,)}
PLAIN = (
    Case(9, d=3, all_settings=True),
    Case(64, d=1, all_settings=True),
    Case(61, d=7, m=40, all_settings=True),
    Case(33, batch=(3,)),
    Case(33, d=5, m=20, batch=(2, 3)),
    Case(61, kind="offset", all_settings=True),
    Case(61, kind="equal", all_settings=True),
    Case(61, m=40, kind="shared", all_settings=True),
)
# On both sides of the tiles of the fast forms.
LARGE = (*(Case(n) for n in (127, 128, 129)), Case(600, m=500, d=16))
WEIGHED = (
    Case(61, m=40, kind="weights", all_settings=True),
    Case(15, m=12, kind="zero weights", all_settings=True),
    Case(33, d=5, m=20, batch=(3,), kind="weights"),
    Case(12, d=5, batch=(4,), kind="padded", all_settings=True),
    Case(12, d=5, m=9, batch=(2, 3), kind="padded"),
    Case(9, d=3, m=12, batch=(4,), kind="padded weights", all_settings=True),
)
# At a distance of 1000 the cube of a product, and its gradient, overflow float16.
POLYNOMIAL_CASES = tuple(case for case in (*PLAIN, *WEIGHED) if case.kind != "offset")
V_CASES = (Case(1, all_settings=True), Case(1, m=7, d=3), *PLAIN, *WEIGHED)
U_CASES = (Case(2, all_settings=True), *PLAIN, *WEIGHED, Case(129))
SOME = (
    Case(61, d=7, m=40),
    Case(128),
    Case(61, kind="offset"),
    Case(61, kind="equal"),
    Case(61, m=40, kind="shared"),
    Case(15, d=3, m=12, kind="zero weights"),
    Case(9, d=3, m=12, batch=(4,), kind="padded weights"),
)
MEDIAN_CASES = (
    Case(2, d=1),
    Case(33, d=3, m=20),
    Case(200, m=90),
    Case(1024, m=700),
    Case(61, kind="offset"),
    Case(61, m=40, kind="shared"),
    Case(33, d=5, batch=(2, 3)),
    Case(12, d=5, m=9, batch=(4,), kind="padded"),
)


def _mmd(x, y, **keywords):
    return otkernels.mmd(x, y, **keywords)


def _energy_distance(x, y, **keywords):
    return otkernels.energy_distance(x, y, **keywords)


def _own_bandwidths(x, y, bandwidth, **keywords):
    return otkernels.mmd(x, y, bandwidth=bandwidth.detach(), **keywords)


def _median_bandwidth(x, y=None, *, impl, **lengths):
    return otkernels.median_bandwidth(x.detach(), y, **lengths)


def _mean_of_draws(x, y, *, spread, shift, **keywords):
    return otkernels.mmd(x, y, kernel="gaussian", unbiased=True, **keywords).mean()


def _one_cloud(case, rng):
    """X alone, with its lengths."""
    return {name: array for name, array in pairs(case, rng).items() if name.startswith("x")}


def _energy(x, y, rounding, **keywords):
    return kernels.discrepancy(x, y, rounding, kernel="energy", **keywords)


OPS = (
    Op(
        "mmd",
        "double sums in float64 (V-statistic)",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=(*V_CASES, *LARGE),
        draw=pairs,
        settings=(
            *_settings("gaussian", "laplacian", bandwidths=(2.0, SEVERAL)),
            *_settings("energy", **NO_BANDWIDTH),
        ),
        peer=GEOMLOSS,
        yours="points",
        pairwise=True,
    ),
    Op(
        "mmd",
        "double sums in float64 (V-statistic)",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=V_CASES,
        draw=pairs,
        settings=(
            *_settings("imq", bandwidths=(2.0, LADDER)),
            *_settings("rational_quadratic"),
        ),
        peer=SKLEARN,
        yours="points",
        pairwise=True,
    ),
    Op(
        "mmd",
        "double sums in float64 without the diagonal (U-statistic)",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=U_CASES,
        draw=pairs,
        settings=(
            *_settings("gaussian", bandwidths=(2.0, SEVERAL), unbiased=True),
            *_settings("laplacian", "rational_quadratic", unbiased=True),
            *_settings("imq", bandwidths=(LADDER,), unbiased=True),
            *_settings("energy", unbiased=True, **NO_BANDWIDTH),
        ),
        peer=SKLEARN,
        yours="points",
        pairwise=True,
    ),
    Op(
        "mmd",
        "double sums in float64 (V- and U-statistic)",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=(*POLYNOMIAL_CASES, *LARGE),
        draw=pairs,
        settings=(
            *_settings("polynomial", **NO_BANDWIDTH),
            *_settings("polynomial", unbiased=True, **NO_BANDWIDTH),
        ),
        peer=SKLEARN,
    ),
    Op(
        "mmd",
        "KID: the polynomial U-statistic of clouds of one size",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=(Case(2), Case(61, d=64), Case(300, d=100), Case(33, d=16, batch=(3,))),
        draw=pairs,
        settings=_settings("polynomial", unbiased=True, **NO_BANDWIDTH),
        peer=TORCHMETRICS,
    ),
    Op(
        "mmd",
        "double sums in float64, by KeOps",
        ours=_mmd,
        formula=kernels.discrepancy,
        cases=(Case(300, d=3, m=200, all_settings=True), Case(300, d=3, kind="offset")),
        draw=pairs,
        settings=(*_settings("gaussian", "laplacian"), *_settings("energy", **NO_BANDWIDTH)),
        peer=KEOPS,
    ),
    Op(
        "mmd",
        "double sums with the bandwidths of each problem",
        ours=_own_bandwidths,
        formula=kernels.discrepancy,
        cases=(Case(20, d=3, m=15, batch=(4,), kind="ladders", all_settings=True),),
        draw=pairs,
        settings=_settings("gaussian", "laplacian", "imq", **NO_BANDWIDTH),
    ),
    Op(
        "mmd",
        'double sums with the median of distances (bandwidth="median")',
        ours=_mmd,
        formula=kernels.with_median,
        cases=SOME,
        draw=pairs,
        settings=_settings("gaussian", "imq", **NO_BANDWIDTH),
    ),
    Op(
        "mmd",
        "the root of double sums (squared=False)",
        ours=lambda x, y, **k: otkernels.mmd(x, y, squared=False, **k),
        formula=kernels.root_of_discrepancy,
        cases=(Case(61, d=7, m=40, all_settings=True), Case(33, d=5, batch=(3,), kind="weights")),
        draw=pairs,
        settings=(*_settings("gaussian"), *_settings("energy", **NO_BANDWIDTH)),
    ),
    Op(
        "mmd",
        f"closed form between two Gaussians; {DRAWS} U-statistics, within 5 standard errors",
        ours=_mean_of_draws,
        formula=kernels.between_gaussians,
        cases=(Case(16, d=3, m=12, batch=(DRAWS,)),),
        draw=pairs,
        settings=({"bandwidth": 2.0, "spread": 1.5, "shift": 0.5},),
        axes=AXES | {"x": 3, "y": 3},
    ),
    Op(
        "energy_distance",
        "double sums in float64 (V-statistic)",
        ours=_energy_distance,
        formula=_energy,
        cases=(Case(1), *SOME),
        draw=pairs,
        settings=({},),
        peer=GEOMLOSS_ENERGY,
    ),
    Op(
        "energy_distance",
        "double sums in float64 without the diagonal (U-statistic)",
        ours=_energy_distance,
        formula=_energy,
        cases=(Case(2), *SOME),
        draw=pairs,
        settings=({"unbiased": True},),
        peer=SKLEARN_ENERGY,
    ),
    Op(
        "median_bandwidth",
        "the median of distances between 128 points",
        ours=_median_bandwidth,
        formula=kernels.median_bandwidth,
        cases=MEDIAN_CASES,
        draw=pairs,
        settings=({},),
    ),
    Op(
        "median_bandwidth",
        "the same of one cloud",
        ours=_median_bandwidth,
        formula=kernels.median_bandwidth,
        cases=(Case(1), Case(300, d=3), Case(12, d=5, batch=(4,), kind="padded")),
        draw=_one_cloud,
        settings=({},),
    ),
)
