"""Matching sorted rows on the CPU: cost and slopes of one block of rows at a time.

Each matching is an object with ``unit`` and a method ``block(u, v, rows)``; :func:`match` gives it
the rows block by block, on as many threads as torch may use. ``block`` returns the cost of each row
and, where a side is needed, leaves in it the derivative of that cost without its factor p; a row
that is not needed is scratch. Costs and slopes are still to be multiplied by ``unit``.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from otkernels._masses import COINCIDENT
from otkernels._quantiles import uniform_cells

from .rows import buffer, sort

# Elements sorted at a time, so that words, values and gaps stay in a core's second-level cache.
BLOCK = 2**15
# Below this many elements starting threads costs more than they save.
PARALLEL = 2**17

_POSITIONS = np.arange(BLOCK)


def match(matching, u, v):
    """Cost (float64) of each row of u (R, N) matched with v (R, M); overwrites both.

    v is None where the matching knows the other side.
    """
    rows, n = u.shape
    m = 0 if v is None else v.shape[1]
    cost = np.empty(rows)
    per_block = max(1, min(rows, BLOCK // max(n, m)))
    blocks = range(0, rows, per_block)

    def run(part):
        # Infinities and overflow flow, as in torch; the setting is one of each thread.
        with np.errstate(all="ignore"):
            for start in part:
                block = slice(start, min(start + per_block, rows))
                cost[block] = matching.block(u[block], None if v is None else v[block], block)

    threads = min(torch.get_num_threads(), len(blocks)) if u.size > PARALLEL else 1
    if threads <= 1:
        run(blocks)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, (blocks[i::threads] for i in range(threads))))
    return cost


class EqualSizes:
    """Rank against rank: N points of mass 1/N on both sides."""

    def __init__(self, n, p, need_u, need_v):
        self.unit = 1 / n
        self.p = p
        self.need_u = need_u
        self.need_v = need_v

    def block(self, u, v, rows):
        """See the module."""
        sorted_u, from_u = sort("u", u, _numbered(u.shape), self.need_u)
        sorted_v, from_v = sort("v", v, _numbered(v.shape), self.need_v)
        gap = np.subtract(sorted_u, sorted_v, out=sorted_u)
        power, slope = _power(gap, self.p)
        cost = power.sum(1)
        if self.need_u:
            u.reshape(-1)[from_u] = slope
        if self.need_v:
            v.reshape(-1)[from_v] = np.negative(slope, out=slope)
        return cost


class SortedTarget:
    """Rank against rank, the other side being known in order: target (N,), p = 2."""

    def __init__(self, target, need_u):
        self.unit = 1 / len(target)
        self.target = target
        self.need_u = need_u

    def block(self, u, v, rows):
        """See the module."""
        sorted_u, from_u = sort("u", u, _numbered(u.shape), self.need_u)
        gap = np.subtract(sorted_u, self.target, out=sorted_u)
        power, slope = _power(gap, 2)
        cost = power.sum(1)
        if self.need_u:
            u.reshape(-1)[from_u] = slope
        return cost


class UnequalSizes:
    """N against M points of equal mass on each side: the cells are the same in every row."""

    unit = 1.0

    def __init__(self, n, m, p, need_u, need_v, dtype):
        self.p = p
        self.need_u = need_u
        self.need_v = need_v
        self.i, self.j, mass = (t.numpy() for t in uniform_cells(n, m, "cpu"))
        self.mass = mass.astype(dtype)

    def block(self, u, v, rows):
        """See the module."""
        sorted_u, from_u = sort("u", u, _numbered(u.shape), self.need_u)
        sorted_v, from_v = sort("v", v, _numbered(v.shape), self.need_v)
        gap = sorted_u.take(self.i, axis=1)
        gap -= sorted_v.take(self.j, axis=1)
        power, slope = _power(gap, self.p)
        cost = power @ self.mass
        slope *= self.mass
        if self.need_u:
            u.reshape(-1)[from_u] = _sum_by_point(slope, self.i, u.shape)
        if self.need_v:
            v.reshape(-1)[from_v] = -_sum_by_point(slope, self.j, v.shape)
        return cost


class Weighted:
    """Any masses a (P, N) and b (P, M), float64, for P problems of ``rows_each`` rows.

    ``potential_u (R, N)`` and ``potential_v (R, M)``, where not None, receive the derivative of the
    cost to the masses, up to a constant in each row.
    """

    unit = 1.0

    def __init__(self, a, b, rows_each, p, need_u, need_v, potential_u=None, potential_v=None):
        self.a = a
        self.b = b
        self.rows_each = rows_each
        self.p = p
        self.need_u = need_u
        self.need_v = need_v
        self.potential_u = potential_u
        self.potential_v = potential_v

    def block(self, u, v, rows):
        """See the module."""
        problem = np.arange(rows.start, rows.stop) // self.rows_each
        sorted_u, from_u = sort("u", u, _numbered(u.shape), True)
        sorted_v, from_v = sort("v", v, _numbered(v.shape), True)
        levels_u = _levels(self.a[problem], from_u)
        levels_v = _levels(self.b[problem], from_v)
        i, j, mass = _merged_cells(levels_u, levels_v)
        gap = sorted_u.take(i)
        gap -= sorted_v.take(j)
        power, slope = _power(gap, self.p)
        mass = mass.astype(gap.dtype)
        power *= mass
        cost = power.sum(1)
        slope *= mass
        if self.need_u:
            u.reshape(-1)[from_u] = _sum_by_point(slope, i, u.shape)
        if self.need_v:
            v.reshape(-1)[from_v] = -_sum_by_point(slope, j, v.shape)
        sides = (sorted_u, levels_u, from_u), (sorted_v, levels_v, from_v)
        for potential, one, other in zip(
            (self.potential_u, self.potential_v), sides, sides[::-1], strict=True
        ):
            if potential is not None:
                potential[rows].reshape(-1)[one[2]] = _potential(*one[:2], *other[:2], self.p)
        return cost


def _numbered(shape):
    """The positions 0, 1, ... of the elements of a block."""
    size = shape[0] * shape[1]
    return (_POSITIONS[:size] if size <= len(_POSITIONS) else np.arange(size)).reshape(shape)


def _power(gap, p):
    """|gap|^p and sign(gap) |gap|^(p-1); may reuse gap's memory."""
    if p == 2:
        square = buffer("square", gap.size, gap.dtype.type).reshape(gap.shape)
        return np.multiply(gap, gap, out=square), gap
    size = np.abs(gap)
    if p == 1:
        return size, np.sign(gap, out=gap)
    slope = size ** (p - 1)
    return np.multiply(size, slope, out=size), np.copysign(slope, gap, out=slope)


def _sum_by_point(slope, point, shape):
    """Sums (R, N) of the slopes (R, K) of cells that have the same point.

    Points are numbered in the flat block or, the same in every row, (K,). NumPy's ``add.reduceat``
    takes six times as long for so few cells a point, ``bincount`` holds the interpreter's lock.
    """
    slope, point = torch.from_numpy(slope), torch.from_numpy(point)
    if point.dim() == 1:
        return slope.new_zeros(shape).index_add_(1, point, slope).numpy()
    total = slope.new_zeros(shape[0] * shape[1])
    return total.index_add_(0, point.view(-1), slope.view(-1)).view(shape).numpy()


def _levels(masses, order):
    """Cumulated masses in sorted order; the last is exactly 1."""
    # torch's sum runs across rows at once, a quarter of the time of NumPy's.
    levels = torch.from_numpy(masses.take(order)).cumsum(1)
    levels /= levels[:, -1:].clone()
    return levels.numpy()


def _merged_cells(levels_u, levels_v):
    """The cells between merged levels (R, N) and (R, M), for each row of the block.

    Returns, each (R, N + M), the positions i and j in the flat block of the points of each side and
    the mass. The lowest bit of a level says which side it is from, so sorting merges levels and
    sides; positive floats order as integers do. Of equal levels that of u comes first.
    """
    (rows, n), m = levels_u.shape, levels_v.shape[1]
    words = np.concatenate([levels_u, levels_v], axis=1).view(np.int64)
    words &= -2
    words[:, n:] |= 1
    words.sort(axis=1, kind="stable")  # which merges the two runs there are
    ends_v = words & 1
    j = ends_v.cumsum(axis=1)
    j -= ends_v
    i = np.arange(n + m) - j
    np.minimum(i, n - 1, out=i)
    np.minimum(j, m - 1, out=j)
    row = np.arange(rows)[:, None]
    i += row * n
    j += row * m
    levels = words.view(np.float64)
    return i, j, np.diff(levels, axis=1, prepend=0.0)


def _potential(u, levels_u, v, levels_v, p):
    """Kantorovich potential at the points of u (R, N), in sorted order and 0 at the last.

    See ``_moving_levels`` of otkernels/_quantiles.py, of which this is the sum from each rank on.
    """
    potential = np.zeros(u.shape)
    coincident = COINCIDENT * (u.shape[1] + v.shape[1])
    for row in range(len(u)):
        step = np.zeros(u.shape[1] - 1)
        for shift in (-coincident, coincident):
            j = np.searchsorted(levels_v[row], levels_u[row, :-1] + shift)
            other = v[row].take(np.minimum(j, v.shape[1] - 1))
            step += np.abs(u[row, :-1] - other) ** p - np.abs(u[row, 1:] - other) ** p
        potential[row, :-1] = np.cumsum(step[::-1])[::-1] / 2
    return potential
