"""The host never waits for the GPU: what a CUDA graph, and a full queue of launches, ask for."""

import functools
import importlib
import pkgutil

import pytest
import torch
from meta_device import HostWaitError, MetaDevice
from public_calls import CALLS, tensors

import otkernels as ot
from otkernels import kernels
from otkernels.kernels import polar, polar_large, sliced

# The tables of steps of the polar iterations, which a first call copies to its device.
TABLES = {"otkernels.kernels.polar.steps", "otkernels.kernels.polar_large._table"}


def cloud(*shape):
    return torch.empty(shape, device="meta", requires_grad=True)


def covariance(d, batch=2):
    return cloud(batch, d, d)


def mean(d):
    return cloud(2, d)


def lengths(*batch):
    return torch.empty(batch, dtype=torch.int64, device="meta")


def sliced_of(n, m, d=8, **options):
    return lambda: ot.sliced_wasserstein(cloud(2, n, d), cloud(2, m, d), **options)


def mmd_of(d, kernel, n=3000, m=2000, **options):
    return lambda: ot.mmd(cloud(2, n, d), cloud(2, m, d), kernel=kernel, **options)


def gaussian_of(n, m, d, dtype=torch.float32, **options):
    def call():
        x, y = (cloud(2, k, d).to(dtype) for k in (n, m))
        return ot.gaussian_wasserstein(x, y, **options)

    return call


# Ways through the launchers that the small inputs of the public table do not take.
FURTHER = {
    "sliced: two runs": sliced_of(6000, 6000),
    "sliced: the library's sort": sliced_of(40_000, 40_000),
    "sliced: sizes": sliced_of(6000, 9000),
    "sliced: sizes, the library's sort": sliced_of(40_000, 9000),
    "sliced: one side": lambda: ot.sliced_wasserstein(cloud(300, 4), cloud(300, 4).detach()),
    "sliced: no gradient": lambda: ot.sliced_wasserstein(*cloud(2, 300, 4).detach()),
    "sliced: p": sliced_of(300, 200, p=1.5),
    "sliced: float64": lambda: ot.sliced_wasserstein(*cloud(2, 300, 4).double()),
    "sliced: weights": lambda: ot.sliced_wasserstein(
        cloud(300, 4), cloud(200, 4), a=cloud(300), b=cloud(200)
    ),
    "sliced: lengths": lambda: ot.sliced_wasserstein(
        cloud(3, 300, 4), cloud(200, 4), x_lengths=lengths(3), y_lengths=lengths()
    ),
    "sliced: orthogonal": sliced_of(300, 200, method="orthogonal"),
    "to normal: lengths": lambda: ot.sliced_wasserstein_to_normal(
        cloud(3, 300, 4), x_lengths=lengths(3)
    ),
    "to normal: the library's sort": lambda: ot.sliced_wasserstein_to_normal(cloud(40_000, 4)),
    "max-sliced: start": lambda: ot.max_sliced_wasserstein(
        cloud(300, 4), cloud(200, 4), start=cloud(4), n_steps=2
    ),
    "sphere: weights": lambda: ot.sliced_wasserstein_sphere(
        cloud(30, 3), cloud(20, 3), a=cloud(30), b=cloud(20)
    ),
    **{
        f"mmd: {kernel}, {d}": mmd_of(d, kernel)
        for kernel in ("gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy")
        for d in ((4, 40, 200) if kernel in ("gaussian", "energy") else (40,))
    },
    "mmd: fast": mmd_of(64, "gaussian", precision="fast"),
    "mmd: scales": mmd_of(16, "imq", bandwidth=ot.wae_bandwidths(16), unbiased=True),
    "mmd: lengths": lambda: ot.mmd(cloud(3, 300, 4), cloud(200, 4), x_lengths=lengths(3)),
    "gaussian: 100": gaussian_of(500, 400, 100),
    "gaussian: 300": gaussian_of(500, 400, 300),
    "gaussian: few points": gaussian_of(20, 30, 100),
    "gaussian: few points of many features": gaussian_of(200, 300, 400),
    "gaussian: few against many": gaussian_of(20, 300, 100),
    "gaussian: float64": gaussian_of(500, 400, 40, torch.float64),
    "gaussian: float64, 300": gaussian_of(500, 400, 300, torch.float64),
    "gaussian: diagonal": gaussian_of(500, 400, 40, diagonal=True),
    "gaussian: ridge, correction": gaussian_of(50, 40, 40, eps=1e-3, correction=1),
    "gaussian: no gradient": lambda: ot.gaussian_wasserstein(*cloud(2, 500, 30).detach()),
    "to normal: 300 features": lambda: ot.gaussian_wasserstein_to_normal(cloud(500, 300)),
    "to normal: few points": lambda: ot.gaussian_wasserstein_to_normal(cloud(50, 300)),
    "bures: all pairs": lambda: ot.bures_wasserstein(
        mean(30), covariance(30), mean(30), covariance(30), pairwise=True
    ),
    "bures: diagonal": lambda: ot.bures_wasserstein(
        mean(30), mean(30), mean(30), mean(30), diagonal=True
    ),
    "moments: weights": lambda: ot.mean_cov(cloud(500, 40), weights=cloud(500))[1],
    "moments: many features": lambda: ot.mean_cov(cloud(500, 500), correction=1)[1],
    "moments: float64": lambda: ot.mean_cov(cloud(50_000, 20).double())[1],
    "sqrtm: 200": lambda: ot.sqrtm(covariance(200)),
    "sqrtm: float64": lambda: ot.sqrtm(covariance(20).double()),
    "inv_sqrtm: 200": lambda: ot.inv_sqrtm(covariance(200)),
    "map: 200": lambda: ot.gaussian_map(mean(200), covariance(200), mean(200), covariance(200))[0],
}


def public_call(call, impl):
    """The call of the table as a function without arguments."""
    function = call.build(impl)
    if isinstance(function, torch.nn.Module):
        function.to("meta")

    def run():
        given = [t.to("meta") for t in call.inputs(12)]
        for k in call.wrt:
            given[k].requires_grad_()
        with torch.device("meta"):
            return function(*given)

    return run


def step(run):
    """Forward and backward."""
    total = sum(t.sum() for t in tensors(run()))
    if total.requires_grad:
        total.backward()


@functools.cache
def kernels_of(run):
    """The kernels that a training step launches once it is warm; raises where the host waits."""
    warm = MetaDevice(warm_up=True)
    with warm:
        step(run)
    assert warm.copies <= TABLES
    with MetaDevice() as device:
        step(run)
    return device.kernels


# Of functions without a kernel of their own it is plain torch that must not wait.
PUBLIC = {
    str(call): public_call(call, "triton" if "triton" in call.impls else None)
    for call in CALLS
    if call.variant != "sobol"
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_calls_do_not_wait(name):
    kernels_of(PUBLIC[name])


@pytest.mark.parametrize("name", FURTHER)
def test_launchers_do_not_wait(name):
    kernels_of(FURTHER[name])


def test_every_kernel_was_launched():
    """So no launcher is left out above."""
    launched = {name for run in (*PUBLIC.values(), *FURTHER.values()) for name in kernels_of(run)}
    modules = [
        importlib.import_module(f"otkernels.kernels.{info.name}")
        for info in pkgutil.iter_modules(kernels.__path__)
    ]
    every = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert launched == every


OFFENCES = {
    "item": lambda t: t.sum().item(),
    "tolist": lambda t: t.tolist(),
    "bool": lambda t: bool((t > 0).all()),
    "int": lambda t: int(t[0]),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "unique": lambda t: t.unique(),
    "repeats": lambda t: t.repeat_interleave(torch.ones_like(t, dtype=torch.int64)),
    "cpu": lambda t: t.cpu(),
    "to": lambda t: t.to("cpu"),
    "numpy": lambda t: t.detach().numpy(),
    "tensor": lambda t: torch.tensor([1.0, 2.0], device=t.device),
    "as_tensor": lambda t: torch.as_tensor([1.0, 2.0], device=t.device),
    "new_tensor": lambda t: t.new_tensor([1.0, 2.0]),
    "moved": lambda t: torch.ones(2).to(t.device),
    "copied": lambda t: t.copy_(torch.ones(4)),
    "index of the host": lambda t: t[torch.tensor([0, 1])],
    "list as index": lambda t: t[[0, 1]],
    "moved by position": lambda t: torch.ones(2).to(torch.device("meta"), torch.float64),
    "eigenvalues": lambda t: torch.linalg.eigvalsh(t[:, None] * t),
    "singular values": lambda t: torch.linalg.svd(t[:, None] * t),
    "triangular factor": lambda t: torch.linalg.cholesky(t[:, None] * t),
}


@pytest.mark.parametrize("name", OFFENCES)
def test_a_launcher_that_waits_is_found(name, monkeypatch):
    """What the tests above rest on."""
    chunk = sliced.directions_per_chunk

    def waiting(*args):
        OFFENCES[name](torch.empty(4, device="meta"))
        return chunk(*args)

    monkeypatch.setattr(sliced, "directions_per_chunk", waiting)
    found = (HostWaitError, RuntimeError, NotImplementedError, TypeError)
    with MetaDevice(), pytest.raises(found, match="(?i)host|meta"):
        step(sliced_of(30, 20))


def test_a_kernel_of_host_memory_is_found():
    with MetaDevice(), pytest.raises(AssertionError, match="host memory"):
        polar._value_kernel[(1,)](torch.ones(2), 3)


def test_only_the_first_call_copies_the_tables_of_steps():
    """As any kernel is compiled then: warm up before the capture, once a device and dtype."""
    polar.steps.cache_clear()
    polar_large._table.cache_clear()
    copies = []
    for d in (8, 100, 200, 9, 8, 150, 200):
        device = MetaDevice(warm_up=True)
        with device:
            step(gaussian_of(500, 400, d))
        copies.append(len(device.copies))
    assert copies == [1, 1, 1, 0, 0, 0, 0]


def test_sobol_points_come_from_the_host():
    """So they are drawn before a capture, and given as ``projections``."""
    with MetaDevice(), pytest.raises(NotImplementedError, match="meta"):
        sliced_of(30, 20, method="sobol")()


@pytest.mark.parametrize(
    "run",
    [
        sliced_of(30, 20, validate=True),
        mmd_of(3, "gaussian", validate=True),
        gaussian_of(30, 20, 3, validate=True),
    ],
)
def test_validation_waits(run):
    with MetaDevice(), pytest.raises(NotImplementedError, match="meta"):
        run()
