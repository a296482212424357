"""Polar factors of matrices of any size, by products with a polynomial's end.

X <- X (a I + b G + c G^2), G = X^T X, with coefficients that are best for the singular values of
each problem (otkernels._polar_schedule): no inverse, and all work in products. The coefficients
are picked on the device. So many steps are launched as the least permitted lower end needs; a
problem that needs fewer starts later, and until then its programs leave at once.

3 launches a step: G and P, of which half is computed, and X P. FLOP of a problem, Q <= P its sides
and K its own steps: K (3 P Q^2 + Q^3), 4 K D^3 if square. K is about 2 + log_4 (1 / l0), with
``double`` 3 to 4 more at most. Bytes a step: about 2 P Q (Q / BLOCK) + 2 Q^2 (Q / BLOCK) elements
from the second-level cache. Memory: 2 P Q + 2 Q^2 elements a problem.
"""

import functools

import torch

from otkernels._polar_schedule import schedule

from .products import product

# Lower ends of the singular values that the tables know are 1, 1/2, .. 2^-OCTAVES.
OCTAVES = 17
# How far from 1 singular values may be left: the least that the arithmetic can tell.
TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-14}


@functools.cache
def _table(octaves, dtype, device):
    """(octaves + 1, K, 3) c, b, a of K steps from lower ends 1, 1/2, ..; 0 for steps too many.

    Copied from the host once for each device, so not for the first time within a CUDA graph.
    """
    rows = [schedule(2.0**-k, TOLERANCE[dtype]) for k in range(octaves + 1)]
    longest = len(rows[-1])
    idle = ((0.0, 0.0, 0.0),)
    table = [idle * (longest - len(row)) + row for row in rows]
    return torch.tensor(table, dtype=torch.float64, device=device).flip(-1)


def steps(l0, double, octaves=OCTAVES):
    """Coefficients of the steps of problems whose singular values are in [l0, 1].

    Args:
        l0: (B,) float64; lower than 2^-octaves counts as that, and 1 needs no step.
        double: whether values are to come as near to 1 as float64 tells, or float32.
        octaves: which tables there are.

    Returns:
        coefficients (K, B, 3), float64, c, b and a of p(x) = a x + b x^3 + c x^5, and active
        (K, B), int32: the steps of a problem that needs less than K come last.
    """
    table = _table(octaves, torch.float64 if double else torch.float32, l0.device)
    row = (-torch.log2(l0)).ceil().nan_to_num(1.0).clamp(0, octaves).long()
    coefficients = table[row].transpose(0, 1).contiguous()
    return coefficients, (coefficients[..., 2] != 0).int()


def scaled(x):
    """Matrices x (B, P, Q), float64, times a unit that brings all its singular values below 1.

    Returns:
        (x0, unit (B,)): if no singular value of x is below 1, those of x0 are in [unit, 1].
    """
    size = _not_zero(x.square().sum((-2, -1)).sqrt())
    x = x / size[:, None, None]
    gram = x.new_empty((*x.shape[:-1], x.shape[-2]), dtype=torch.float32)
    product(x, x.mT, gram, symmetric=True)
    # Either norm of X X^T is above the square of X's, by P^1/2 at most; the margin is for rounding.
    norms = gram.square().sum((-2, -1)).sqrt(), gram.abs().sum(-1).amax(-1)
    bound = _not_zero(torch.minimum(*norms).sqrt().double() * (1 + 1e-5))
    return x / bound[:, None, None], 1 / (size * bound)


def _not_zero(size):
    return torch.where(size == 0, 1, size)


def polar(x0, l0, double, octaves=OCTAVES):
    """The polar factor Q (B, P, Q) of x0 = Q H.

    Args:
        x0: (B, P, Q) matrices, any strides, with singular values in [0, 1]. Those in [l0, 1]
            become 1 up to rounding, smaller ones less, and 0 stays 0.
        l0: (B,) float64, on the device.
        double: compute in float64, else in float32.
        octaves: l0 of less than 2^-octaves counts as that, and sets the launches.
    """
    if x0.shape[-2] < x0.shape[-1]:
        return polar(x0.mT, l0, double, octaves).mT
    dtype = torch.float64 if double else torch.float32
    coefficients, active = steps(l0, double, octaves)
    # A problem may begin at any step, and so in either of the two.
    x = torch.empty(x0.shape, dtype=dtype, device=x0.device).copy_(x0)
    after = x.clone()
    gram = x.new_empty((x.shape[0], x.shape[2], x.shape[2]))
    factor = torch.empty_like(gram)
    for of_step, now in zip(coefficients, active, strict=True):
        product(x.mT, x, gram, symmetric=True, active=now)
        product(
            gram, gram, factor, e=gram, coefficients=of_step, symmetric=True, active=now
        )  # fmt: skip
        product(x, factor, after, active=now)
        x, after = after, x
    return x
