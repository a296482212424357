"""What is verified of losses on lines, slices and circles."""

import torch

import otkernels

from . import circle, monte_carlo, normal, reference, searched
from .entry import Op
from .inputs import AXES, Case, clouds, numbers, on_sphere, shifted, turns
from .peers import (
    POT_CIRCLE,
    POT_LINE,
    POT_MAX,
    POT_SLICED,
    POT_SPHERE,
    POT_TANH,
    POT_WITH_COSTS,
)

__all__ = ["OPS"]

# Unequal sizes, weights and lengths: what every implementation must take in all exponents.
MEASURES = (
    Case(61, m=40, all_settings=True),
    Case(61, m=40, kind="weights", all_settings=True),
    Case(15, l=4, m=12, kind="zero weights", all_settings=True),
    Case(13, l=4, m=9, kind="coincident weights", all_settings=True),
    Case(33, m=20, batch=(3,), kind="weights"),
    Case(33, l=8, batch=(3,), kind="padded", all_settings=True),
    Case(33, l=8, m=20, batch=(2, 3), kind="padded"),
    Case(33, m=20, batch=(3,), kind="padded weights"),
    Case(9, d=3, l=2, m=7, batch=(2,), kind="padded weights"),
)
SLICED_CASES = (
    Case(1),
    Case(9, d=3, l=2),
    Case(64, d=1),
    Case(61, d=7, l=13, all_settings=True),
    *(Case(n) for n in (127, 128, 129)),
    *(Case(n, d=16, l=32) for n in (1023, 1024, 1025)),
    Case(4096, d=64, l=64),
    Case(1024, d=16, l=32, m=700),
    Case(33, batch=(3,)),
    Case(33, d=5, batch=(2, 3)),
    Case(33, batch=(3,), kind="own directions"),
    Case(61, kind="offset", all_settings=True),
    Case(61, kind="equal", all_settings=True),
    *MEASURES,
)
LINE_CASES = (
    Case(1),
    Case(61, all_settings=True),
    *(Case(n) for n in (127, 128, 129, 1023, 1024, 1025, 16384)),
    Case(1024, m=700),
    Case(33, batch=(3,)),
    Case(33, batch=(2, 3)),
    Case(61, kind="offset", all_settings=True),
    Case(61, kind="equal", all_settings=True),
    *MEASURES,
)
WEIGHED = (Case(33, d=5, m=20, kind="weights"), Case(33, d=5, m=20, batch=(3,), kind="padded"))
ONE = ({"p": 2},)
DRAWN = 2**16
SETS = 100


def _tanh_slices(x, y, projections, **keywords):
    def slices(points):
        return torch.tanh(points.to(projections.dtype) @ projections)

    return otkernels.sliced_wasserstein(x, y, projections=slices, **keywords)


def _drawn(x, y, **keywords):
    generator = torch.Generator(x.device).manual_seed(0)
    return otkernels.sliced_wasserstein(x, y, generator=generator, **keywords)


def _info(x, y, **keywords):
    return otkernels.sliced_wasserstein_with_info(x, y, **keywords)._asdict()


def _fitted(x, y, **keywords):
    return _info(x, y, control_variate=True, **keywords)


def _mean_fitted(x, y, projections, draws, **keywords):
    """The mean of as many estimates, each from its own directions."""
    sets = projections.unflatten(-1, (draws, -1)).movedim(-2, 0)
    return _fitted(x, y, projections=sets, **keywords)["value"].mean()


def _cloud(case, rng):
    """X alone, with directions and what the kind of case asks for."""
    arrays = clouds(case, rng)
    return {name: array for name, array in arrays.items() if not name.startswith("y")}


def _shift_only(case, rng):
    """A translation, without directions."""
    arrays = shifted(case, rng)
    return {name: arrays[name] for name in "xy"}


OPS = (
    Op(
        "sliced_wasserstein",
        "sorting and merging in float64",
        ours=lambda x, y, **k: otkernels.sliced_wasserstein(x, y, **k),
        formula=reference.sliced_wasserstein,
        cases=SLICED_CASES,
        peer=POT_SLICED,
        yours="points",
    ),
    Op(
        "sliced_wasserstein",
        "the same of slices tanh(x theta), which a callable returns",
        ours=_tanh_slices,
        formula=lambda **k: reference.sliced_wasserstein(**k, slices="tanh"),
        cases=(Case(61, d=7, l=13, all_settings=True), *WEIGHED),
        peer=POT_TANH,
    ),
    Op(
        "sliced_wasserstein",
        f"the mean over the sphere (p=1); {DRAWN} drawn directions, within 5 standard errors",
        ours=_drawn,
        formula=monte_carlo.expected_translation,
        cases=tuple(Case(1, d=d, batch=(4,), all_settings=True) for d in (2, 3, 5)),
        draw=_shift_only,
        settings=tuple(
            {"p": 1, "n_projections": DRAWN, "method": method}
            for method in ("gaussian", "orthogonal", "sobol")
        ),
    ),
    Op(
        "wasserstein_1d",
        "sorting and merging in float64",
        ours=lambda u, v, **k: otkernels.wasserstein_1d(u, v, **k),
        formula=reference.wasserstein_1d,
        cases=LINE_CASES,
        draw=numbers,
        peer=POT_LINE,
        yours="numbers",
    ),
    Op(
        "sliced_wasserstein_to_normal",
        "quadrature of the normal quantile function",
        ours=lambda x, **k: otkernels.sliced_wasserstein_to_normal(x, **k),
        formula=normal.by_quadrature,
        cases=(
            Case(1),
            Case(9, d=3, l=2),
            Case(64, d=1),
            Case(61, d=7, l=13),
            *(Case(n) for n in (127, 128, 1025)),
            Case(33, d=5, batch=(2, 3)),
            Case(33, batch=(3,), kind="own directions"),
            Case(33, batch=(5,), kind="padded"),
            Case(61, kind="offset"),
        ),
        draw=_cloud,
        settings=({},),
    ),
    Op(
        "sliced_wasserstein_to_normal",
        f"the distance to {normal.SAMPLES} samples, within 5 standard errors",
        ours=lambda x, **k: otkernels.sliced_wasserstein_to_normal(x, **k),
        formula=normal.by_samples,
        cases=(Case(64, d=4, l=4),),
        draw=_cloud,
        settings=({},),
    ),
    Op(
        "max_sliced_wasserstein",
        "the best of the given directions and the difference of the means (no steps)",
        ours=lambda x, y, **k: otkernels.max_sliced_wasserstein(x, y, **k),
        formula=searched.among_candidates,
        cases=(Case(61, d=7, l=13), Case(9, d=3, l=2), *WEIGHED),
        settings=({"p": 2, "n_steps": 0},),
        peer=POT_MAX,
    ),
    Op(
        "max_sliced_wasserstein",
        "|shift|^p, the truth for a translation",
        ours=lambda x, y, **k: otkernels.max_sliced_wasserstein(x, y, **k),
        formula=searched.of_a_translation,
        cases=(Case(33, d=5, l=8, all_settings=True), Case(33, d=5, l=8, batch=(3,))),
        draw=shifted,
    ),
    Op(
        "max_sliced_wasserstein",
        f"{searched.ANGLES} directions in the plane, within their resolution",
        ours=lambda x, y, **k: otkernels.max_sliced_wasserstein(x, y, **k),
        formula=searched.on_a_grid_of_angles,
        cases=(Case(33, d=2, l=4, all_settings=True),),
        settings=({"p": 2}, {"p": 1}),
    ),
    Op(
        "max_sliced_wasserstein",
        "at least the best candidate, at most a plan in space: their middle, within half",
        ours=lambda x, y, **k: otkernels.max_sliced_wasserstein(x, y, **k),
        formula=searched.between_bounds,
        cases=(Case(61, d=7, l=13),),
        settings=ONE,
    ),
    Op(
        "sliced_wasserstein_with_info",
        "costs of each direction and the standard deviation of their mean",
        ours=_info,
        formula=monte_carlo.with_info,
        cases=(Case(9, d=3, l=2), Case(61, d=7, l=13, all_settings=True), *WEIGHED),
        peer=POT_WITH_COSTS,
    ),
    Op(
        "sliced_wasserstein_with_info",
        "a least-squares fit with intercept (control variate)",
        ours=_fitted,
        formula=monte_carlo.with_control_variate,
        cases=(Case(61, d=7, l=32), Case(9, d=3, l=6), *WEIGHED),
        settings=ONE,
    ),
    Op(
        "sliced_wasserstein_with_info",
        f"the mean over the circle of {SETS} estimates (control variate), within 5 standard errors",
        ours=_mean_fitted,
        formula=monte_carlo.mean_over_the_circle,
        cases=(Case(33, d=2, l=32 * SETS),),
        settings=({"p": 2, "draws": SETS},),
    ),
    Op(
        "wasserstein_circle",
        "the best of all cuts",
        ours=lambda u, v, **k: otkernels.wasserstein_circle(u, v, **k),
        formula=circle.wasserstein_circle,
        cases=(
            Case(1),
            Case(33, all_settings=True),
            Case(33, m=20),
            Case(33, m=20, kind="weights", all_settings=True),
            Case(257, m=200),
            Case(12, batch=(2, 3)),
        ),
        draw=turns,
        peer=POT_CIRCLE,
    ),
    Op(
        "sliced_wasserstein_sphere",
        "the best of all cuts of each circle",
        ours=lambda x, y, **k: otkernels.sliced_wasserstein_sphere(x, y, **k),
        formula=circle.sliced_wasserstein_sphere,
        cases=(
            Case(1, d=3),
            Case(33, d=3, l=4, all_settings=True),
            Case(33, d=5, l=4, m=20),
            Case(33, d=3, l=4, m=20, kind="weights"),
            Case(12, d=2, l=2, batch=(2,)),
        ),
        draw=on_sphere,
        peer=POT_SPHERE,
        axes=AXES | {"projections": 3},
    ),
)
