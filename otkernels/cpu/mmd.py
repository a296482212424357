"""Kernel sums on the CPU: value and gradients in one pass over tiles of pairs; see ``pairs``.

Cost per pair, float32: 2 (D + 2) operations for the distance, one exp2 (or root, or reciprocal) for
each rate, and 2 (D + 1) for each of the two clouds whose gradient is needed. There are N M pairs
between clouds and N^2 / 2 within one, each of which serves two points (N^2 in clouds that fit a
tile). So with N = M and the gradient to x, a call has some 8 D N^2 operations and 2 N^2 exp2. Each
pair reads or writes 8 (D + 2) / SIDE bytes outside its tile.

Memory beyond inputs and gradients: up to nine numbers for each coordinate of one cloud, and five
tiles of at most SIDE^2 numbers. No more than GROUP numbers of a cloud are prepared at a time if
there are many problems.
"""

import math

import torch

from otkernels._ops import accumulation_dtype, empty_grad

from .pairs import Pairs, Side, takes_differences
from .pooled import pooled_points, pooled_sums
from .profiles import FORMS

# Numbers of a cloud prepared at a time, where there are many problems.
GROUP = 2**20
# Pairs of a padded problem from which it is cut to size and handled alone; smaller ones carry their
# padding along as points of mass 0, as handling a problem takes a millisecond or so at least.
ALONE = 2**14
# Where rate |x|^2 is larger than this, float32 is too short for distances out of products: wrong by
# some 1e-5 / rate. Such clouds are handled in float64. With distances out of differences only the
# gradient suffers, with the root of rate |x|^2, and the limit is the square of this.
WIDE = 64.0
# So few pairs do not average their roundings out, and cost nothing in float64 either.
FEW = 2**10


def kernel_sums(x, y, a, b, coefficients, rates, n, m, profile, terms, fast, needs):
    """The raw op ``kernel_sums``: see otkernels/_kernel_sums.py.

    ``fast`` changes nothing here. Masses past the counts get gradient 0.
    """
    given, batch = (x, y, a, b, coefficients), x.shape[:-2]
    problems = math.prod(batch)
    grads = [
        torch.zeros((problems, *t.shape[len(batch) :]), dtype=accumulation_dtype(t.dtype))
        if need and t is not None
        else None
        for t, need in zip(given, needs, strict=True)
    ]
    x, y, a, b, coefficients, rates, n, m = (
        None if t is None else t.reshape(problems, *t.shape[len(batch) :])
        for t in (x, y, a, b, coefficients, rates, n, m)
    )
    wanted = [t for t in range(3) if terms[t]]
    factors = x.new_tensor([1.0, 1.0, -2.0], dtype=torch.float64).expand(problems, 3)
    factors = factors if coefficients is None else coefficients
    sums = torch.zeros((problems, 3), dtype=torch.float64)
    z = pooled_points(x, y, rates, profile)
    if z is not None:
        _pool(z, x.shape[1], (a, b), (n, m), factors, rates, profile, terms, sums, grads)
    else:
        _sweep(x, y, (a, b), (n, m), factors, rates, profile, wanted, sums, grads)
    value = (sums * factors)[:, wanted].sum(-1)
    if grads[4] is not None:
        grads[4].copy_(sums)
    return value.reshape(batch), *(
        value.new_empty((*batch, 0))
        if t is None
        else (empty_grad(t, False) if grad is None else grad.reshape(t.shape))
        for t, grad in zip(given, grads, strict=True)
    )


def _pool(z, n, masses, counts, factors, rates, profile, terms, sums, grads):
    """Small problems: writes sums (P, 3) and gradients in place."""
    sizes = n, z.shape[1] - n
    masses = [
        z.new_full((len(z), size), 1 / size) if t is None else t
        for t, size in zip(masses, sizes, strict=True)
    ]
    wanted = torch.tensor(terms)
    found, pulls = pooled_sums(
        z,
        n,
        torch.cat(masses, dim=1),
        torch.where(wanted, factors, 0),
        rates,
        profile,
        [g is not None for g in grads[:4]],
    )
    sums.copy_(torch.where(wanted, found, 0))
    for grad, pull in zip(grads, pulls, strict=False):
        if pull is not None:
            grad.copy_(pull)
    for grad, count in zip(grads[2:4], counts, strict=True):
        if grad is not None and count is not None:
            grad.masked_fill_(torch.arange(grad.shape[1]) >= count[:, None], 0)


def _sweep(x, y, masses, counts, factors, rates, profile, wanted, sums, grads):
    """Problems of any size, in tiles: writes sums (P, 3) and gradients in place."""
    for p, *sizes in _parts(x, y, *counts):
        clouds = [
            _Cloud(
                *(None if t is None else t[p, :size] for t in tensors),
                None if count is None else count[p],
            )
            for size, count, *tensors in zip(
                sizes, counts, (x, y), masses, grads[:2], grads[2:4], strict=True
            )
        ]
        sums[p] = _sums(clouds, factors[p], rates[p], profile, wanted)


def _parts(x, y, n, m):
    """Slices of the problems to handle together, each with the sizes to which clouds are cut."""
    sizes = x.shape[1], y.shape[1]
    if n is not None and math.prod(sizes) >= ALONE:
        for k, cut in enumerate(zip(n.tolist(), m.tolist(), strict=True)):
            yield slice(k, k + 1), *cut
        return
    step = max(1, GROUP // (max(sizes) * x.shape[2]))
    for start in range(0, len(x), step):
        yield slice(start, start + step), *sizes


class _Cloud:
    """Points of some problems, their masses, and the gradients to both.

    Args:
        points: (P, N, D).
        masses: (P, N), float64; None is 1/N.
        grad: zeros (P, N, D) for the gradient; None is not needed.
        mass_grad: zeros (P, N) for that to masses; None is not needed.
        counts: (P,): points past them are padding of mass 0; None is none of them.
    """

    def __init__(self, points, masses, grad, mass_grad, counts):
        n = points.shape[1]
        self.points = points.mT.to(accumulation_dtype(points.dtype)).contiguous()
        self.grad, self.mass_grad = grad, mass_grad
        self.padding = None if counts is None else torch.arange(n) >= counts[:, None]
        # Uniform masses are 1 of a unit: exact, and nothing to multiply with.
        self.masses, self.unit = masses, 1 / n if masses is None else 1.0

    @property
    def wanted(self):
        """Whether any gradient is."""
        return self.grad is not None or self.mass_grad is not None

    def centre(self):
        """Mean of the points: (P, D, 1)."""
        if self.masses is None:
            return self.points.mean(-1, keepdim=True)
        return self.points @ self.masses.to(self.points.dtype)[..., None]

    def side(self, centre, dtype):
        """A side of a sum over pairs, whose products are taken about a centre (P, D, 1)."""
        given = self.points.to(dtype)
        weights = None if self.masses is None else self.masses.to(dtype)
        return Side(given, given - centre, weights, self.grad is not None)

    def weigh(self, numbers):
        """Numbers (P, N), one a point, times mass."""
        return numbers * (self.unit if self.masses is None else self.masses)

    def take(self, side, pairs, factor):
        """Add what a sum over pairs, times ``factor`` (P, 1), has found for a side."""
        if self.grad is not None:
            self.grad += pairs.gradient(side, self.weigh(factor)).mT
        if self.mass_grad is not None:
            found = factor * side.sums
            if self.padding is not None:
                found.masked_fill_(self.padding, 0)
            self.mass_grad += found


def _sums(clouds, coefficients, rates, profile, wanted):
    """The sums xx, yy, xy (P, 3), or those of them wanted; adds their gradients to the clouds'."""
    sums = torch.zeros((len(rates), 3), dtype=torch.float64)
    for t in wanted:
        pair = (clouds[:1], clouds[1:], clouds)[t]
        sums[:, t] = _sum(pair, coefficients[:, t, None], rates, profile)
    return sums


def _sum(clouds, coefficient, rates, profile):
    """Sum (P,) over the pairs within one cloud or between two; adds to their gradients."""
    sides = _sides(clouds, rates, profile)
    pairs = Pairs(profile, sides, rates.to(sides[0].points.dtype), both=clouds[-1].wanted)
    pairs.run()
    for cloud, side, other in zip(clouds, sides, reversed(clouds), strict=True):
        # A point of a single cloud is met as the first of a pair and as the second.
        factor = coefficient * other.unit * (3 - len(clouds))
        cloud.take(side, pairs, factor)
    return clouds[0].weigh(sides[0].sums).sum(-1) * clouds[-1].unit


def _sides(clouds, rates, profile):
    """The clouds as sides of a sum over pairs, about their common middle."""
    first, last = clouds[0].points, clouds[-1].points
    if profile == "polynomial":
        return [c.side(0.0, first.dtype) for c in clouds]
    centre = sum(c.centre() for c in clouds) / len(clouds)
    few = first.shape[-1] * last.shape[-1] <= FEW
    sides = [c.side(centre, torch.float64 if few else first.dtype) for c in clouds]
    if sides[0].norms.dtype == torch.float32 and not FORMS[profile].root:
        limit = WIDE**2 if takes_differences(profile, first) else WIDE
        norms = torch.stack([side.norms.amax(-1) for side in sides]).amax(0)
        if (rates.amax(-1) * norms > limit).any():
            return [c.side(centre, torch.float64) for c in clouds]
    return sides
