"""Weighted sums of a kernel within and between two clouds: the definition and its fast forms.

    sum_{i != j} a_i a_j k(x_i, x_j),  sum_{i != j} b_i b_j k(y_i, y_j),  sum_ij a_i b_j k(x_i, y_j)

Every discrepancy of the library is a combination of these three and of the diagonals.
"""

import torch

from . import _ops
from ._kernels import KERNELS, diagonal, kernel_matrix
from ._results import nan_everywhere

ALL_TERMS = (True, True, True)

_SCHEMA = (
    "(Tensor x, Tensor y, Tensor? a, Tensor? b, Tensor? coefficients, Tensor rates, Tensor? n,"
    " Tensor? m, str profile, bool[] terms, bool fast, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _fake(x, y, a, b, coefficients, rates, n, m, profile, terms, fast, needs):
    value = x.new_empty(x.shape[:-2], dtype=torch.float64)
    given = (x, y, a, b, coefficients)
    grads = (
        value.new_empty((*value.shape, 0)) if t is None else _ops.empty_grad(t, need)
        for t, need in zip(given, needs, strict=True)
    )
    return value, *grads


# The raw op: value (...), float64, of sum_t coefficients[t] sums[t] over the sums xx, yy, xy that
# ``terms`` asks for, and its gradients to x, y, a, b and coefficients. Without masses each point
# has 1/N, without coefficients they are 1, 1, -2. Counts n, m (...) are hints: points past them
# have mass 0. ``fast`` permits half-precision products.
_OPS = {
    impl: _ops.register(f"kernel_sums_{impl}", _SCHEMA, f"{folder}.mmd:kernel_sums", _fake)
    for impl, folder in _ops.FOLDERS.items()
}


def discrepancy(
    x,
    y,
    a,
    b,
    rates,
    *,
    kernel,
    unbiased=False,
    terms=ALL_TERMS,
    counts=(None, None),
    fast=False,
    impl="torch",
):
    """Kernel mean of pairs within x, plus that within y, less twice that between: (...), float64.

    Args:
        x: (*batch, N, D) points.
        y: (*batch, M, D) points.
        a: (*batch, N) masses, float64; None is 1/N each.
        b: (*batch, M) masses, float64; None is 1/M each.
        rates: (..., K) rates of the kernel, see ``_kernels``.
        kernel: name of the kernel.
        unbiased: leave out pairs of a point with itself and divide by the mass of the others,
            1 - sum a_i^2; NaN where that is 0.
        terms: which of the terms xx, yy, xy to add up.
        counts: numbers of points (*batch) past which masses are 0, if that is known.
        fast: permit half-precision products.
        impl: "torch", "cpu" or "triton".
    """
    if kernel == "polynomial" and not unbiased:
        # Pairs of different points and diagonal have large gradients that cancel: half types would
        # round each of them.
        x, y = (t.to(_ops.accumulation_dtype(t.dtype)) for t in (x, y))
    coefficients = _coefficients(x, a, b, y.shape[-2]) if unbiased else None
    options = {"kernel": kernel, "terms": terms, "counts": counts, "fast": fast, "impl": impl}
    value = pair_sums(x, y, a, b, rates, coefficients=coefficients, **options)
    if not unbiased:
        for points, masses, wanted in zip((x, y), (a, b), terms, strict=False):
            if wanted:
                value = value + diagonal_sum(points, masses, rates, kernel)
    return nan_everywhere(value)


def pair_sums(
    x,
    y,
    a,
    b,
    rates,
    *,
    kernel,
    coefficients=None,
    terms=ALL_TERMS,
    counts=(None, None),
    fast=False,
    impl="torch",
):
    """Kernel sums over pairs of different points, combined: (*batch), float64.

    Args as those of :func:`discrepancy`; ``coefficients (*batch, 3)`` of the sums xx, yy, xy are
    1, 1, -2 if None.
    """
    profile = KERNELS[kernel].profile
    rates = rates.expand(*x.shape[:-2], rates.shape[-1])
    if impl == "torch":
        value = _definition(x, y, a, b, coefficients, rates, profile, terms)
    else:
        tensors = x, y, a, b, coefficients
        options = rates, *counts, profile, list(terms), fast
        value, _ = _ops.value_and_grad(_OPS[impl], tensors, *options)
    # Most kernels are 0 at infinity, so a point that is infinite, or whose square is, would pass
    # for one that is far away.
    for points in (x, y):
        value = value + (points.detach().to(rates.dtype).square() * 0).sum((-2, -1))
    return value


def _definition(x, y, a, b, coefficients, rates, profile, terms):
    """The value of the raw op, differentiable to any order."""
    dtype = _ops.accumulation_dtype(x.dtype)
    x, y = x.to(dtype), y.to(dtype)
    a, b = (
        t.new_full(t.shape[:-1], 1 / t.shape[-2], dtype=torch.float64) if masses is None else masses
        for t, masses in ((x, a), (y, b))
    )
    parts = (1, 1, -2) if coefficients is None else coefficients.unbind(-1)
    sums = (
        lambda: _sum(_off_diagonal(kernel_matrix(profile, x, x, rates)), a, a),
        lambda: _sum(_off_diagonal(kernel_matrix(profile, y, y, rates)), b, b),
        lambda: _sum(kernel_matrix(profile, x, y, rates), a, b),
    )
    return sum(c * s() for c, s, wanted in zip(parts, sums, terms, strict=True) if wanted)


def _off_diagonal(matrix):
    own = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(own, 0)


def _sum(matrix, a, b):
    """Sum of a_i matrix_ij b_j, in float64: the value is a small difference of such sums."""
    rows = (matrix * b.to(matrix.dtype)[..., None, :]).sum(-1, dtype=torch.float64)
    return (rows * a).sum(-1)


def diagonal_sum(points, masses, rates, kernel):
    """Sum of mass^2 k(point, point): (...), float64."""
    own = diagonal(KERNELS[kernel].profile, points.to(rates.dtype), rates).double()
    if masses is None:
        return own.sum(-1) / own.shape[-1] ** 2
    return (own * masses.square()).sum(-1)


def _coefficients(x, a, b, m):
    """What makes U-statistics of the sums xx, yy, xy: (*batch, 3), float64."""
    each = []
    for masses, size in ((a, x.shape[-2]), (b, m)):
        if masses is None:
            value = 1 / (1 - 1 / size) if size > 1 else torch.nan
            each.append(x.new_full(x.shape[:-2], value, dtype=torch.float64))
        else:
            rest = 1 - masses.square().sum(-1)
            each.append(1 / torch.where(rest > 0, rest, torch.nan))
    return torch.stack([*each, torch.full_like(each[0], -2)], dim=-1)
