"""Permutation test of whether two samples have one law, by the maximum mean discrepancy.

For a relabelling h, 1 at the N points that it calls x and 0 at the others, the sums of ``mmd`` are
quadratic in h: with the pooled kernel matrix K,

    xx = h' K h,   xy = h' K (1 - h),   yy = (1 - h)' K (1 - h) = 1' K 1 - xx - 2 xy.

So the kernel is evaluated once, tile by tile of its upper triangle, and each tile multiplies all
relabellings at once; neither K nor a row of it is ever kept.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check, _ops
from . import bandwidth as bandwidths
from ._kernels import KERNELS, diagonal, summed
from ._measures import Measures
from ._types import Bandwidth, Kernel
from .mmd import clouds

__all__ = ["MMDTest", "mmd_test"]

TILE = 1024  # points at each side of a tile of the kernel matrix
DRAWN = 2**22  # numbers drawn at once for the relabellings


class MMDTest(NamedTuple):
    """What :func:`mmd_test` returns, all float64.

    Attributes:
        statistic: (...) MMD^2 of the samples as given, at the bandwidth of this call: a "median" of
            part of the points depends on the part drawn.
        p_value: (...) from 1 / (1 + P) to 1.
        permuted: (..., P) MMD^2 of the relabelled samples.
    """

    statistic: torch.Tensor
    p_value: torch.Tensor
    permuted: torch.Tensor


def mmd_test(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = "gaussian",
    bandwidth: Bandwidth = "median",
    n_permutations: int = 1000,
    unbiased: bool = True,
    generator: torch.Generator | None = None,
    validate: bool = False,
) -> MMDTest:
    """Permutation test of whether x and y are samples of one law.

    The statistic is MMD^2 (Gretton, Borgwardt, Rasch, Schoelkopf, Smola 2012, "A kernel two-sample
    test"); with ``kernel="energy"`` this is the energy test (Szekely, Rizzo 2004). It is compared
    with those of P random relabellings of the pooled points, N of them called x:

        p = (1 + number of relabellings whose statistic is no smaller) / (1 + P),

    which counts the labels as given, is never 0, and under the null hypothesis satisfies
    P(p <= alpha) <= alpha at every sample size (Phipson, Smyth 2010, "Permutation p-values should
    never be zero"). Statistics that differ by less than their rounding count as equal.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's. Each problem
            of a batch is a test of its own, with relabellings of its own.
        kernel: name of the kernel, see :func:`otkernels.mmd`.
        bandwidth: as for :func:`otkernels.mmd`. "median" is :func:`otkernels.median_bandwidth` of
            the pooled points in random order: where that looks at a part of them, the part is drawn
            whatever the labels. A choice that depended on labels would spoil the level.
        n_permutations: number P of relabellings.
        unbiased: use the U-statistic; False is the V-statistic. With N = M and a kernel of
            distances both give the same p.
        generator: source of randomness on x's device; None is torch's global stream.
        validate: check values too, which waits for a GPU: points finite, bandwidths positive.

    Returns:
        :class:`MMDTest`, without gradient. NaN for a problem with a point that is not finite, or
        whose distances are not.

    Raises:
        ValueError: shape, dtype, device or generator that does not fit, an unknown kernel, a
            bandwidth that is not positive, n_permutations < 1, ``unbiased`` with one point, and
            with ``validate`` whatever that checks.
        TypeError: not a floating tensor.

    Cost, for n = N + M points a problem: n^2 / 2 kernel values, each computed once in the precision
        of the points, and n^2 P / 2 additions in float64. Memory: n P bytes, and some 40 kB for
        each relabelling.

    >>> import torch
    >>> x = torch.linspace(0, 1, 20)[:, None]
    >>> mmd_test(x, x + 2, n_permutations=99, generator=torch.Generator().manual_seed(0)).p_value
    tensor(0.0100, dtype=torch.float64)
    """
    name = "mmd_test"
    _check.one_of(name, "kernel", kernel, KERNELS)
    _check.positive_int(name, "n_permutations", n_permutations)
    measures = clouds(name, x, y, (None, None), (None, None), unbiased, validate)
    _check.generator(name, generator, x.device)
    with torch.no_grad(), _ops.without_autocast(x.device):
        points, is_x = _shuffled(measures, generator)
        rates = _rates(name, points, measures.sizes, kernel, bandwidth, validate)
        batch = torch.broadcast_shapes(measures.batch, rates.shape[:-1])
        statistics = x.new_empty((*batch, 1 + n_permutations), dtype=torch.float64)
        rounding = x.new_empty(batch, dtype=torch.float64)
        points, is_x, rates = (
            t.expand(*batch, *t.shape[-axes:]) for t, axes in ((points, 2), (is_x, 1), (rates, 1))
        )
        for k in itertools.product(*map(range, batch)):  # one problem's relabellings at a time
            labels = _relabellings(is_x[k], measures.sizes[0], n_permutations, generator)
            sums = _sums(points[k], labels, rates[k], KERNELS[kernel].profile)
            statistics[k], rounding[k] = _statistics(sums, measures.sizes, unbiased)
        finite = points.isfinite().all(-1).all(-1)
        statistics = torch.where(finite[..., None], statistics, torch.nan)
        return _compared(statistics, rounding)


def _compared(statistics, rounding):
    """The result for statistics (..., 1 + P), the observed one first."""
    observed, permuted = statistics[..., 0], statistics[..., 1:]
    as_large = permuted >= (observed - rounding)[..., None]
    p_value = (1 + as_large.sum(-1)).double() / (1 + permuted.shape[-1])
    return MMDTest(observed, torch.where(observed.isnan(), torch.nan, p_value), permuted)


def _shuffled(measures, generator):
    """The pooled points (*batch, n, D) in random order, and which of them are of x: (*batch, n)."""
    points = torch.cat(tuple(measures.point_sets()), dim=-2)
    points = points.to(_ops.accumulation_dtype(points.dtype))
    order = _random_order(points.shape[:-1], points.device, generator)
    is_x = order < measures.sizes[0]
    return points.gather(-2, order[..., None].expand(points.shape)), is_x


def _random_order(shape, device, generator):
    """A uniform permutation along the last axis. Float64, in which draws do not coincide."""
    options = {"dtype": torch.float64, "device": device, **_ops.stream(generator)}
    return torch.rand(shape, **options).argsort(-1)


def _rates(function, points, sizes, kernel, bandwidth, validate):
    """Rates of the kernel, blind to labels: the points have none that a median could look at."""
    none = None, None
    sets = Measures(function, -2, ("x", "y"), points.split(sizes, dim=-2), none, none, False)
    return bandwidths.rates(sets, kernel, bandwidth, validate)


def _relabellings(is_x, n_x, n_permutations, generator):
    """Labels (1 + P, n): those given, and P times n_x of the points at random."""
    n = len(is_x)
    labels = is_x.new_empty(1 + n_permutations, n)
    labels[0] = is_x
    for rows in labels[1:].split(max(1, DRAWN // n)):
        rows.copy_(_random_order(rows.shape, is_x.device, generator) < n_x)
    return labels


class _Sums(NamedTuple):
    """Sums of the kernel for each labelling (1 + P), float64; pairs are of different points."""

    within_x: torch.Tensor
    between: torch.Tensor
    own_x: torch.Tensor  # of each point of x with itself
    total: torch.Tensor  # over all pairs, whatever the labels
    own: torch.Tensor  # of all points with themselves
    size: torch.Tensor  # of all absolute values


def _sums(points, labels, rates, profile):
    """:class:`_Sums` of points (n, D) under labels (1 + P, n).

    Products are float64: labellings that tie must not be told apart by the order of a sum.
    """
    own = diagonal(profile, points, rates).double()
    within_x, between, own_x = (own.new_zeros(len(labels)) for _ in range(3))
    total, size = own.new_zeros(()), own.abs().sum()
    parts = [slice(start, start + TILE) for start in range(0, len(points), TILE)]
    for i, part in enumerate(parts):
        left = labels[:, part].double()
        own_x += left @ own[part]
        for j in range(i, len(parts)):
            tile = _tile(profile, points[part], points[parts[j]], rates)
            tile = tile.triu(1) if i == j else tile
            rows = tile.sum(-1)
            right = labels[:, parts[j]].double() @ tile.mT
            both = (left * right).sum(-1)
            within_x += 2 * both
            between += left @ rows + right.sum(-1) - 2 * both
            total += 2 * rows.sum()
            size += 2 * tile.abs().sum()
    return _Sums(within_x, between, own_x, total, own.sum(), size)


def _tile(profile, x, y, rates):
    """Kernel between points (N, D) and (M, D): (N, M), rounded as the points are, then float64."""
    if profile == "polynomial":
        u = (x.double() @ y.double().mT).to(x.dtype)
    else:
        u = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return summed(profile, u, rates).double()


def _statistics(sums, sizes, unbiased):
    """MMD^2 of each labelling (1 + P), and how much of a difference () may be rounding."""
    n, m = sizes
    within_x = sums.within_x
    within_y = sums.total - within_x - 2 * sums.between
    if unbiased:
        pairs_x, pairs_y = n * (n - 1), m * (m - 1)
    else:
        pairs_x, pairs_y = n**2, m**2
        within_x = within_x + sums.own_x
        within_y = within_y + sums.own - sums.own_x
    value = within_x / pairs_x + within_y / pairs_y - 2 * sums.between / (n * m)
    largest = sums.size * (1 / pairs_x + 1 / pairs_y + 2 / (n * m))
    return value, (1 + math.sqrt(n + m)) * torch.finfo(value.dtype).eps * largest
