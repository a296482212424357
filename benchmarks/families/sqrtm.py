"""Square roots of covariances against eigendecompositions and Newton-Schulz steps."""

import torch

import otkernels

from ..case import Expected, Family, Provider
from ..measure import cotangent
from . import bures, bures_peers
from .bures_reference import amplification, nearby, scaled, square_root, symmetric
from .cupy_eigh import UNCAPTURABLE, cupy_eigh, without_gpu

SHAPES = {
    "cpu": (*bures.CPU[:4], bures.batch(1, 512, "one large matrix")),
    "cuda": (bures.CUDA[0], *bures.CUDA[2:6]),
    "smoke": bures.SMOKE,
}
STEPS = 16  # of Newton and Schulz, enough for the condition numbers of the inputs


def inputs(shape):
    """One covariance."""
    return bures.covariances(shape, 1)


@torch.no_grad()
def expect(a):
    """Root and gradient in float64; a root and a product, or two, stand behind each entry."""
    a = a.double()
    weights = cotangent(a, a)
    found, moved = (square_root(t, weights) for t in (a, symmetric(nearby(a))))
    root, grad = found
    condition_value, condition_grad = map(amplification, found, moved)
    return Expected(
        root,
        (grad,),
        (torch.zeros_like(grad),),
        terms_value=2 * a.shape[-1],
        terms_grad=4 * a.shape[-1],
        condition_value=condition_value,
        condition_grad=condition_grad,
    )


# --- providers ----------------------------------------------------------------------------------


def _ours(a, impl=None):
    return otkernels.sqrtm(a, impl=impl)


def _definition(a):
    return _ours(a, impl="torch")


def newton_schulz(a):
    """Coupled Newton-Schulz steps of degree 3, each matrix scaled by its own norm.

    Of the symmetric part, whose gradient is the one that a covariance has.
    """
    a = symmetric(a)
    norm = torch.linalg.matrix_norm(a, keepdim=True)
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    root, inverse = a / norm, identity.expand_as(a)
    for _ in range(STEPS):
        step = 1.5 * identity - 0.5 * (inverse @ root)
        root, inverse = root @ step, step @ inverse
    return root * norm.sqrt()


class _ByCupy(torch.autograd.Function):
    """The root with the gradient of the reference."""

    @staticmethod
    def forward(ctx, a, eigh):
        values, vectors = eigh(a)
        ctx.save_for_backward(values, vectors)
        return scaled(vectors, values.sqrt())

    @staticmethod
    def backward(ctx, grad):
        # The eigendecomposition that is there is taken for that of a.
        return square_root(None, grad, lambda _: ctx.saved_tensors)[1], None


def _cupy():
    eigh = cupy_eigh()
    return lambda a: _ByCupy.apply(a, eigh)


PROVIDERS = (
    Provider("otkernels", "sqrtm as users call it", lambda: _ours, ours=True),
    Provider(
        "definition",
        "the same with impl='torch', in float64",
        lambda: _definition,
        ours=True,
        left_out=bures.definition_too_slow,
    ),
    Provider(
        "torch",
        "batched torch.linalg.eigh",
        lambda: bures_peers.root_by_eigh,
        own_error=bures_peers.gap_error,
    ),
    Provider("newton-schulz", f"{STEPS} Newton-Schulz steps of degree 3", lambda: newton_schulz),
    Provider(
        "cupy",
        "by CuPy's cuSOLVER",
        _cupy,
        left_out=without_gpu,
        uncapturable=UNCAPTURABLE,
    ),
)
# --- costs --------------------------------------------------------------------------------------


def _moved_bytes(shape, n_grads, itemsize):
    """A matrix read and its root written; for the gradient another of each."""
    return itemsize * shape.B * shape.D**2 * 2 * (1 + n_grads)


def _flops(shape, n_grads):
    """The product that a root undoes, and one for the gradient; nothing that iterates."""
    return 2 * shape.B * shape.D**3 * (1 + n_grads)


FAMILY = Family(
    op="sqrtm",
    p=None,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=inputs,
    expect=expect,
    bytes=_moved_bytes,
    flops=_flops,
    size=bures.rows,
    size_label=bures.ROWS,
    clouds=("x",),
    noise=bures.wishart,
    note="The covariances of `bures_wasserstein`, and the gradient of a weighted sum of all "
    "entries of the root.",
)
