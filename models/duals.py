"""Discrete Kantorovich duals for the cost |y - z|^2 / 2, exact, by POT's network simplex.

Codes y_i of equal masses are to be supplied from noise points z_j of equal masses. The dual is

    max  mean_i f_i - mean_j h_j   subject to   f_i - h_j <= |y_i - z_j|^2 / 2,

and the best h for given f has a closed form, the c-transform

    h(z) = max_i (f_i - |y_i - z|^2 / 2),

defined for every z. Its gradient is y* - z with y* the code of the maximum, so z + grad h(z) = y*:
the potential on the noise side is all that the map from noise to codes needs.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .errors import InputError, require

__all__ = ["EXACT", "Duals", "c_transform", "pot", "solve"]

# The other mode expands the square, which cancels for near points.
EXACT = "donot_use_mm_for_euclid_dist"
MAX_ITERATIONS = 10_000_000


@dataclass(frozen=True)
class Duals:
    """An optimal pair of potentials and a matching; float64 but for the indices.

    Attributes:
        codes: f (n,), free up to a constant: chosen so that ``noise`` has mean 0.
        noise: h (m,), of mean 0.
        match: index of the code that most of the mass of each noise point goes to, (m,).
        cost: of the optimal plan, a number: mean f - mean h up to rounding.
    """

    codes: torch.Tensor
    noise: torch.Tensor
    match: torch.Tensor
    cost: float


@torch.no_grad()
def solve(codes, noise):
    """The dual of codes (n, d) and noise points (m, d), all points of a side of equal mass.

    Where m is a multiple of n every noise point goes to one code as a whole. Time and memory grow
    with n m and more.
    """
    costs = _half_squared_distances(codes.cpu().double(), noise.cpu().double())
    require(bool(costs.isfinite().all()), "solve", "codes", "be finite", "NaN or infinity")
    masses = (np.full(n, 1 / n) for n in costs.shape)
    plan, log = pot().emd(*masses, costs.numpy(), numItermax=MAX_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"POT found no optimal plan: {log['warning']}")
    # POT maximises mean u + mean v under u_i + v_j <= c_ij: f = u and h = -v, up to a constant.
    f, h = torch.from_numpy(log["u"]), -torch.from_numpy(log["v"])
    offset = h.mean()
    found = (f - offset, h - offset, torch.from_numpy(plan).argmax(0))
    return Duals(*(x.to(codes.device) for x in found), float(log["cost"]))


@torch.no_grad()
def c_transform(points, codes, values):
    """Of f (n,) on codes (n, d): h (m,) at points (m, d), and the indices of their y* (m,)."""
    best = (values - _half_squared_distances(points, codes)).max(1)
    return best.values, best.indices


def pot():
    """The module of POT, whose import takes a second and may not be possible."""
    try:
        import ot
    except ImportError as error:
        raise InputError("LatentOT: exact duals need POT: install the extra `models`") from error
    return ot


def _half_squared_distances(x, y):
    """|x_i - y_j|^2 / 2, (n, m)."""
    return torch.cdist(x, y, compute_mode=EXACT).square() / 2
