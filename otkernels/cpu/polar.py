"""Polar factors on the CPU: products only, from a factor and its inverse.

M and M^-T have the same polar factor, and so has every positive sum of the two. The sum

    X = (g M + M^-T / g) / 2,    g^2 = |M^-T| / |M|

(Newton's step, scaled) has singular values from 1 to about half the root of M's condition, so a few
steps of ``_polar_schedule`` bring all of them to 1. X needs M and M^-T as exact as the condition
asks; after it float32 is enough, because what rounding does to X it does relative to X.

Cost per matrix: 6 D^3 operations for each step.
"""

import torch

from otkernels._polar_schedule import schedule

EPS = torch.finfo(torch.float64).eps
# How far from 1 the singular values may stay.
TOLERANCE = {torch.float32: 4e-7, torch.float64: 1e-15}
# Room for rounding in the bound on a norm.
SLACK = 1.0001


def newton(m, dual):
    """X / |X| of M and M^-T (P, D, D), and |X|^2 (P, 1, 1)."""
    of_m, of_dual = norm(m), norm(dual)
    # The inner product of M and M^-T is D, so this takes no pass over X.
    square = (of_m * of_dual + m.shape[-1]) / 2
    g, size = (of_dual / of_m).sqrt_(), 2 * square.sqrt()
    return torch.mul(m, g / size).addcmul_(dual, 1 / (g * size)), square


def polar_factor(x, least):
    """Q (P, D, D) of X = Q H, for X of norm 1 with singular values from ``least`` (P, 1, 1) on."""
    gram = torch.bmm(x.mT, x)
    power = torch.bmm(gram, gram)
    bound = _bound(power, least)
    # A problem that is NaN stays so, and has no part in the choice.
    l0 = (least / bound).nan_to_num_(0.5).clamp_(EPS).min().item()
    (a, b, c), *rest = schedule(l0, TOLERANCE[x.dtype])
    # The first step is one of X / bound, whose powers are here already.
    bound = bound.to(x.dtype)
    power.mul_(c / bound**5).addcmul_(gram, b / bound**3)
    power.diagonal(dim1=1, dim2=2).add_(a / bound[..., 0])
    x, spare = torch.bmm(x, power), x
    for a, b, c in rest:
        torch.bmm(x.mT, x, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=power)
        power.diagonal(dim1=1, dim2=2).add_(a)
        x, spare = torch.bmm(x, power, out=spare), x
    return x


def norm(a):
    """Frobenius norm of matrices (P, R, C): (P, 1, 1)."""
    return torch.linalg.vector_norm(a, dim=(1, 2), keepdim=True)


def _bound(power, least):
    """A bound on singular values that are ``least`` at least, from (X^T X)^2: (P, 1, 1), float64.

    The squares of its entries sum up to the eighth powers of all singular values.
    """
    least = least.pow(8)
    others = power.shape[-1] - 1
    largest = norm(power).double().square() * SLACK - others * least
    return torch.maximum(largest, least).pow(1 / 8).mul_(SLACK)
