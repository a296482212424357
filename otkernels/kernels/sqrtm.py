"""Square roots of covariances, their inverses, and Lyapunov equations, on the GPU, for any D.

Root: from a factor S = F F^T, whose polar factor is U, S^1/2 = F U^T and S^-1/2 = U F^-1. One step
of Newton, X = (g F + F^-T / g) / 2, has the polar factor of F and only the root of its condition;
it is taken in float64, and so the minimax steps that follow may be in float32.

Lyapunov: sign [[H, C], [0, -H]] = [[I, 2 X], [0, -I]] with H X + X H = C (Roberts 1980). The same
step of Newton on the blocks, in float64, then the same minimax steps on the blocks.

Launches: root, the factor, 2 and 3 a step (``polar_large``); Lyapunov, the factor, 5 and 9 a step;
library calls of D^2 work besides. FLOP of a problem and K steps, K about 2 + log_4 (1 / l0) with
1 / l0 at most about the fourth root of S's condition and D^1/4 times that: root 3 D^3 and the
factor's in float64, 4 K D^3 in float32, (``double``: float64); Lyapunov 7 D^3 and 15 K D^3.
"""

import torch

from otkernels._ops import accumulation_dtype

from . import factor as tiles
from . import factor_large
from .polar_large import OCTAVES, polar, scaled, steps
from .products import product

# Octaves of lower ends that float64 problems need: singular ones begin at the deepest.
DEEP = 32


def square_root(a, inverse, cutoff):
    """The raw op ``square_root`` of a (..., D, D): see otkernels.sqrtm."""
    s = _symmetric(a.reshape(-1, *a.shape[-2:]).double())
    f, g, regular = _factor(s, cutoff)
    fine = regular[:, None, None] != 0
    least = torch.where(regular != 0, 1.0, 1 / _norm(g)[:, 0, 0])
    u = _polar(torch.where(fine, _newton(f, g.mT), f), least, a.dtype == torch.float64)
    left, right = (u, g) if inverse else (f, u.mT)
    root = _symmetric(product(left, right, torch.empty_like(s)))
    if inverse:
        root = torch.where(fine, root, torch.nan)
    return root.to(accumulation_dtype(a.dtype)).reshape(a.shape)


def _polar(x, least, double):
    """Polar factors of x (B, D, D), whose singular values are 0 or at least ``least`` (B,)."""
    x0, unit = scaled(x)
    return polar(x0, least * unit, double, DEEP if double else OCTAVES)


def _symmetric(t):
    return (t + t.mT) / 2


def _factor(s, cutoff):
    """The Factor of s (B, D, D), symmetric, float64 and contiguous."""
    return (tiles if s.shape[-1] <= tiles.LARGEST else factor_large).factor(s, cutoff)


def _norm(t):
    """Frobenius norms (B, 1, 1)."""
    return t.square().sum((-2, -1), keepdim=True).sqrt()


def _newton(m, v):
    """Half of g m + v / g with the g that makes both the same size."""
    g = (_norm(v) / _norm(m)).sqrt()
    return (g * m + v / g) / 2


def lyapunov(h, g):
    """The raw op ``lyapunov`` of h and g (..., D, D): see otkernels.sqrtm.

    Pivots up to 4 D^1/2 eps of the largest entry count as null, eps that of h's dtype; where both
    sides are null the result is 0, and where one is it is that of the pseudo-inverse.
    """
    double = torch.float64 in (h.dtype, g.dtype)
    eps = torch.finfo(accumulation_dtype(h.dtype)).eps
    h, c = (t.reshape(-1, *t.shape[-2:]).double() for t in (h, g))
    h = _symmetric(h)
    f, rows, regular = _factor(h, 4 * h.shape[-1] ** 0.5 * eps)
    inverse = product(rows.mT, rows, torch.empty_like(h), symmetric=True)
    h, inverse, c, rest = _without_null(h, f, rows, inverse, c, regular == 0, double)
    scale = (_norm(inverse) / _norm(h)).sqrt()
    pulled = product(inverse, product(c, inverse, torch.empty_like(c)), torch.empty_like(c))
    h0, unit = scaled((scale * h + inverse / scale) / 2)
    c0 = (scale * c + pulled / scale) * (unit[:, None, None] / 2)
    plan = steps(unit, double, DEEP if double else OCTAVES)
    x = _sign(h0, c0, *plan, torch.float64 if double else torch.float32)
    return (x.double() / 2 + rest).reshape(g.shape).to(g.dtype)


def _without_null(h, f, rows, inverse, c, singular, double):
    """The equation on the range of h, where ``singular``; other problems as they are.

    Args:
        h: (B, D, D) float64.
        f: F of h = F F^T.
        rows: G with G F = I on the range.
        inverse: the inverse of h; of a singular one G^T G.
        c: the right-hand side.
        singular: (B,).
        double: whether float64 is wanted.

    Returns:
        h and its inverse, regular: on the null space a number of their own size; c on the range
        of h; and what the solution holds between range and null space.
    """
    # Regular problems need no step, and take none with a lower end of 1.
    least = torch.where(singular, 1 / _norm(rows)[:, 0, 0], torch.inf)
    q = _polar(f, least, double)
    active, null = singular.int(), singular[:, None, None]
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)

    def both_sides(left, middle, right, start):
        half = product(left, middle, torch.zeros_like(h), active=active)
        return product(half, right, start.clone(), active=active)

    on_range = product(q, q.mT, torch.zeros_like(h), symmetric=True, active=active)
    off = torch.where(null, eye - on_range, 0)
    inverse = both_sides(on_range, inverse, on_range, inverse)
    between = both_sides(off, c, inverse, torch.zeros_like(h))
    between = between + both_sides(inverse, c, off, torch.zeros_like(h))
    c = both_sides(on_range, c, on_range, c)
    size = _norm(inverse)
    size = (_norm(h) / torch.where(size == 0, 1, size)).sqrt()
    size = torch.where(size == 0, 1, size)
    return h + size * off, inverse + off / size, c, between


def _sign(h, c, coefficients, active, dtype):
    """The upper right block of the sign of [[h, c], [0, -h]], h with eigenvalues in [l0, 1]."""
    first, second = coefficients.clone(), coefficients.clone()
    first[..., 2] = 0
    second[..., 1:] = torch.eye(2, dtype=torch.float64, device=h.device)[0]
    h, c = h.to(dtype), c.to(dtype)
    # A problem may begin at any step, and so in either of the two.
    h_after, c_after = h.clone(), c.clone()
    square, factor, skew, upper, half = (torch.empty_like(c) for _ in range(5))
    for whole, one, two, now in zip(coefficients, first, second, active, strict=True):
        # The square is [[K, -N], [0, K]], the polynomial of it [[P, -U], [0, P]].
        product(h, h, square, symmetric=True, active=now)
        product(h, c, half, active=now)
        product(c, h, skew, e=half, beta=-1, active=now)
        product(
            square, square, factor, e=square, coefficients=whole, symmetric=True, active=now
        )  # fmt: skip
        product(square, skew, half, e=skew, coefficients=one, active=now)
        product(skew, square, upper, e=half, coefficients=two, active=now)
        product(h, factor, h_after, symmetric=True, active=now)
        product(h, upper, half, active=now)
        product(c, factor, c_after, e=half, beta=-1, active=now)
        h, h_after, c, c_after = h_after, h, c_after, c
    return c
