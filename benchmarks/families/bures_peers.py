"""Bures-Wasserstein distances as others compute them, all by eigendecompositions."""

import math

import torch

from . import sliced
from .bures_reference import distance, scaled, trace
from .cupy_eigh import cupy_eigh


def root_by_eigh(a):
    """The square root by eigenvalues, of which rounding may make some negative."""
    values, vectors = torch.linalg.eigh(a)
    return scaled(vectors, values.clamp(min=0).sqrt())


def as_written(x, y, mean_x, mean_y):
    """The formula as it stands in papers: two roots by ``eigh``, and a trace."""
    root = root_by_eigh(x)
    fidelity = trace(root_by_eigh(root @ y @ root))
    return (mean_x - mean_y).square().sum(-1) + trace(x) + trace(y) - 2 * fidelity


def careful(x, y, mean_x, mean_y):
    """What someone who knows torch writes: eigenvalues only, and the root of y, a constant."""
    root = root_by_eigh(y)
    roots = torch.linalg.eigvalsh(root @ x @ root).clamp(min=0).sqrt()
    return (mean_x - mean_y).square().sum(-1) + trace(x) + trace(y) - 2 * roots.sum(-1)


def gap_error(shape):
    """Of value and gradient: torch's backward of ``eigh`` divides rounding by gaps of eigenvalues.

    D eigenvalues of a random covariance are 1/D of their range apart, and the least of B D such
    gaps, which repel each other, is 1/sqrt(B D) of that. One over it is the weight of a product of
    two eigenvectors, whose entries are 1/D.
    """
    return 0.0, math.sqrt(shape.B * shape.D) * torch.finfo(torch.float32).eps


class _ByCupy(torch.autograd.Function):
    """The distance of centred Gaussians with the gradients of the reference."""

    @staticmethod
    def forward(ctx, x, y, eigh):
        value, *grads = distance(x, y, eigh, ctx.needs_input_grad[:2])
        ctx.save_for_backward(*grads)
        return value

    @staticmethod
    def backward(ctx, grad):
        grads = ctx.saved_tensors
        return *(None if g is None else grad[..., None, None] * g for g in grads), None


def with_cupy():
    """The distance by CuPy's eigendecomposition; ImportError without CuPy."""
    eigh = cupy_eigh()

    def function(x, y, mean_x, mean_y):
        return (mean_x - mean_y).square().sum(-1) + _ByCupy.apply(x, y, eigh)

    return function


def pot(**options):
    """POT's distance, squared; ImportError if it is not installed."""
    distance_of = sliced.quiet_pot().gaussian.bures_wasserstein_distance

    def function(x, y, mean_x, mean_y):
        return distance_of(mean_x, mean_y, x, y, **options).reshape(x.shape[:-2]) ** 2

    return function


def each_problem(one):
    """A function of batches that calls a function of one problem in a loop."""

    def function(*inputs):
        if inputs[0].dim() == 2:
            return one(*inputs)
        return torch.stack([one(*problem) for problem in zip(*inputs, strict=True)])

    return function


def batched(function):
    """One problem is a batch of one, for POT tells them apart."""

    def run(*inputs):
        if inputs[0].dim() > 2:
            return function(*inputs)
        return function(*(t[None] for t in inputs))[0]

    return run
