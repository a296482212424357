"""Wasserstein distance of the Gaussians fitted to samples against eigendecompositions."""

import dataclasses

import torch

import otkernels

from ..case import Expected, Family, Provider, Shape
from . import bures, bures_peers, frechet_peers, mmd, sliced
from .bures_reference import amplification, distance, largest, nearby
from .cupy_eigh import UNCAPTURABLE, without_gpu
from .frechet_peers import stretched

# --- shapes and inputs --------------------------------------------------------------------------

SHAPES = {
    "cpu": (
        *(mmd.one(n, 8, f"models/: a batch of {n} codes") for n in (100, 500)),
        mmd.one(500, 64, "a batch of codes"),
        mmd.one(1000, 16, "a batch of codes"),
        mmd.one(10000, 64, "one large batch"),
        mmd.MANY,
        mmd.one(1000, 2048, "fewer features of a network than it has dimensions"),
    ),
    "cuda": (
        mmd.one(500, 64, "a batch of codes"),
        mmd.one(1000, 16, "a batch of codes"),
        mmd.one(16384, 64, "one large batch"),
        mmd.MANY,
        Shape(64, 1024, 512, None, "a batch of large problems"),
        mmd.one(10000, 2048, "features for a Frechet distance"),
        mmd.one(1000, 2048, "fewer features than dimensions"),
    ),
    "smoke": (*mmd.SMOKE, Shape(2, 9, 12, None, "smoke, fewer points than dimensions")),
}
inputs = mmd.inputs


def is_singular(shape):
    """Whether a covariance has no inverse: N points span N - 1 dimensions."""
    return min(shape.N, shape.M or shape.N) <= shape.D


# --- reference ----------------------------------------------------------------------------------


@torch.no_grad()
def expect(x, y):
    """Value and gradients in float64.

    The longest chain of additions behind both is that of a covariance, N or M, and four times
    min(N, D) as in ``bures``. The value is a small difference of traces.
    """
    clouds = x.double(), y.double()
    value, size, grads = _exact(*clouds)
    _, _, moved = _exact(*map(nearby, clouds))
    n, m, d = x.shape[-2], y.shape[-2], x.shape[-1]
    terms = max(n, m) + 4 * min(n, m, d)
    return Expected(
        value,
        grads,
        tuple(torch.zeros_like(g) for g in grads),
        terms_value=terms,
        terms_grad=terms,
        condition_value=largest(size) / largest(value),
        condition_grad=max(map(amplification, grads, moved)),
    )


def _exact(x, y):
    """Value, the size of the sums that it is a difference of, and gradients to the points."""
    n, m, d = x.shape[-2], y.shape[-2], x.shape[-1]
    means = [t.mean(-2, keepdim=True) for t in (x, y)]
    apart = means[0] - means[1]
    x, y = x - means[0], y - means[1]
    value, grads = (_by_singular_values if min(n, m) <= d else _by_eigenvalues)(x, y)
    far = apart.square().sum((-2, -1))
    size = far + x.square().sum((-2, -1)) / n + y.square().sum((-2, -1)) / m
    return far + value, size, (grads[0] + 2 / n * apart, grads[1] - 2 / m * apart)


def _by_eigenvalues(x, y):
    """Of centred points with regular covariances."""
    n, m = x.shape[-2], y.shape[-2]
    value, *grads = distance(x.mT @ x / n, y.mT @ y / m)
    return value, [2 / len_ * t @ g for t, len_, g in zip((x, y), (n, m), grads, strict=True)]


def _by_singular_values(x, y):
    """Of any centred points: traces less twice the nuclear norm of X Y^T over sqrt(N M)."""
    n, m = x.shape[-2], y.shape[-2]
    left, values, right = torch.linalg.svd(x @ y.mT, full_matrices=False)
    factor = (n * m) ** -0.5
    polar = factor * left @ right
    traces = x.square().sum((-2, -1)) / n + y.square().sum((-2, -1)) / m
    grads = [2 / n * x - 2 * polar @ y, 2 / m * y - 2 * polar.mT @ x]
    return traces - 2 * factor * values.sum(-1), grads


def _expect_of_samples(x, y):
    """The same with covariances divided by N - 1, as torchmetrics has them."""
    expected = expect(stretched(x.double()), stretched(y.double()))
    return dataclasses.replace(expected, grads=tuple(map(stretched, expected.grads)))


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, impl=None):
    return otkernels.gaussian_wasserstein(x, y, impl=impl)


def _definition(x, y):
    return _ours(x, y, impl="torch")


def covariance(x):
    """The covariance of the points: centred, one product."""
    x = x - x.mean(-2, keepdim=True)
    return x.mT @ x / x.shape[-2]


def covariance_by_torch(x):
    """The same by torch.cov, which knows no batch."""
    return torch.cov(x.mT, correction=0)


def careful(x, y):
    """What someone who knows torch writes: covariances, or singular values where these are short.

    Where no covariance is regular, a root by ``eigh`` has no finite gradient.
    """
    n, m, d = x.shape[-2], y.shape[-2], x.shape[-1]
    if min(n, m) > d:
        return bures_peers.careful(covariance(x), covariance(y), x.mean(-2), y.mean(-2))
    means = [t.mean(-2, keepdim=True) for t in (x, y)]
    x, y = x - means[0], y - means[1]
    traces = x.square().sum((-2, -1)) / n + y.square().sum((-2, -1)) / m
    nuclear = torch.linalg.matrix_norm(x @ y.mT, "nuc") / (n * m) ** 0.5
    return (means[0] - means[1]).square().sum((-2, -1)) + traces - 2 * nuclear


def with_cov(x, y):
    """The shortest code: torch.cov, then ``eigh``."""
    covs = covariance_by_torch(x), covariance_by_torch(y)
    return bures_peers.careful(*covs, x.mean(-2), y.mean(-2))


def _cupy():
    """Products by torch, the distance of their covariances by CuPy."""
    distance_of = bures_peers.with_cupy()
    return lambda x, y: distance_of(covariance(x), covariance(y), x.mean(-2), y.mean(-2))


def _gap_error(shape):
    return (0.0, 0.0) if is_singular(shape) else bures_peers.gap_error(shape)


def _pot():
    """POT's distance, squared, with no ridge; ImportError if it is not installed."""
    distance_of = sliced.quiet_pot().gaussian.empirical_bures_wasserstein_distance
    return bures_peers.each_problem(lambda x, y: distance_of(x, y, reg=0).reshape(()) ** 2)


# --- where a provider is left out ---------------------------------------------------------------


def no_batch(shapes, shape):
    """The rule for torch.cov."""
    return "torch.cov knows no batch" if shape.B > 1 else None


def _singular(shapes, shape):
    return "needs regular covariances, N > D" if is_singular(shape) else None


def _definition_too_slow(shapes, shape):
    side = min(shape.N, shape.D)
    return bures.definition_too_slow(shapes, bures.batch(shape.B, side, ""))


PROVIDERS = (
    Provider("otkernels", "gaussian_wasserstein as users call it", lambda: _ours, ours=True),
    Provider(
        "definition",
        "the same with impl='torch', in float64",
        lambda: _definition,
        ours=True,
        left_out=_definition_too_slow,
    ),
    Provider(
        "torch",
        "centred products, then as in bures_wasserstein; singular values where N <= D",
        lambda: careful,
        own_error=_gap_error,
    ),
    Provider(
        "torch.cov",
        "torch.cov, then as in bures_wasserstein",
        lambda: with_cov,
        own_error=_gap_error,
        left_out=lambda *given: no_batch(*given) or _singular(*given),
    ),
    Provider(
        "pot",
        "ot.gaussian.empirical_bures_wasserstein_distance, squared; loops over a batch",
        _pot,
        left_out=lambda *given: _singular(*given) or bures.loop_too_slow(*given),
    ),
    Provider(
        "cupy",
        "centred products, then two batched cuSOLVER calls by CuPy",
        _cupy,
        left_out=lambda *given: without_gpu(*given) or _singular(*given),
        uncapturable=UNCAPTURABLE,
    ),
    Provider(
        "torchmetrics",
        "its Frechet Inception Distance of given features, in float64; no gradient",
        frechet_peers.torchmetrics,
        expect=_expect_of_samples,
        left_out=frechet_peers.left_out,
    ),
)

# --- costs --------------------------------------------------------------------------------------


def flops(shape, n_grads):
    """Both covariances and the products with each gradient, or those of N points with M.

    Half a product for a covariance, which is symmetric. Nothing that iterates.
    """
    n, m = shape.N, shape.M or shape.N
    if is_singular(shape):
        return 2 * shape.B * n * m * shape.D * (1 + n_grads)
    sizes = n + m + 2 * sum((n, m)[:n_grads])
    return shape.B * shape.D**2 * sizes + bures.flops(shape, n_grads)


def coordinates(shape):
    """What figures draw time against."""
    return shape.B * shape.N * shape.D


COORDINATES = "coordinates of a cloud, B N D"

FAMILY = Family(
    op="gaussian_wasserstein",
    p=None,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=inputs,
    expect=expect,
    bytes=mmd.moved_bytes,
    flops=flops,
    size=coordinates,
    size_label=COORDINATES,
    note="The points of the other families. Where N ≤ D covariances are singular, and `torch` "
    "takes singular values of the product of both clouds.",
)
