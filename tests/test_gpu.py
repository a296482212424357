"""What only a GPU shows: sizes out of the interpreter's reach, capture, a second device."""

import functools

import pytest
import torch
from support import assert_close64, value_and_grads

import otkernels
from otkernels import (
    max_sliced_wasserstein,
    mmd,
    sliced_wasserstein,
    sliced_wasserstein_to_normal,
    wasserstein_1d,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("n", [1000, 1024, 4096, 4097, 8192, 10007, 16384, 16385, 100_003, 2**20])
@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_long_rows(n, p):
    """Distinct integers in random order: exact sort, exact gaps."""
    u, v = (torch.randperm(n, device="cuda").float() for _ in range(2))
    v *= 2
    value, grad_u, grad_v = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, p=p, impl="triton"), u, v
    )
    gap = -torch.arange(n, device="cuda").double()
    slope = p * gap.abs() ** (p - 1) * gap.sign() / n
    assert_close64(value, (gap.abs() ** p).mean(), terms=n)
    assert_close64(grad_u, slope[u.long()], terms=100)
    assert_close64(grad_v, -slope[(v / 2).long()], terms=100)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_each_choice_of_gradients(needs):
    x, y = torch.randn(2, 3, 500, 16, device="cuda", dtype=torch.float64)
    theta = torch.randn(16, 70, device="cuda", dtype=torch.float64)

    def run(dtype, impl):
        leaves = [t.to(dtype).requires_grad_(need) for t, need in zip((x, y), needs, strict=True)]
        value = sliced_wasserstein(*leaves, projections=theta, impl=impl)
        if any(needs):
            value.sum().backward()
        return value.detach(), *(leaf.grad for leaf in leaves)

    for out, reference in zip(
        run(torch.float64, "triton"), run(torch.float64, "torch"), strict=True
    ):
        if reference is not None:
            assert_close64(out, reference, terms=500 * 70)


KINDS = ["sizes", "weights", "lengths"]
# A run, several; two runs merged; the library's sort. The larger side has twice the points.
SIZES = [(300, 600), (5000, 10_000), (20_000, 40_000)]


def measures(kind, n, m, batch=()):
    """Weights, some of them 0, or lengths, by keyword."""
    if kind == "weights":
        a, b = torch.rand(*batch, n, device="cuda"), torch.rand(m, device="cuda")
        return {"a": a * (a > 0.1), "b": b}
    if kind == "lengths":
        return {"x_lengths": torch.randint(1, n + 1, batch, device="cuda")}
    return {}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_measures(kind, swapped, sizes):
    """Integers and powers of two: projections are exact, so all sort alike."""
    n, m = sizes[::-1] if swapped else sizes
    x, y = ((torch.randperm(2 * k, device="cuda")[: 2 * k].float()).view(2, k, 1) for k in (n, m))
    theta = torch.tensor([[1.0, 0.5, -2.0]], device="cuda")
    given = measures(kind, n, m, (2,))
    weights = {k: t for k, t in given.items() if t.is_floating_point()}
    lengths = {k: t for k, t in given.items() if not t.is_floating_point()}

    def run(dtype, impl):
        wide = [t.to(dtype) for t in (x, y, theta, *weights.values())]
        return value_and_grads(
            lambda x, y, theta, *w: sliced_wasserstein(
                x, y, projections=theta, impl=impl, **dict(zip(weights, w, strict=True)), **lengths
            ),
            *wide,
        )

    actual, expected = run(torch.float32, "triton"), run(torch.float64, "torch")
    for out, reference in zip(actual, expected, strict=True):
        assert_close64(out, reference, terms=3 * (n + m), dtype=torch.float32)


@pytest.mark.parametrize("n", [300, 10_000, 40_000])
def test_to_normal(n):
    x = torch.randn(2, n, 8, device="cuda")
    theta = torch.randn(8, 5, device="cuda")
    theta /= theta.norm(dim=0)
    lengths = torch.tensor([n // 3, n], device="cuda")
    for given in ({}, {"x_lengths": lengths}):
        value = sliced_wasserstein_to_normal(x, projections=theta, **given)
        wide = x.double(), theta.double()
        expected = sliced_wasserstein_to_normal(wide[0], projections=wide[1], impl="torch", **given)
        # The value is small beside the squares it is the difference of: about 1 a point.
        assert_close64(value + 1, expected + 1, terms=n)


def test_max_sliced_is_not_below_its_candidates():
    x, y = torch.randn(3, 500, 16, device="cuda"), torch.randn(400, 16, device="cuda") + 0.2
    theta = torch.randn(16, 50, device="cuda")
    theta /= theta.norm(dim=0)
    best = torch.stack(
        [sliced_wasserstein(x, y, projections=t[:, None]) for t in theta.unbind(1)]
    ).amax(0)
    assert (max_sliced_wasserstein(x, y, projections=theta) >= best * (1 - 1e-5)).all()


def test_many_problems():
    x, y = torch.randn(2, 70_000, 4, 2, device="cuda")
    theta = torch.randn(2, 3, device="cuda")
    actual = sliced_wasserstein(x, y, projections=theta)
    expected = sliced_wasserstein(x.double(), y.double(), projections=theta, impl="torch")
    assert_close64(actual, expected, terms=100)


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
    """A captured step of value and gradients gives on new data the bits of an eager one."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]

    def step():
        value = function(*leaves)
        value = (
            value if isinstance(value, torch.Tensor) else torch.cat([t.flatten() for t in value])
        )
        return value.detach(), *torch.autograd.grad(value.sum(), leaves)

    before = step()[0].clone()
    results = captured(step, leaves)
    assert not torch.equal(results[0], before)
    for out, eager in zip(results, step(), strict=True):
        torch.testing.assert_close(out, eager, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["equal", *KINDS])
@pytest.mark.parametrize("n", [300, 10_000, 40_000])
def test_cuda_graph(n, kind):
    x, y = torch.randn(2, n, 8, device="cuda")
    y = y if kind == "equal" else y[: n // 2].clone()
    theta = torch.randn(8, 32, device="cuda")
    given = measures(kind, n, len(y))
    check_graph(lambda x, y: sliced_wasserstein(x, y, projections=theta, **given), x, y)


def directions(d=8, n=32):
    return torch.nn.functional.normalize(torch.randn(d, n, device="cuda"), dim=0)


def circles():
    return otkernels.sample_great_circles(8, 16, device="cuda")


def given_directions(function, make=directions, **options):
    projections = make()
    return lambda *clouds: function(*clouds, projections=projections, **options)


LOSSES = {
    "to_normal": lambda: given_directions(sliced_wasserstein_to_normal),
    "max_sliced": lambda: given_directions(max_sliced_wasserstein, n_steps=3),
    "sphere": lambda: given_directions(otkernels.sliced_wasserstein_sphere, circles),
    "line": lambda: lambda x, y: wasserstein_1d(x.mT, y.mT),
    **{
        kernel: functools.partial(functools.partial, mmd, kernel=kernel)
        for kernel in ["gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy"]
    },
    "scales": lambda: functools.partial(mmd, kernel="imq", bandwidth=otkernels.wae_bandwidths(8)),
    "energy_distance": lambda: otkernels.energy_distance,
    "blocks": lambda: lambda x, y: otkernels.mmd_blocks(x, y, block_size=100).value,
    "gaussian_wasserstein": lambda: otkernels.gaussian_wasserstein,
    "gaussian_to_normal": lambda: otkernels.gaussian_wasserstein_to_normal,
    "mean_cov": lambda: otkernels.mean_cov,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_points_in_a_cuda_graph(name):
    function = LOSSES[name]()
    one = name in ("to_normal", "gaussian_to_normal", "mean_cov")
    if name == "sphere":  # only directions count there
        theirs = function

        def function(x, y):
            return theirs(x + 1, y)

    check_graph(function, *torch.randn(2, 300, 8, device="cuda")[: 1 if one else 2].unbind(0))


@pytest.mark.parametrize("n", [50, 300])
def test_gaussians_of_many_features_in_a_cuda_graph(n):
    check_graph(otkernels.gaussian_wasserstein, *torch.randn(2, n, 150, device="cuda").unbind(0))


@pytest.mark.parametrize("d", [8, 100, 200])
@pytest.mark.parametrize("name", ["bures_wasserstein", "gaussian_map", "sqrtm", "inv_sqrtm"])
def test_losses_of_covariances_in_a_cuda_graph(name, d):
    points = torch.randn(2, 3, 2 * d, d, device="cuda")
    covariances = (points.mT @ points / (2 * d)).unbind(0)
    means = torch.randn(2, 3, d, device="cuda").unbind(0)
    function = getattr(otkernels, name)
    if "sqrtm" in name:
        check_graph(function, covariances[0].clone())
    else:
        check_graph(function, means[0], covariances[0], means[1], covariances[1])


def test_tensors_of_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = torch.randn(2, 300, 8, device="cuda:1")
    theta = torch.randn(8, 32, device="cuda:1")
    expected = sliced_wasserstein(x.double(), y.double(), projections=theta, impl="torch")
    assert_close64(sliced_wasserstein(x, y, projections=theta), expected, terms=300 * 32)


KERNELS = ["gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy"]


@pytest.mark.parametrize("d", [1, 8, 9, 64, 200])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sizes", [(1000, 777), (5000, 4096)], ids=str)
def test_mmd(kernel, d, sizes):
    """Rows alone fill no device at these sizes, so columns are shared out."""
    x, y = torch.randn(sizes[0], d, device="cuda"), torch.randn(sizes[1], d, device="cuda") + 0.5
    scale = d**0.5
    options = {} if kernel in ("polynomial", "energy") else {"bandwidth": (scale, 3 * scale)}
    size = {"polynomial": 30.0, "energy": 2 * scale}.get(kernel, 2.0)

    def run(dtype, impl):
        return value_and_grads(
            lambda x, y: mmd(x, y, kernel=kernel, impl=impl, **options), x.to(dtype), y.to(dtype)
        )

    actual, expected = run(torch.float32, "triton"), run(torch.float64, "torch")
    eps = torch.finfo(torch.float32).eps
    assert (actual[0] - expected[0]).abs() <= d**0.5 * eps * size
    for out, reference in zip(actual[1:], expected[1:], strict=True):
        # Each is the difference of two sums, of pairs within a cloud and between the clouds.
        bound = (sum(sizes) * d) ** 0.5 * eps * max(reference.abs().max(), size / scale / len(out))
        assert (out - reference).abs().max() <= bound


def test_mmd_gives_the_same_bits_twice():
    x, y = torch.randn(2, 3000, 40, device="cuda")
    for kernel in KERNELS:
        function = functools.partial(mmd, kernel=kernel)
        one, other = (value_and_grads(function, x, y) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("d", [2, 16])
def test_mmd_of_more_than_2_31_pairs(d):
    """Points repeated k times are k-fold masses: the value is that of the points once."""
    x, y = torch.randn(2, 1000, d, device="cuda")
    repeated = [t.repeat(60, 1) for t in (x, y)]
    actual = mmd(*repeated, bandwidth=2.0, impl="triton")
    expected = mmd(x.double(), y.double(), bandwidth=2.0, impl="torch")
    assert (actual - expected).abs() <= d**0.5 * torch.finfo(torch.float32).eps


def test_fast_mmd():
    x, y = torch.randn(1500, 64, device="cuda"), torch.randn(1500, 64, device="cuda") + 0.1

    def run(dtype, **options):
        return value_and_grads(
            lambda x, y: mmd(x, y, bandwidth=8.0, **options), x.to(dtype), y.to(dtype)
        )

    fast, exact = run(torch.float32, precision="fast"), run(torch.float64, impl="torch")
    assert (fast[0] - exact[0]).abs() <= 1e-5  # as the docstring says, of a kernel of at most 1
    for out, reference in zip(fast[1:], exact[1:], strict=True):
        assert (out - reference).abs().max() <= 1e-3 * reference.abs().max()
