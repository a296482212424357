"""Sliced Wasserstein on the GPU: chunk by chunk of directions, project, match, gather gradients.

For one chunk of l directions of B problems:

1. ``matmul``   U = theta^T x^T and V = theta^T y^T, rows contiguous                     2 launches
2. match        the rows of U and V: ``match.match`` for equal sizes and masses, else ``cells``
3. ``matmul``   grad += U^T theta^T for each cloud that needs a gradient, 2 l N D FLOP   0 to 2
                and x^T U^T + y^T V^T for the directions, if they do                     0 or 2

Work per chunk: 2 B l N D FLOP a product. Bytes per direction and point, float32: 8 written and 8
read for the projections, 4 read for each gradient, and those of the match. Scratch is that of one
chunk (``directions_per_chunk``).
"""

import torch

from otkernels._masses import flat, flat_counts, mean_grads, zero_grads
from otkernels._ops import accumulation_dtype, empty_grad

from .cells import Side, match_cells, sorted_side
from .match import MERGED, match
from .matmul import matmul

# Bytes of both projections of one chunk, though never less than one direction of every problem.
# They should stay in a GPU's second-level cache. Runs to be merged take up to four times that more.
# The library sort wants many rows at a time; its bytes are those of all the scratch, sorted values
# and int64 positions included, to which levels of weights add up to half.
CHUNK_BYTES = 24 * 2**20
CHUNK_BYTES_SORTED = 128 * 2**20
# The least side of a tile in the products.
DIRECTIONS = 16


def line(u, v, a, b, n, m, p, needs):
    """The raw op ``line``: rows u (..., L, N) and v (..., L, M); see otkernels.sliced."""
    dtype = accumulation_dtype(u.dtype)
    rows = [t.reshape(-1, *t.shape[-2:]).to(dtype, copy=True).contiguous() for t in (u, v)]
    mass_grads = zero_grads((a, b), needs[2:])
    masses = flat(a), flat(b)
    counts = flat_counts(n), flat_counts(m)
    cost = _match_rows(rows, masses, counts, u.shape[-2], p, needs[:2], mass_grads)
    costs = cost.reshape(u.shape[:-1])
    grads = [
        row.view(t.shape) if need else empty_grad(t, False)
        for t, row, need in zip((u, v), rows, needs[:2], strict=True)
    ]
    return costs.mean(-1), costs, *grads, *mean_grads(mass_grads, costs)


def sliced(x, y, projections, a, b, n, m, p, needs):
    """The raw op ``sliced``: clouds (..., N, D) and (..., M, D); see otkernels.sliced."""
    need_x, need_y, need_theta, *need_masses = needs
    slopes = need_x or need_theta, need_y or need_theta
    mass_grads = zero_grads((a, b), need_masses)
    masses = flat(a), flat(b)
    counts = flat_counts(n), flat_counts(m)
    total = projections.shape[-1]
    value, costs, *grads = _sweep(
        (x, y),
        projections,
        needs[:3],
        lambda rows: _match_rows(rows, masses, counts, total, p, slopes, mass_grads),
    )
    return value, costs, *grads, *mean_grads(mass_grads, costs)


def to_normal(x, projections, target, n, needs):
    """The raw op ``to_normal``: a cloud (..., N, D), target (..., N); see otkernels.sliced."""
    counts, need = flat_counts(n), any(needs)
    target = flat(target).contiguous()
    known = Side(target, target, target.shape[-1])
    total = projections.shape[-1]

    def match_rows(rows):
        row = rows[0].view(-1, rows[0].shape[-1])
        sides = sorted_side(row, need, counts=counts), known
        return match_cells(sides, (row, None), total, 2.0, (need, False), (counts, counts))

    return _sweep((x,), projections, needs, match_rows)


def _sweep(clouds, projections, needs, match_rows):
    """Project clouds chunk by chunk, match, and gather the gradients to clouds and projections.

    ``match_rows(rows)`` takes the projections (B, l, N) of each cloud, returns the cost (B l,) of
    each row and leaves in the rows the derivative of the mean cost.
    """
    d, total = projections.shape[-2:]
    dtype, device = projections.dtype, projections.device
    flat_clouds = [t.reshape(-1, *t.shape[-2:]) for t in clouds]
    batch, sizes = flat_clouds[0].shape[0], [t.shape[1] for t in flat_clouds]
    theta = projections.reshape(-1, d, total).expand(batch, -1, -1)
    grads = [
        torch.zeros(t.shape, dtype=dtype, device=device) if need else None
        for t, need in zip((*flat_clouds, theta), needs, strict=True)
    ]
    cost = torch.zeros(batch, total, dtype=dtype, device=device)
    step = directions_per_chunk(max(1, batch), max(sizes), dtype)
    for start in range(0, total if batch else 0, step):
        part = theta[..., start : start + step]
        rows = [torch.empty(batch, part.shape[-1], n, dtype=dtype, device=device) for n in sizes]
        for cloud, out in zip(flat_clouds, rows, strict=True):
            matmul(part.mT, cloud.mT, out)
        cost[:, start : start + step] = match_rows(rows).view(batch, -1)
        for grad, slopes, cloud in zip(grads, rows, flat_clouds, strict=False):
            if grad is not None:
                matmul(slopes.mT, part.mT, grad, accumulate=True)
            if grads[-1] is not None:
                of_part = grads[-1][..., start : start + step]
                matmul(cloud.mT, slopes.mT, of_part, accumulate=True)
    costs = cost.reshape(*clouds[0].shape[:-2], total)
    return (
        costs.mean(-1),
        costs,
        *(
            empty_grad(t, False) if g is None else g.reshape(t.shape)
            for t, g in zip((*clouds, projections), grads, strict=True)
        ),
    )


def _match_rows(rows, masses, counts, directions, p, needs, mass_grads):
    """Cost of each pair of rows (P, l, N) and (P, l, M): (P l,).

    Where needed, rows are left holding the derivative of the mean cost over ``directions`` rows;
    otherwise their content is scratch.
    """
    pair = [t.view(-1, t.shape[-1]) for t in rows]
    if pair[0].shape[0] == 0:
        return pair[0].new_empty(0)
    if pair[0].shape == pair[1].shape and masses[0] is None and counts[0] is None:
        return match(*pair, directions, p, *needs) / pair[0].shape[1]
    sides = [
        sorted_side(row, need, mass, count)
        for row, need, mass, count in zip(pair, needs, masses, counts, strict=True)
    ]
    return match_cells(sides, pair, directions, p, needs, counts, mass_grads)


def directions_per_chunk(batch, n, dtype):
    """How many directions to handle at a time, in whole tiles of the products if that many fit."""
    if dtype == torch.float32 and n <= MERGED:
        fit = CHUNK_BYTES // (2 * dtype.itemsize * n * batch)
    else:
        fit = CHUNK_BYTES_SORTED // (2 * (2 * dtype.itemsize + 8) * n * batch)
    return max(1, fit // DIRECTIONS * DIRECTIONS or fit)
