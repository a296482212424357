"""Square roots of covariance matrices and their inverses."""

import torch
from torch import Tensor

from . import _check, _ops, _roots
from ._types import Impl

__all__ = ["inv_sqrtm", "sqrtm"]


def _fake_root(a, inverse, cutoff):
    return torch.empty_like(a, dtype=_ops.accumulation_dtype(a.dtype))


def _fake_lyapunov(h, g):
    return torch.empty_like(g)


# The raw ops. Root or inverse root; solution x of h x + x h = g for positive semi-definite h.
_ROOTS = {
    impl: _ops.register(
        f"square_root_{impl}",
        "(Tensor a, bool inverse, float cutoff) -> Tensor",
        f"{folder}.sqrtm:square_root",
        _fake_root,
    )
    for impl, folder in _ops.FOLDERS.items()
}
_LYAPUNOV = {
    impl: _ops.register(
        f"lyapunov_{impl}",
        "(Tensor h, Tensor g) -> Tensor",
        f"{folder}.sqrtm:lyapunov",
        _fake_lyapunov,
    )
    for impl, folder in _ops.FOLDERS.items()
}


def sqrtm(a: Tensor, *, validate: bool = False, impl: Impl | None = None) -> Tensor:
    """Square root of symmetric positive semi-definite matrices.

    The one symmetric positive semi-definite S with S S = A: from eigenvalues in float64 on the
    CPU; on a GPU from a Cholesky factor L and its polar factor U, S = L U^T, without them (Higham
    2008, "Functions of Matrices", chapters 6 and 8; docs/math.md, "Gaussian Wasserstein
    distance"). The scale of every matrix is its own.

    Args:
        a: (..., D, D) symmetric positive semi-definite matrices, float16, bfloat16, float32 or
            float64, of any unit; the symmetric part counts. Eigenvalues up to the dtype's eps (for
            float64 D eps) times the largest count as 0.
        validate: check values too, which waits for a GPU: finite, symmetric up to rounding, no
            negative eigenvalue beyond rounding.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU.

    Returns:
        (..., D, D) roots, symmetric, in the root of A's unit; float32 (float64 for float64 input).

    Gradients: of first order ("torch" also higher), by the Lyapunov equation S X + X S = G, so
        also at equal eigenvalues; components in which S is singular get 0. A NaN or an infinity
        makes root and gradient of its own matrix NaN.

    Raises:
        ValueError: not square, an impl that cannot run here; with ``validate`` what that checks.
        TypeError: not a floating tensor.
        NotImplementedError: a second derivative of "cpu" or "triton".

    >>> import torch
    >>> sqrtm(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    return _root("sqrtm", a, False, validate, impl)


def inv_sqrtm(a: Tensor, *, validate: bool = False, impl: Impl | None = None) -> Tensor:
    """Inverse square root of symmetric positive definite matrices.

    Args:
        a: (..., D, D) matrices as for :func:`sqrtm`.
        validate: check values too, see :func:`sqrtm`.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Returns:
        (..., D, D) symmetric Z with Z A Z = I; float32 (float64 for float64 input). NaN for
        matrices with an eigenvalue that counts as 0, for which there is none.

    Gradients: as for :func:`sqrtm`.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`sqrtm`.

    >>> import torch
    >>> inv_sqrtm(torch.tensor([[4.0, 0.0], [0.0, 16.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return _root("inv_sqrtm", a, True, validate, impl)


def _root(function, a, inverse, validate, impl):
    check_covariance(function, "a", a, validate)
    impl = _ops.choose_impl(function, impl, a.device)
    with _ops.without_autocast(a.device):
        return root_of(a, inverse, cutoff_of(a), impl)


def cutoff_of(a):
    """The part of its largest eigenvalue up to which eigenvalues of ``a`` (..., D, D) are noise.

    That of one rounding of each entry. Products that came to ``a`` in float64 add to it, which has
    the digits to spare; in float32 as much would hide eigenvalues that are meant.
    """
    eps = torch.finfo(a.dtype).eps
    return a.shape[-1] * eps if a.dtype == torch.float64 else eps


def root_of(a, inverse, cutoff, impl):
    """A^1/2 or A^-1/2 (*batch, D, D); eigenvalues up to cutoff times the largest count as 0."""
    if impl == "torch":
        root = _roots.inverse_square_root if inverse else _roots.square_root
        root = root(_roots.symmetric(a.double()), cutoff)
        return root.to(_ops.accumulation_dtype(a.dtype))
    _ops.refuse_lost_derivatives((a,))
    # A copy, because backward needs the root: users may change theirs in place.
    return _FastRoot.apply(a, inverse, cutoff, impl).clone()


def root_by_op(a, inverse, cutoff, impl):
    """The same by a raw op, without gradient."""
    return _ROOTS[impl](a, inverse, cutoff)


def lyapunov_by_op(h, g, impl):
    """X of h X + X h = g (*batch, D, D) by a raw op, without gradient."""
    return _LYAPUNOV[impl](h, g)


class _FastRoot(torch.autograd.Function):
    """A root by a raw op, once differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, inverse, cutoff, impl):
        return _ROOTS[impl](a, inverse, cutoff)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, ctx.inverse, _, ctx.impl = inputs
        ctx.save_for_backward(a, output)

    @staticmethod
    def backward(ctx, grad):
        a, root = ctx.saved_tensors
        # The formulas of _roots, where they are derived.
        with _ops.without_autocast(a.device):
            grad = _roots.symmetric(_LYAPUNOV[ctx.impl](root, _roots.symmetric(grad)))
            if ctx.inverse:
                inverse = root @ root
                grad = _roots.symmetric(-inverse @ grad @ inverse)
        return _ops.first_order(grad.to(a.dtype), a), None, None, None


def check_covariance(function, argument, value, validate):
    """A batch of square matrices (..., D, D), not empty; symmetric and not negative."""
    _check.floating(function, argument, value)
    shape = tuple(value.shape)
    square = len(shape) >= 2 and shape[-1] == shape[-2] > 0
    _check.require(square, function, argument, "have shape (..., D, D), D >= 1", shape)
    if validate:
        _check.finite(function, argument, value)
        _check_values(function, argument, value.detach().double(), torch.finfo(value.dtype).eps)


def _check_values(function, argument, value, eps):
    d = value.shape[-1]
    size = value.abs().amax((-2, -1))
    skew = (value - value.mT).abs().amax((-2, -1))
    wrong = skew > 4 * eps * size
    got = skew[wrong].max().item() if wrong.any() else None
    condition = "be symmetric up to rounding"
    _check.require(got is None, function, argument, condition, f"a difference of {got}")
    least = torch.linalg.eigvalsh(value)[..., 0]
    wrong = least < -d * eps * size
    got = least[wrong].min().item() if wrong.any() else None
    condition = "have no negative eigenvalue beyond rounding"
    _check.require(got is None, function, argument, condition, got)
