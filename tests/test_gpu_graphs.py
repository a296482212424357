"""CUDA graphs: a captured training step gives on new data the bits of an eager one."""

import functools

import pytest
import torch
from gpu_support import DEVICE, LENGTHS, MARKS, needs_hardware

import otkernels as ot

pytestmark = [*MARKS, needs_hardware]


def captured(step, leaves):
    """The results of a graph of ``step()``, replayed after the leaves have got new content.

    A step returns tensors, value and gradients, and is warm when it is captured: by then kernels
    are compiled and the tables of steps of the polar iterations are on the device.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    with torch.no_grad():
        for k, leaf in enumerate(leaves):
            leaf.mul_(1.5 + k)  # covariances stay such
    graph.replay()
    return [t.clone() for t in results]


def check_graph(function, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]

    def step():
        value = function(*leaves)
        if not isinstance(value, torch.Tensor):
            value = torch.cat([t.flatten() for t in value])
        return value.detach(), *torch.autograd.grad(value.sum(), leaves)

    before = step()[0].clone()
    results = captured(step, leaves)
    assert not torch.equal(results[0], before)
    for out, eager in zip(results, step(), strict=True):
        torch.testing.assert_close(out, eager, rtol=0, atol=0)


def measures(kind, n):
    """Weights or lengths, by keyword."""
    if kind == "weights":
        return {"a": torch.rand(n, device=DEVICE), "b": torch.rand(n // 2, device=DEVICE)}
    return {"x_lengths": torch.tensor(n // 3, device=DEVICE)} if kind == "lengths" else {}


@pytest.mark.parametrize("kind", ["equal", "sizes", "weights", "lengths"])
@pytest.mark.parametrize("n", LENGTHS)
def test_sliced(n, kind):
    x, y = torch.randn(2, n, 8, device=DEVICE)
    y = y if kind == "equal" else y[: n // 2]
    theta = torch.randn(8, 32, device=DEVICE)
    options = measures(kind, n)
    check_graph(lambda x, y: ot.sliced_wasserstein(x, y, projections=theta, **options), x, y)


def given_directions(function, projections, **options):
    return functools.partial(function, projections=projections, **options)


def directions():
    return torch.nn.functional.normalize(torch.randn(8, 32, device=DEVICE), dim=0)


def sphere():
    circles = ot.sample_great_circles(8, 16, device=DEVICE)
    return lambda x, y: ot.sliced_wasserstein_sphere(x + 1, y, projections=circles)


LOSSES = {
    "to_normal": lambda: given_directions(ot.sliced_wasserstein_to_normal, directions()),
    "max_sliced": lambda: given_directions(ot.max_sliced_wasserstein, directions(), n_steps=3),
    "sphere": sphere,  # where only directions count
    "line": lambda: lambda x, y: ot.wasserstein_1d(x.mT, y.mT),
    **{
        kernel: functools.partial(functools.partial, ot.mmd, kernel=kernel)
        for kernel in ["gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy"]
    },
    "scales": lambda: functools.partial(ot.mmd, kernel="imq", bandwidth=ot.wae_bandwidths(8)),
    "energy_distance": lambda: ot.energy_distance,
    "blocks": lambda: lambda x, y: ot.mmd_blocks(x, y, block_size=100).value,
    "gaussian_wasserstein": lambda: ot.gaussian_wasserstein,
    "gaussian_to_normal": lambda: ot.gaussian_wasserstein_to_normal,
    "mean_cov": lambda: ot.mean_cov,
}
OF_ONE_CLOUD = ("to_normal", "gaussian_to_normal", "mean_cov")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_points(name):
    points = torch.randn(2, 300, 8, device=DEVICE)[: 1 if name in OF_ONE_CLOUD else 2]
    check_graph(LOSSES[name](), *points.unbind(0))


def test_a_replay_draws_new_directions():
    x, y = torch.randn(2, 300, 8, device=DEVICE)
    ot.sliced_wasserstein(x, y, n_projections=8)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = ot.sliced_wasserstein(x, y, n_projections=8)
    values = []
    for _ in range(3):
        graph.replay()
        values.append(value.item())
    assert len(set(values)) == 3


@pytest.mark.parametrize("n", [50, 300])
def test_gaussians_of_many_features(n):
    check_graph(ot.gaussian_wasserstein, *torch.randn(2, n, 150, device=DEVICE).unbind(0))


@pytest.mark.parametrize("d", [8, 100, 200])
@pytest.mark.parametrize("name", ["bures_wasserstein", "gaussian_map", "sqrtm", "inv_sqrtm"])
def test_losses_of_covariances(name, d):
    points = torch.randn(2, 3, 2 * d, d, device=DEVICE)
    covariances = (points.mT @ points / (2 * d)).unbind(0)
    means = torch.randn(2, 3, d, device=DEVICE).unbind(0)
    function = getattr(ot, name)
    if "sqrtm" in name:
        check_graph(function, covariances[0])
    else:
        check_graph(function, means[0], covariances[0], means[1], covariances[1])
