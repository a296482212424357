"""Plans on the circle, on the CPU: fast sorts, and the search for the shift block by block.

A plan is integers (two orders and a shift), so the definition computes value and gradients from it
as from its own plan. This file is all that "cpu" adds; it halves the time of a call.

Cost per row, float32, beyond two sorts: for each of log2(2 lcm(N, M)) rounds (54 with weights) a
gather and eight operations on M numbers, with weights also M binary searches.
"""

import math

import numpy as np
import torch

from otkernels._circle import Levels, best_shift, cumulated, equal_levels, rounded_levels

from .rows import sort

# Points of the larger side in a block. A quarter of it costs half as much time again: the rounds
# are many small operations.
BLOCK = 2**17


def plan(u, v, a, b, p):
    """The raw op ``circle_plan``: see ``find_plan`` of otkernels/_circle.py."""
    (n, m), batch = (u.shape[-1], v.shape[-1]), u.shape[:-1]
    rows = [t.reshape(math.prod(batch), k).contiguous() for t, k in ((u, n), (v, m))]
    masses = [
        None if t is None else t.expand(*batch, k).reshape(math.prod(batch), k)
        for t, k in ((a, n), (b, m))
    ]
    orders = [torch.empty(t.shape, dtype=torch.int64) for t in rows]
    shift = torch.empty((len(rows[0]), 1), dtype=torch.int64)
    step = max(1, BLOCK // max(n, m))
    for start in range(0, len(shift), step):
        block = slice(start, start + step)
        (sorted_u, order_u), (sorted_v, order_v) = (
            _sorted(side, t[block].numpy()) for side, t in zip("uv", rows, strict=True)
        )
        orders[0][block], orders[1][block] = order_u, order_v
        if a is None:
            sides = equal_levels(n, m, u.device)
        else:
            pairs = zip(masses, (order_u, order_v), strict=True)
            sides = [_Levels(*rounded_levels(cumulated(t[block], o))) for t, o in pairs]
        shift[block] = best_shift(sorted_u, sorted_v, *sides, p)
    orders = (order.reshape(*batch, order.shape[-1]) for order in orders)
    return *orders, shift.reshape(*batch, 1)


def _sorted(side, rows):
    """Sorted rows and the place in its own row that each value came from."""
    index = np.arange(rows.size).reshape(rows.shape)
    values, order = sort(side, rows, index, True)
    return torch.from_numpy(values), torch.from_numpy(order - index[:, :1])


class _Levels(Levels):
    """Levels with NumPy's binary search, which profits from queries that are in order."""

    def point(self, t):
        """See ``Levels``."""
        turns = t >> (self.whole.bit_length() - 1)
        inside = (t - turns * self.whole).numpy()
        found = np.empty(t.shape, np.int64)
        for k, ends in enumerate(self.ends.numpy()):
            found[k] = np.searchsorted(ends, inside[k], "right")
        return torch.from_numpy(found) + turns * self.ends.shape[-1]
