"""The fidelity of two covariances, tr (S1^1/2 S2 S1^1/2)^1/2: the definition and its fast forms.

For any factors S = F F^T it is the nuclear norm of F1^T F2. With the polar factor Q of that
product, F1^T F2 = Q H, it is tr Q^T F1^T F2, with gradients F2 Q^T and F1 Q to the factors: no
eigenvalue is divided by another. Every Gaussian Wasserstein distance of the library is made of it.
"""

import torch

from . import _ops
from ._results import nan_everywhere
from ._roots import nuclear_norm, polar_factor, square_root, symmetric

# Residuals above which a fast form takes its slow and safe way.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
# Covariances in float64 that need not give float64's accuracy are those of points. Directions in
# which these extend less than a thousandth of their size are left to the safe way: T is large
# there, its rounding in float32 as well, and the gradient to the points is not.
FLAT = 1e-6

_SCHEMA = (
    "(Tensor x, Tensor? y, bool x_rows, bool y_rows, float cutoff, bool double, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _fake(x, y, x_rows, y_rows, cutoff, double, needs):
    value = x.new_empty(x.shape[:-2], dtype=torch.float64)
    grads = (
        value.new_empty((*value.shape, 0)) if t is None else _ops.empty_grad(t, need)
        for t, need in zip((x, y), needs, strict=True)
    )
    return value, torch.empty_like(value), torch.empty_like(value, dtype=torch.bool), *grads


# The raw op: value, residual and redone (...) as below, and the gradients to x and y. With
# ``double`` all of it is accurate to float64; without it as accurate as float32 iterations on
# float64 factors are.
_OPS = {
    impl: _ops.register(f"fidelity_{impl}", _SCHEMA, f"{folder}.bures:fidelity", _fake)
    for impl, folder in _ops.FOLDERS.items()
}


def fidelity(x, y=None, *, x_rows=False, y_rows=False, cutoff, double, impl="torch"):
    """Fidelity of two covariances, or of one and the identity: (*batch), float64.

    Args:
        x: (*batch, D, D) covariance; or, with ``x_rows``, (*batch, N, D) rows X of X^T X.
        y: the same for the other one; None is the identity.
        x_rows: whether x holds rows.
        y_rows: whether y holds rows.
        cutoff: eigenvalues of a covariance up to this times the largest count as 0.
        double: whether a fast form must be accurate to float64.
        impl: "torch", "cpu" or "triton".

    Returns:
        (value, residual, redone): residual (*batch), float64, is the relative error of what the
        gradient is made of, as far as its lack of symmetry shows it; redone (*batch) says for
        which problems a fast form had to take its slow and safe way.
    """
    if impl == "torch":
        value, residual = _definition(x, y, x_rows, y_rows, cutoff)
        redone = torch.zeros_like(residual, dtype=torch.bool)
    else:
        options = x_rows, y_rows, cutoff, double
        value, (residual, redone) = _ops.value_and_grad(_OPS[impl], (x, y), *options)
    return nan_everywhere(value), residual, redone


def regular_above(dtype, cutoff, double):
    """The part of the largest eigenvalue above which all must be for the fast way of a fast form.

    Args:
        dtype: of the covariance.
        cutoff: see :func:`fidelity`.
        double: see :func:`fidelity`.
    """
    return cutoff if double or dtype != torch.float64 else max(cutoff, FLAT)


def _definition(x, y, x_rows, y_rows, cutoff):
    """Value and residual of the raw op, the value differentiable to any order."""
    m = _factor(x, x_rows, cutoff).mT
    if y is not None:
        m = m @ _factor(y, y_rows, cutoff)
    with torch.no_grad():
        h = polar_factor(m).mT @ m
        size = torch.linalg.matrix_norm(h)
        residual = torch.linalg.matrix_norm(h - h.mT) / (2 * torch.where(size == 0, 1, size))
    return nuclear_norm(m), residual


def _factor(given, rows, cutoff):
    """F (*batch, D, K), float64, of the covariance F F^T."""
    given = given.double()
    return given.mT if rows else square_root(symmetric(given), cutoff)
