"""Square roots, polar factors and Sylvester equations in float64: the definition.

Differentiable to any order. The backward passes of torch's own eigh and svd divide by differences
of eigenvalues, which are 0 for equal ones; those of a root and of a polar factor need sums only,
and are written so here. A problem of a batch that holds a NaN or an infinity gets NaN, and no
solver sees it.
"""

import torch

from . import _ops

EPS = torch.finfo(torch.float64).eps


def square_root(a, cutoff):
    """A^1/2 (..., D, D) of symmetric A; eigenvalues up to cutoff times the largest count as 0."""
    return _ops.call(_SquareRoot, a, cutoff, jvp=_no_tangents)


def inverse_square_root(a, cutoff):
    """A^-1/2 (..., D, D) of symmetric A; NaN where an eigenvalue counts as 0."""
    return _ops.call(_InverseSquareRoot, a, cutoff, jvp=_no_tangents)


def polar_factor(m):
    """The partial isometry Q (..., P, R) of M = Q H, H positive semi-definite."""
    return _ops.call(_Polar, m, jvp=_no_tangents)


def nuclear_norm(m):
    """Sum of the singular values of M (..., P, R): (...)."""
    return _ops.call(_NuclearNorm, m, jvp=_no_tangents)


def sylvester(a, b, c):
    """Y (..., P, R) of A Y + Y B = C for positive semi-definite A and B.

    Components in which both have eigenvalue 0 are 0.
    """
    return _ops.call(_Sylvester, a, b, c, jvp=_no_tangents)


def symmetric(a):
    """The symmetric part."""
    return (a + a.mT) / 2


def eigenvalues_and_vectors(a, cutoff):
    """Both of symmetric A, with 0 for eigenvalues up to ``cutoff`` times the largest."""
    values, vectors = torch.linalg.eigh(a)
    return torch.where(values > cutoff * values[..., -1:], values, 0), vectors


def _is_finite(*matrices):
    """Which problems are free of NaN and infinity: (..., 1, 1)."""
    ok = [m.isfinite().all(-1, keepdim=True).all(-2, keepdim=True) for m in matrices]
    return torch.stack(torch.broadcast_tensors(*ok)).all(0)


def _scaled(vectors, values):
    """V diag(values) V^T."""
    return (vectors * values[..., None, :]) @ vectors.mT


class _Function(torch.autograd.Function):
    """A function of matrices whose backward pass is made of such functions again."""

    generate_vmap_rule = True


def _no_tangents():
    raise NotImplementedError(
        "otkernels: roots of matrices, and Gaussian Wasserstein distances, which are made of "
        "them, have no forward-mode derivatives. Use reverse mode: with impl='torch' that of "
        "reverse mode too, as in torch.func.jacrev(torch.func.grad(f))."
    )


class _SquareRoot(_Function):
    @staticmethod
    def forward(a, cutoff):
        ok = _is_finite(a)
        values, vectors = eigenvalues_and_vectors(torch.where(ok, a, 0), cutoff)
        return torch.where(ok, _scaled(vectors, values.sqrt()), torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        # H dH + dH H = dA
        (root,) = ctx.saved_tensors
        return sylvester(root, root, symmetric(grad)), None


class _InverseSquareRoot(_Function):
    @staticmethod
    def forward(a, cutoff):
        ok = _is_finite(a)
        values, vectors = eigenvalues_and_vectors(torch.where(ok, a, 0), cutoff)
        regular = ok & (values > 0).all(-1)[..., None, None]
        return torch.where(regular, _scaled(vectors, values.rsqrt()), torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        # Z dZ + dZ Z = d(A^-1) = -Z^2 dA Z^2
        (root,) = ctx.saved_tensors
        inverse = root @ root
        return -inverse @ sylvester(root, root, symmetric(grad)) @ inverse, None


class _Polar(_Function):
    @staticmethod
    def forward(m):
        ok = _is_finite(m)
        left, values, right = torch.linalg.svd(torch.where(ok, m, 0), full_matrices=False)
        kept = values > max(m.shape[-2:]) * EPS * values[..., :1]
        return torch.where(ok, (left * kept[..., None, :]) @ right, torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, grad):
        m, q = ctx.saved_tensors
        # In the bases of singular vectors dQ_ij = (dM_ij - dM_ji) / (s_i + s_j), and dM_ij / s_i
        # where j has no singular value. The map is its own adjoint.
        skew = grad - q @ grad.mT @ q
        return sylvester(symmetric(m @ q.mT), symmetric(q.mT @ m), skew)


class _NuclearNorm(_Function):
    @staticmethod
    def forward(m):
        ok = _is_finite(m)
        values = torch.linalg.svdvals(torch.where(ok, m, 0)).sum(-1)
        return torch.where(ok[..., 0, 0], values, torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad[..., None, None] * polar_factor(*ctx.saved_tensors)


class _Sylvester(_Function):
    @staticmethod
    def forward(a, b, c):
        ok = _is_finite(a, b, c)
        a, b, c = (torch.where(ok, t, 0) for t in (a, b, c))
        (of_a, left), (of_b, right) = torch.linalg.eigh(a), torch.linalg.eigh(b)
        sums = of_a[..., :, None] + of_b[..., None, :]
        none = sums <= max(c.shape[-2:]) * EPS * sums.amax((-2, -1), keepdim=True)
        parts = torch.where(none, 0, left.mT @ c @ right / torch.where(none, 1, sums))
        return torch.where(ok, left @ parts @ right.mT, torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, _ = inputs
        ctx.save_for_backward(a, b, output)

    @staticmethod
    def backward(ctx, grad):
        a, b, y = ctx.saved_tensors
        z = sylvester(a, b, grad)
        return -symmetric(z @ y.mT), -symmetric(y.mT @ z), z
