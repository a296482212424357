"""Sliced Wasserstein of padded problems of different sizes against loops over them, p = 2."""

import torch

import otkernels

from ..case import Family, Provider, Shape
from . import sliced
from .sliced_reference import expect

SHAPES = {
    "cpu": (
        Shape(64, 64, 16, 64, "many small problems"),
        Shape(16, 512, 32, 64, "a batch of problems"),
        Shape(8, 4096, 32, 64, "few large problems"),
    ),
    "cuda": (
        Shape(64, 512, 32, 256, "a batch of problems"),
        Shape(8, 8192, 32, 256, "few large problems"),
    ),
    "smoke": (
        Shape(3, 33, 5, 7, "smoke, a batch of odd sizes"),
        Shape(2, 20, 4, 6, "smoke, unequal sizes", 16),
    ),
}


def inputs(shape):
    """Clouds and directions as elsewhere, lengths from half to all of a cloud, 0 as padding."""
    x, y, projections = sliced.inputs(shape)
    x_lengths, y_lengths = _lengths(shape)
    return _padded(x, x_lengths), _padded(y, y_lengths), projections, x_lengths, y_lengths


def _lengths(shape):
    generator = torch.Generator().manual_seed(shape.N + 1)
    return [
        torch.randint((n + 1) // 2, n + 1, (shape.B,), generator=generator)
        for n in (shape.N, shape.M or shape.N)
    ]


def _padded(cloud, lengths):
    inside = torch.arange(cloud.shape[-2]) < lengths[:, None]
    return torch.where(inside[..., None], cloud, 0)


def _expect(x, y, projections, x_lengths, y_lengths):
    return expect(x, y, projections, x_lengths=x_lengths, y_lengths=y_lengths)


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, projections, x_lengths, y_lengths, impl=None):
    lengths = {"x_lengths": x_lengths, "y_lengths": y_lengths}
    return otkernels.sliced_wasserstein(x, y, projections=projections, impl=impl, **lengths)


def _definition(*inputs):
    return _ours(*inputs, impl="torch")


def _loop(loss):
    """A loop that cuts each problem out of its padding and hands it to a loss of one problem."""
    return sliced.each_problem(lambda x, y, projections, n, m: loss(x[:n], y[:m], projections))


def _one(x, y, projections, impl=None):
    return otkernels.sliced_wasserstein(x, y, projections=projections, impl=impl)


def _one_definition(*inputs):
    return _one(*inputs, impl="torch")


# --- costs --------------------------------------------------------------------------------------


def _points(shape):
    """How many points x and y there are, padding left out."""
    return [lengths.sum().item() for lengths in _lengths(shape)]


def _moved_bytes(shape, n_grads, itemsize):
    """Points inside and the directions read once, gradients written with their padding."""
    gradients = shape.B * sum((shape.N, shape.M or shape.N)[:n_grads])
    return itemsize * shape.D * (sum(_points(shape)) + gradients + shape.L)


def _flops(shape, n_grads):
    """Projection of the points inside and one product of the same size for each gradient."""
    points = _points(shape)
    return 2 * shape.D * shape.L * (sum(points) + sum(points[:n_grads]))


def _comparisons(shape, n_grads):
    sizes = torch.cat(_lengths(shape)).tolist()
    return shape.L * sum(map(sliced.to_sort, sizes))


FAMILY = Family(
    op="sliced_wasserstein-ragged",
    p=2,
    shapes=SHAPES,
    providers=(
        Provider("otkernels", "x_lengths and y_lengths, one call", lambda: _ours, ours=True),
        Provider("definition", "the same with impl='torch'", lambda: _definition, ours=True),
        Provider("loop", "a Python loop over otkernels", lambda: _loop(_one), ours=True),
        Provider("torch", "a Python loop over impl='torch'", lambda: _loop(_one_definition)),
        Provider(
            "pot",
            "a Python loop over ot.sliced_wasserstein_distance, squared",
            lambda: _loop(sliced.pot()),
            own_error=sliced.pot_error,
        ),
    ),
    inputs=inputs,
    expect=_expect,
    bytes=_moved_bytes,
    flops=_flops,
    size=sliced.points_times_directions,
    size_label=sliced.SIZE_LABEL,
    note="B problems, padded to N and M points, of N/2 to N and M/2 to M each; loops cut them out.",
    comparisons=_comparisons,
)
