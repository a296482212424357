"""What is verified of distances between Gaussians."""

import otkernels

from . import gaussian, gaussian_inputs, gaussian_samples
from .entry import Op
from .gaussian_peers import POT_CLOUDS, POT_GAUSSIANS, POT_PAIRS
from .inputs import AXES, Case

__all__ = ["BY_VALUES", "CONDITIONS", "FULL", "OPS", "SCALES"]

# Rounded to half precision an ill-conditioned covariance is another one, or none.
FULL = ("float32", "float64")
CONDITIONS = ("1", "1e2", "1e4", "1e6")

PLAIN = (
    Case(1),
    Case(2),
    Case(8),
    Case(9, batch=(3,)),
    Case(17, batch=(2, 2)),
    Case(8, kind="equal"),
    Case(8, kind="repeated"),
    Case(8, kind="repeated equal"),
    Case(8, kind="rank 4"),
    Case(8, kind="rank 1"),
    Case(8, kind="rank 4 equal"),
    Case(8, kind="onto 3"),
    Case(33),
)
LADDER = (
    *(Case(8, kind=f"condition {k}") for k in CONDITIONS),
    *(Case(8, kind=f"condition {k} commuting") for k in CONDITIONS[1:]),
    *(Case(8, kind=f"condition {k} equal") for k in CONDITIONS[1:]),
    Case(16, kind="condition 1e6", batch=(2,)),
)
LARGE = (
    *(Case(n) for n in (64, 65, 128, 129)),
    Case(64, kind="condition 1e4"),
    Case(64, kind="condition 1e4 equal"),
    Case(48, kind="rank 24"),
    Case(512),
)
SCALES = (
    Case(8, kind="scale 1e-6"),
    Case(8, kind="scale 1e6"),
    Case(8, kind="apart 1e-6"),
    Case(8, kind="apart 1e6"),
)
CLOUDS = (
    Case(1, d=3),
    Case(2, d=1, all_settings=True),
    Case(64, d=1),
    Case(61, d=7, m=40, all_settings=True),
    Case(33, d=5, m=20, batch=(2, 3)),
    Case(61, kind="equal"),
    Case(61, m=40, kind="offset"),
    Case(61, m=40, kind="constant"),
    Case(61, m=40, kind="twice"),
    # Fewer points than features, and as many.
    Case(5, d=12, m=7, kind="few"),
    Case(5, d=12, m=40, kind="few"),
    Case(5, d=12, m=7, batch=(3,), kind="few"),
    Case(12, d=12, kind="few"),
    Case(5, d=12, kind="few equal"),
    Case(300, m=200, d=24),
)
WEIGHED = (
    Case(61, m=40, kind="weights", all_settings=True),
    Case(15, d=3, m=12, kind="zero weights"),
    Case(33, d=5, m=20, batch=(3,), kind="weights"),
    Case(24, d=3, batch=(4,), kind="padded long"),
    Case(24, d=3, m=20, batch=(4,), kind="padded weights long"),
)


def _distance(**tensors):
    return otkernels.bures_wasserstein(**tensors)


def _between_clouds(**tensors):
    return otkernels.gaussian_wasserstein(**tensors)


def _to_normal(**tensors):
    return otkernels.gaussian_wasserstein_to_normal(**tensors)


BY_VALUES = "singular values in float64"
BY_DIGITS = "Newton's iteration with 50 digits"
DISTANCE = {"ours": _distance, "draw": gaussian_inputs.gaussians, "peer": POT_GAUSSIANS}
CLOUD = {"ours": _between_clouds, "draw": gaussian_inputs.clouds, "peer": POT_CLOUDS}
CLOUD |= {"formula": gaussian_samples.between_clouds}
PAIRS_AXES = AXES | {"mean_x": 2, "cov_x": 3, "mean_y": 2, "cov_y": 3}
VARIANCE_AXES = AXES | {"cov_x": 1, "cov_y": 1}

OPS = (
    Op(
        "bures_wasserstein",
        BY_VALUES,
        formula=gaussian.between_gaussians,
        cases=PLAIN,
        settings=({},),
        **DISTANCE,
    ),
    Op(
        "bures_wasserstein",
        f"{BY_VALUES}; sizes, scales",
        formula=gaussian.between_gaussians,
        cases=(*LARGE, *SCALES),
        settings=({},),
        dtypes=FULL,
        **DISTANCE,
    ),
    Op(
        "bures_wasserstein",
        f"{BY_DIGITS}; conditions",
        formula=gaussian.in_digits,
        cases=LADDER,
        settings=({},),
        dtypes=FULL,
        **DISTANCE,
    ),
    Op(
        "bures_wasserstein",
        f"{BY_DIGITS}; a condition that float32 does not hold",
        formula=gaussian.in_digits,
        cases=(Case(8, kind="condition 1e8"), Case(8, kind="condition 1e8 equal")),
        settings=({},),
        dtypes=("float64",),
        **DISTANCE,
    ),
    Op(
        "bures_wasserstein",
        f"{BY_VALUES}, every pair (pairwise=True)",
        ours=_distance,
        formula=gaussian.all_pairs,
        cases=(Case(5, m=2, batch=(3,)),),
        draw=gaussian_inputs.gaussians,
        settings=({"pairwise": True},),
        peer=POT_PAIRS,
        axes=PAIRS_AXES,
    ),
    Op(
        "bures_wasserstein",
        "differences of deviations (diagonal=True)",
        ours=_distance,
        formula=gaussian.between_variances,
        cases=(
            Case(1),
            Case(8),
            Case(17, batch=(2, 3)),
            Case(8, kind="equal"),
            Case(8, kind="zeros"),
        ),
        draw=gaussian_inputs.variances,
        settings=({"diagonal": True},),
        axes=VARIANCE_AXES,
    ),
    Op(
        "gaussian_wasserstein",
        BY_VALUES,
        cases=(*CLOUDS, *WEIGHED),
        settings=({}, {"correction": 1}, {"eps": 0.5}, {"diagonal": True}, {"squared": False}),
        **CLOUD,
    ),
    Op(
        "gaussian_wasserstein",
        f"{BY_VALUES}; conditions, scales",
        cases=(
            *(Case(61, m=40, kind=f"condition {k}") for k in (*CONDITIONS[2:], "1e8")),
            Case(61, kind="condition 1e6 equal"),
            Case(6, d=12, m=9, kind="few condition 1e4"),
            Case(61, kind="scale 1e-6"),
            Case(61, kind="scale 1e6"),
        ),
        settings=({},),
        dtypes=FULL,
        **CLOUD,
    ),
    Op(
        "gaussian_wasserstein_to_normal",
        BY_VALUES,
        ours=_to_normal,
        formula=gaussian_samples.to_normal,
        cases=(
            Case(1, d=3),
            Case(61, d=7, all_settings=True),
            Case(33, d=5, batch=(2, 3)),
            Case(61, kind="weights"),
            Case(61, kind="offset"),
            Case(61, kind="constant"),
            Case(5, d=12, kind="few"),
            Case(12, d=12, kind="few"),
            Case(24, d=3, batch=(4,), kind="padded weights long"),
        ),
        draw=gaussian_inputs.cloud,
        settings=({}, {"correction": 1}, {"eps": 0.5}, {"diagonal": True}),
    ),
)
