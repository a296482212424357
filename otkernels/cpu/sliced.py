"""Sliced Wasserstein on the CPU: value and gradients in one pass over chunks of directions.

Cost per direction and point of one cloud, float32: one word of 8 bytes (or, where no gradient is
needed, one value of 4) sorted in cache, D multiply-adds for the projection and D for each gradient.
Unequal sizes add two gathers and two sums over N + M cells; weights another sort, of N + M words of
8 bytes.

Memory beyond the result: two chunks of at most ``CHUNK`` projections (or one direction of the
whole batch) and, per thread, up to 44 bytes for each element of a block, three times that with
weights. The calling thread keeps buffers of that size, some 10 MB, between calls. Workers, where
torch allows more threads, live for one chunk and keep none.
"""

import functools

import numpy as np
import torch

from otkernels._masses import equal_masses, flat, mean_grads, zero_grads
from otkernels._ops import accumulation_dtype, empty_grad

from .match import EqualSizes, SortedTarget, UnequalSizes, Weighted, match
from .rows import buffer

# Projections of one cloud held at a time. Smaller chunks read the cloud more often: with 2^19 a
# call with N = 65536, D = 64 takes a sixth longer.
CHUNK = 2**20
# Projections of a padded cloud from which problems are cut to size and handled one by one, though
# each costs a fixed millisecond or so; below, padding is carried along as points of mass 0.
ONE_BY_ONE = 2**12


def line(u, v, a, b, n, m, p, needs):
    """The raw op ``line``: rows u (..., L, N) and v (..., L, M); see otkernels.sliced."""
    if n is not None and _one_by_one(n, u, u.shape[-2]):
        each = functools.partial(line, a=None, b=None, n=None, m=None, p=p, needs=needs)
        return _each_problem(each, (u, v), (n, m), -1, (), needs)
    if n is not None:
        a, b = equal_masses(n, u.shape[-1]), equal_masses(m, v.shape[-1])
    dtype = accumulation_dtype(u.dtype)
    rows = [t.reshape(-1, *t.shape[-2:]).to(dtype, copy=True).contiguous() for t in (u, v)]
    mass_grads = zero_grads((a, b), needs[2:])
    cost, scale = _match_rows(rows, flat(a), flat(b), p, needs[:2], mass_grads)
    grads = [
        row.mul_(scale / u.shape[-2]).view(t.shape) if need else empty_grad(t, False)
        for t, row, need in zip((u, v), rows, needs[:2], strict=True)
    ]
    value, costs = _value(cost, u.shape[:-1], dtype)
    return value, costs, *grads, *mean_grads(mass_grads, costs)


def sliced(x, y, projections, a, b, n, m, p, needs):
    """The raw op ``sliced``: clouds (..., N, D) and (..., M, D); see otkernels.sliced."""
    if n is not None and _one_by_one(n, x[..., 0], projections.shape[-1]):
        each = functools.partial(sliced, a=None, b=None, n=None, m=None, p=p, needs=needs)
        return _each_problem(each, (x, y), (n, m), -2, (projections,), needs)
    if n is not None:
        a, b = equal_masses(n, x.shape[-2]), equal_masses(m, y.shape[-2])
    need_x, need_y, need_theta, *need_masses = needs
    slopes = need_x or need_theta, need_y or need_theta
    mass_grads = zero_grads((a, b), need_masses)
    flat_a, flat_b = flat(a), flat(b)
    value, costs, *grads = _sweep(
        (x, y),
        projections,
        needs[:3],
        lambda rows: _match_rows(rows, flat_a, flat_b, p, slopes, mass_grads),
    )
    return value, costs, *grads, *mean_grads(mass_grads, costs)


def to_normal(x, projections, target, n, needs):
    """The raw op ``to_normal``: a cloud (..., N, D), target (..., N); see otkernels.sliced."""
    if n is not None and n.numel():
        each = functools.partial(to_normal, n=None, needs=needs)
        return _each_problem(each, (x,), (n,), -2, (projections, target), needs)

    def match_rows(rows):
        # Problems of one size share one target.
        matching = SortedTarget(flat(target)[0, : x.shape[-2]].numpy(), any(needs))
        cost = match(matching, rows[0].view(-1, rows[0].shape[-1]).numpy(), None)
        return cost * matching.unit, 2 * matching.unit

    return _sweep((x,), projections, needs, match_rows)


def _sweep(clouds, projections, needs, match_rows):
    """Project clouds chunk by chunk, match, and gather the gradients to clouds and projections.

    ``match_rows(rows)`` takes the projections (B, l, N) of each cloud and returns the cost of each
    row and a factor, by which what it leaves in the rows becomes the derivative of that cost.
    """
    d, n_directions = projections.shape[-2:]
    flat_clouds = [t.reshape(-1, *t.shape[-2:]).to(projections.dtype) for t in clouds]
    batch, sizes = flat_clouds[0].shape[0], [t.shape[1] for t in flat_clouds]
    theta = projections.reshape(-1, d, n_directions).expand(batch, -1, -1)
    grads = [
        torch.zeros(t.shape, dtype=t.dtype) if need else None
        for t, need in zip((*flat_clouds, theta), needs, strict=True)
    ]
    cost = np.empty((batch, n_directions))
    for chunk, rows in _chunks(batch, n_directions, sizes, projections.dtype):
        part = theta[..., chunk]
        for cloud, out in zip(flat_clouds, rows, strict=True):
            torch.bmm(part.mT, cloud.mT, out=out)
        row_cost, scale = match_rows(rows)
        cost[:, chunk] = row_cost.reshape(batch, -1)
        for grad, slopes, cloud in zip(grads, rows, flat_clouds, strict=False):
            if grad is not None:
                grad.baddbmm_(slopes.mT, part.mT, alpha=scale / n_directions)
            if grads[-1] is not None:
                grads[-1][..., chunk].baddbmm_(cloud.mT, slopes.mT, alpha=scale / n_directions)
    given = (*clouds, projections)
    return *_value(cost, (*clouds[0].shape[:-2], n_directions), projections.dtype), *(
        empty_grad(t, False) if g is None else g.reshape(t.shape)
        for t, g in zip(given, grads, strict=True)
    )


def _chunks(batch, n_directions, sizes, dtype):
    """Slices of the directions, and uninitialised memory (batch, l, N) for each size N."""
    step = max(1, min(n_directions, CHUNK // max(1, batch * max(sizes))))
    numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
    memory = [
        torch.from_numpy(buffer(f"rows {k}", batch * step * n, numpy_dtype))
        for k, n in enumerate(sizes)
    ]
    for start in range(0, n_directions if batch else 0, step):
        length = min(step, n_directions - start)
        rows = [
            m[: batch * length * n].view(batch, length, n)
            for m, n in zip(memory, sizes, strict=True)
        ]
        yield slice(start, start + length), rows


def _match_rows(rows, a, b, p, needs, mass_grads):
    """Cost of each row of a pair (P, l, N) and (P, l, M), and the factor of what it leaves in them.

    Masses are (P, N) and (P, M) or None; the derivative to them, up to a constant, summed over the
    rows of a problem, is added to those of ``mass_grads`` that are not None.
    """
    problems, rows_each, n = rows[0].shape
    m = rows[1].shape[-1]
    flat = [t.view(-1, t.shape[-1]).numpy() for t in rows]
    potentials = [
        None if g is None else np.empty(r.shape) for g, r in zip(mass_grads, flat, strict=True)
    ]
    if a is not None:
        matching = Weighted(a.numpy(), b.numpy(), rows_each, p, *needs, *potentials)
    elif n == m:
        matching = EqualSizes(n, p, *needs)
    else:
        matching = UnequalSizes(n, m, p, *needs, flat[0].dtype)
    cost = match(matching, *flat)
    for grad, potential in zip(mass_grads, potentials, strict=True):
        if grad is not None:
            grad += torch.from_numpy(
                potential.reshape(problems, rows_each, potential.shape[1]).sum(1)
            )
    return cost * matching.unit, p * matching.unit


def _one_by_one(counts, points, n_rows):
    """Whether problems of points (..., N) and so many rows are cut to size, not weighed."""
    return counts.numel() > 0 and points.shape[-1] * n_rows > ONE_BY_ONE


def _each_problem(run, clouds, counts, axis, tensors, needs):
    """``run(*clouds, *tensors)`` for one problem at a time, with clouds cut to their counts.

    ``axis`` is that of the points of a cloud; ``needs`` says which gradients to clouds are wanted.
    The others of the results after value and costs are those to ``tensors`` and masses.
    """
    batch = counts[0].shape
    flat, tensors = (
        [t.reshape(-1, *t.shape[len(batch) :]) for t in group] for group in (clouds, tensors)
    )
    grads = [
        torch.zeros(t.shape, dtype=accumulation_dtype(t.dtype)) if need else empty_grad(t, False)
        for t, need in zip(flat, needs, strict=False)
    ]
    results = []
    for k, sizes in enumerate(zip(*(c.reshape(-1).tolist() for c in counts), strict=True)):
        cut = [t[k].narrow(axis, 0, size) for t, size in zip(flat, sizes, strict=True)]
        value, costs, *rest = run(*cut, *(t[k] for t in tensors))
        for grad, part, need, size in zip(grads, rest, needs, sizes, strict=False):
            if need:
                grad[k].narrow(axis, 0, size).copy_(part)
        results.append((value, costs, *rest[len(clouds) :]))
    value, costs, *rest = (torch.stack(r) for r in zip(*results, strict=True))
    return tuple(t.reshape((*batch, *t.shape[1:])) for t in (value, costs, *grads, *rest))


def _value(cost, shape, dtype):
    """Value (...) and costs (..., L) from the cost of each row, float64."""
    costs = torch.from_numpy(cost).reshape(shape)
    return costs.mean(-1).to(dtype), costs.to(dtype)
