"""Kernel discrepancies in float64, a block of pairs at a time, and how well conditioned they are.

A kernel is a function of squared distances and a bandwidth: its values, and their derivatives by
the squared distances. Values have one sign and derivatives too, so sums of their sizes are sizes of
their sums. A derivative at 0 is not used: the distance of two equal points has sub-gradient 0.
"""

import torch

from ..case import Expected

# Pairs of points held at a time, if that gives blocks of as many rows.
BLOCK, ROWS = 2**20, 64


def gaussian(r2, s):
    """Values and derivatives of exp(-r^2 / 2 s^2)."""
    k = torch.exp(r2 / (-2 * s**2))
    return k, k / (-2 * s**2)


def laplacian(r2, s):
    """Values and derivatives of exp(-r / s)."""
    r = r2.sqrt()
    k = torch.exp(-r / s)
    return k, k / (-2 * s * r)


def imq(r2, s):
    """Values and derivatives of s^2 / (s^2 + r^2)."""
    k = s**2 / (s**2 + r2)
    return k, -((k / s) ** 2)


def energy(r2, _):
    """Values and derivatives of -r."""
    r = r2.sqrt()
    return -r, -1 / (2 * r)


@torch.no_grad()
def expect(x, y, kernel, bandwidths=(None,), unbiased=False):
    """MMD^2 and its gradients for the sum of a kernel over some bandwidths, uniform masses.

    The longest chain of additions behind a value is D (a distance), then a row and a column of the
    kernel matrix; behind an entry of a gradient it is D, then a row. The value is a difference of
    three sums, the gradient one of two; the conditions say how much larger these are.
    """
    x, y = x.detach().double(), y.detach().double()
    centre = torch.cat([x, y], dim=-2).mean(-2, keepdim=True)
    clouds = x - centre, y - centre
    n, m = x.shape[-2], y.shape[-2]
    own_n, own_m = n - unbiased, m - unbiased  # partners of a point in its own cloud
    factors = {(0, 0): 1 / (n * own_n), (1, 1): 1 / (m * own_m), (0, 1): -2 / (n * m)}
    value, size = (x.new_zeros(x.shape[:-2]) for _ in range(2))
    grads, sizes = ([torch.zeros_like(cloud) for cloud in clouds] for _ in range(2))
    for (i, j), factor in factors.items():
        for block in _blocks(clouds[i], clouds[j]):
            p, q = clouds[i][..., block, :], clouds[j]
            k, slope = _pairs(kernel, bandwidths, p, q, block.start if i == j else None, unbiased)
            value += (part := factor * k.sum((-2, -1)))
            size += part.abs()
            sides = (i, block, slope, p, q), (j, slice(None), slope.mT, q, p)
            # Within a cloud rows and columns give the same.
            for side, where, w, at, to in sides[:1] if i == j else sides:
                move, length = _moves(w, at, to)
                times = (4 if i == j else 2) * factor
                grads[side][..., where, :] += times * move
                sizes[side][..., where, :] += abs(times) * length
    d, slack = x.shape[-1] + len(bandwidths), tuple(torch.zeros_like(g) for g in grads)
    return Expected(
        value,
        tuple(grads),
        slack,
        terms_value=d + n + m,
        terms_grad=d + max(n, m),
        condition_value=_largest(size) / _largest(value),
        condition_grad=max(_largest(s) / _largest(g) for s, g in zip(sizes, grads, strict=True)),
    )


def _blocks(p, q):
    """Slices of the rows of p that are taken against all of q at a time."""
    height = max(ROWS, BLOCK * q.shape[-1] // q.numel())
    return [slice(start, start + height) for start in range(0, p.shape[-2], height)]


def _pairs(kernel, bandwidths, p, q, own, unbiased):
    """Values and derivatives between p and q; the first point of p is number ``own`` of q."""
    p2, q2 = (t.square().sum(-1) for t in (p, q))
    r2 = (p2[..., :, None] + q2[..., None, :] - 2 * p @ q.mT).clamp_(min=0)
    if own is not None:
        r2.diagonal(own, -2, -1).zero_()
    k, slope = (sum(parts) for parts in zip(*(kernel(r2, s) for s in bandwidths), strict=True))
    if own is not None and unbiased:
        k.diagonal(own, -2, -1).zero_()
    return k, slope.masked_fill(r2 == 0, 0)


def _moves(w, at, to):
    """Sums over j of w_ij (at_i - to_j), and the sizes |w_ij| (|at_i| + |to_j|) of their parts."""
    ones = torch.ones_like(to[..., :1])
    sums = w @ torch.cat([to, to.abs(), ones], dim=-1)
    move, length, total = sums.split([at.shape[-1], at.shape[-1], 1], dim=-1)
    return total * at - move, (total * at.abs() + length).abs()


def _largest(t):
    return t.abs().max().item()
