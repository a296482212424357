"""What is verified of covariance roots, maps between Gaussians and moments of clouds."""

import torch

import otkernels

from . import gaussian_inputs, gaussian_roots, gaussian_samples
from .entry import Op
from .gaussian_ops import BY_VALUES, CONDITIONS, FULL, SCALES
from .gaussian_peers import POT_MAP, SCIPY, SCIPY_INVERSE, TORCH
from .inputs import Case

__all__ = ["OPS"]


def _square_root(cov_x, cotangent, **options):
    root = otkernels.sqrtm(cov_x, **options)
    return {"value": (root * cotangent).sum((-2, -1)), "root": root}


def _inverse_root(cov_x, cotangent, **options):
    root = otkernels.inv_sqrtm(cov_x, **options)
    return {"value": (root * cotangent).sum((-2, -1)), "root": root}


def _map(cotangent, **tensors):
    a, b = otkernels.gaussian_map(**tensors)
    value = (torch.cat([a, b[..., None, :]], dim=-2) * cotangent).sum((-2, -1))
    return {"value": value, "A": a, "b": b}


def _moments(x, cotangent, **options):
    mean, cov = otkernels.mean_cov(x, **options)
    value = (torch.cat([cov, mean[..., None, :]], dim=-2) * cotangent).sum((-2, -1))
    return {"value": value, "mean": mean, "cov": cov}


OPS = (
    Op(
        "gaussian_map",
        BY_VALUES,
        ours=_map,
        formula=gaussian_roots.map_between,
        cases=(Case(1), Case(8), Case(9, batch=(3,)), Case(8, kind="equal"), Case(33)),
        draw=gaussian_inputs.fitted,
        settings=({},),
        peer=POT_MAP,
    ),
    Op(
        "gaussian_map",
        f"{BY_VALUES}; conditions, scales",
        ours=_map,
        formula=gaussian_roots.map_between,
        cases=(
            *(Case(8, kind=f"condition {k}") for k in CONDITIONS),
            Case(8, kind="condition 1e4 equal"),
            *SCALES,
            Case(128),
        ),
        draw=gaussian_inputs.fitted,
        settings=({},),
        peer=POT_MAP,
        dtypes=FULL,
    ),
    Op(
        "sqrtm",
        "eigenvalues in float64",
        ours=_square_root,
        formula=gaussian_roots.square_root,
        cases=(
            Case(1),
            Case(8),
            Case(9, batch=(3,)),
            Case(8, kind="repeated"),
            Case(8, kind="rank 4"),
            Case(8, kind="rank 1"),
            Case(33),
        ),
        draw=gaussian_inputs.matrix,
        settings=({},),
        peer=SCIPY,
    ),
    Op(
        "inv_sqrtm",
        "eigenvalues in float64",
        ours=_inverse_root,
        formula=gaussian_roots.inverse_root,
        cases=(Case(1), Case(8), Case(9, batch=(3,)), Case(8, kind="repeated"), Case(33)),
        draw=gaussian_inputs.matrix,
        settings=({},),
        peer=SCIPY_INVERSE,
    ),
    *(
        Op(
            name,
            "eigenvalues in float64; conditions, sizes, scales",
            ours=ours,
            formula=formula,
            cases=(
                *(Case(8, kind=f"condition {k}") for k in CONDITIONS),
                *SCALES[:2],
                Case(64, kind="condition 1e4"),
                *(Case(n) for n in (65, 128, 129, 512)),
            ),
            draw=gaussian_inputs.matrix,
            settings=({},),
            peer=peer,
            dtypes=FULL,
        )
        for name, ours, formula, peer in (
            ("sqrtm", _square_root, gaussian_roots.square_root, SCIPY),
            ("inv_sqrtm", _inverse_root, gaussian_roots.inverse_root, SCIPY_INVERSE),
        )
    ),
    Op(
        "mean_cov",
        "sums in float64",
        ours=_moments,
        formula=gaussian_samples.mean_and_covariance,
        cases=(
            Case(1, d=3),
            Case(2, d=1, all_settings=True),
            Case(61, d=7, all_settings=True),
            Case(33, d=5, batch=(2, 3)),
            Case(600, d=33),
            Case(1000, d=3),
            Case(5, d=12),
            Case(61, kind="offset"),
            Case(61, kind="constant"),
            Case(61, kind="weights"),
            Case(15, d=3, kind="zero weights"),
            Case(24, d=3, batch=(4,), kind="padded long", all_settings=True),
            Case(24, d=3, batch=(4,), kind="padded weights long"),
        ),
        draw=gaussian_inputs.moments,
        settings=({}, {"correction": 1}),
        peer=TORCH,
    ),
)
