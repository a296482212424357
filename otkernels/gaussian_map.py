"""The affine Monge map between two Gaussians."""

import torch
from torch import Tensor

from . import _ops, _roots, sqrtm
from ._fidelity import _OPS
from ._types import Impl
from .bures import broadcast, checked

__all__ = ["gaussian_map"]


def gaussian_map(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor,
    cov_y: Tensor,
    *,
    validate: bool = False,
    impl: Impl | None = None,
) -> tuple[Tensor, Tensor]:
    """The affine map x -> A x + b that transports one Gaussian to another at least cost.

    A = S_x^-1/2 (S_x^1/2 S_y S_x^1/2)^1/2 S_x^-1/2 is symmetric, A S_x A = S_y, b = m_y - A m_x
    (Knott, Smith 1984; Peyre, Cuturi 2019, "Computational optimal transport", remark 2.31). Points
    (..., N, D) are mapped by ``x @ A + b[..., None, :]``.

    Args:
        mean_x: (..., D) means, float16, bfloat16, float32 or float64.
        cov_x: (..., D, D) symmetric positive definite covariances.
        mean_y: (..., D) means of mean_x's dtype and device.
        cov_y: (..., D, D) symmetric positive semi-definite covariances. Leading axes broadcast.
        validate: check values too, see :func:`bures_wasserstein`.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Returns:
        (A, b): (..., D, D) and (..., D); float32 (float64 for float64 input). NaN where cov_x is
        singular, as :func:`sqrtm` counts: there is no such map then, or more than one.

    Gradients: all four; first order ("torch" also higher).

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`bures_wasserstein`.

    >>> import torch
    >>> zero, one = torch.zeros(2), torch.eye(2)
    >>> a, b = gaussian_map(zero, one, zero + 3, 4 * one)
    >>> a.tolist(), b.tolist()
    ([[2.0, 0.0], [0.0, 2.0]], [3.0, 3.0])
    """
    function = "gaussian_map"
    given = checked(function, (mean_x, cov_x, mean_y, cov_y), False, validate)
    impl = _ops.choose_impl(function, impl, mean_x.device)
    dtype, cutoff = _ops.accumulation_dtype(mean_x.dtype), sqrtm.cutoff_of(cov_x)
    with _ops.without_autocast(mean_x.device):
        given = (t.double() for t in broadcast(function, given, (1, 2, 1, 2)))
        mean_x, cov_x, mean_y, cov_y = given
        a = _matrix(_roots.symmetric(cov_x), _roots.symmetric(cov_y), cutoff, impl)
        b = mean_y - (a @ mean_x[..., None])[..., 0]
        return a.to(dtype), b.to(dtype)


def _matrix(cov_x, cov_y, cutoff, impl):
    """A (*batch, D, D), float64."""
    if impl != "torch":
        _ops.refuse_lost_derivatives((cov_x, cov_y))
        return _FastMatrix.apply(cov_x, cov_y, cutoff, impl)[0]
    # A = F_y Q^T F_x^-1 with the polar factor Q of F_x^T F_y.
    root = _roots.square_root(cov_x, cutoff)
    target = _roots.square_root(cov_y, cutoff)
    q = _roots.polar_factor(root @ target)
    return _roots.symmetric(target @ q.mT @ _roots.inverse_square_root(cov_x, cutoff))


class _FastMatrix(torch.autograd.Function):
    """The matrix of the map by raw ops, once differentiable: twice the gradient of a fidelity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cov_x, cov_y, cutoff, impl):
        *_, half, _ = _OPS[impl](cov_x, cov_y, False, False, cutoff, True, [True, False])
        root, inverse = (
            sqrtm.root_by_op(cov_x, inverted, cutoff, impl) for inverted in (False, True)
        )
        # Where cov_x is singular the fidelity has a gradient still, but there is no map.
        singular = inverse.isnan().flatten(-2).any(-1)[..., None, None]
        return torch.where(singular, torch.nan, 2 * half), root, inverse

    @staticmethod
    def setup_context(ctx, inputs, output):
        cov_x, cov_y, _, ctx.impl = inputs
        a, root, inverse = output
        ctx.mark_non_differentiable(root, inverse)
        ctx.save_for_backward(cov_x, cov_y, a, root, inverse)

    @staticmethod
    def backward(ctx, grad, _grad_of_root, _grad_of_inverse):
        cov_x, cov_y, a, root, inverse = ctx.saved_tensors
        # A S_x A = S_y. With R = S_x^1/2, H = R A R and W = R dA R:
        # W H + H W = R (dS_y - A dS_x A) R.
        inner = inverse @ _roots.symmetric(grad) @ inverse
        inner = sqrtm.lyapunov_by_op(root @ a @ root, inner, ctx.impl)
        to_y = _roots.symmetric(root @ inner @ root)
        to_x = -a @ to_y @ a
        return *(_ops.first_order(g, cov_x, cov_y) for g in (to_x, to_y)), None, None
