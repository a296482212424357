"""Memory stays within stated budgets, and running out of it is an error that the caller sees."""

import ast
import pathlib
import tracemalloc

import pytest
import torch
from meta_device import MetaDevice, Watch

import otkernels as ot
from otkernels.cpu import bures as cpu_bures
from otkernels.cpu import match
from otkernels.cpu import moments as cpu_moments
from otkernels.cpu import pairs as cpu_pairs
from otkernels.cpu import rows as cpu_rows
from otkernels.cpu import sliced as cpu_sliced
from otkernels.kernels import mmd, sliced
from otkernels.kernels.split import ROWS

MEGA = 10**6
SOURCES = sorted(pathlib.Path(ot.__file__).parent.rglob("*.py"))


def peak_on_device(function, *inputs, **options):
    """Bytes beyond the inputs of a forward and backward pass of a warm impl="triton"."""
    inputs = [torch.empty(shape, device="meta", requires_grad=True) for shape in inputs]
    for device in (MetaDevice(warm_up=True), MetaDevice()):
        with device:
            _both_passes(function, inputs, options)
    return device.peak


def peak_on_cpu(function, *inputs, **options):
    """The same of impl="cpu", with NumPy's memory and in one thread."""
    inputs = [torch.randn(shape, requires_grad=True) for shape in inputs]
    cpu_rows._kept.__dict__.clear()
    watch = Watch()
    tracemalloc.start()
    try:
        with watch:
            _both_passes(function, inputs, options | {"impl": "cpu"})
        return watch.peak + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _both_passes(function, inputs, options):
    value = function(*inputs, **options)
    value = value if isinstance(value, torch.Tensor) else value[1]
    torch.autograd.grad(value.sum(), inputs)


# The bounds below are those of docs/features.md, "Memory": bytes beyond inputs, float32, for clouds
# of N and M points of D features or P matrices D x D. Gradients of losses count twice: as they are
# stored, and as backward returns them.


@pytest.mark.parametrize("n_projections", [512])
@pytest.mark.parametrize("n", [1000, 10_000, MEGA])
@pytest.mark.parametrize("weights", [False, True])
def test_sliced_on_device(n, n_projections, weights):
    m = n // 2 if weights else n
    inputs = [(n, 16), (m, 16)] + [(n,)] * weights
    used = peak_on_device(
        lambda x, y, a=None: ot.sliced_wasserstein(x, y, a=a, n_projections=n_projections), *inputs
    )
    scratch = max(sliced.CHUNK_BYTES_SORTED, 100 * (n + m))  # or of one direction
    assert used <= 8 * (n + m) * 16 + scratch * (1.5 if weights else 1)


@pytest.mark.parametrize("n", [10_000, MEGA])
def test_to_normal_on_device(n):
    used = peak_on_device(ot.sliced_wasserstein_to_normal, (n, 16), n_projections=1024)
    assert used <= 8 * n * 16 + max(sliced.CHUNK_BYTES_SORTED, 200 * n)


@pytest.mark.parametrize("d", [4, 64, 200])
@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_mmd_on_device(n, kernel, d):
    """N M numbers would be 40 GB for the larger clouds."""
    used = peak_on_device(ot.mmd, (n, d), (n, d), kernel=kernel)
    shares = mmd.PROGRAMS * ROWS * (4 * d + 64)
    assert used <= 16 * 2 * n * d + 64 * 2 * n + (2 * n) ** 2 / 16_000 + shares


@pytest.mark.parametrize("d", [4, 64])
@pytest.mark.parametrize("sizes", [(64, MEGA), (1000, MEGA), (MEGA, 64)], ids=str)
def test_mmd_of_few_points_and_many_on_device(sizes, d):
    """Columns are shared out among programs of few rows, but not the many rows' results."""
    n, m = sizes
    used = peak_on_device(ot.mmd, (n, d), (m, d), bandwidth=1.0)
    shares = mmd.PROGRAMS * ROWS * (4 * d + 64)
    assert used <= 16 * (n + m) * d + 64 * (n + m) + (n + m) ** 2 / 16_000 + shares


@pytest.mark.parametrize("d", [16, 200, 512])
@pytest.mark.parametrize("n", [100, 100_000])
def test_gaussians_on_device(n, d):
    used = peak_on_device(ot.gaussian_wasserstein, (n, d), (n, d))
    assert used <= 18 * 2 * n * d + 160 * 2 * d * d + MEGA
    if n > d:
        used = peak_on_device(ot.mean_cov, (n, d))
        assert used <= 8 * n * d + 40 * d * d + MEGA


@pytest.mark.parametrize("d", [16, 64, 512])
def test_matrices_on_device(d):
    p = 8
    matrices, means = (p, d, d), (p, d)
    assert peak_on_device(ot.bures_wasserstein, means, matrices, means, matrices) <= 160 * p * d * d
    assert peak_on_device(ot.sqrtm, matrices) <= 130 * p * d * d


@pytest.mark.parametrize("m", [16_384, 10_000])
def test_sliced_on_the_cpu(m):
    n = 16_384
    chunks = 2 * 4 * cpu_sliced.CHUNK
    for n_projections in (64, 256):  # all in one chunk, and four of them
        used = peak_on_cpu(ot.sliced_wasserstein, (n, 8), (m, 8), n_projections=n_projections)
        assert used <= 8 * (n + m) * 8 + chunks + 44 * match.BLOCK


@pytest.mark.parametrize("n", [500, 1800])
def test_mmd_on_the_cpu(n):
    used = peak_on_cpu(ot.mmd, (n, 16), (n, 16), bandwidth=1.0)
    assert used <= 8 * 2 * n * 16 + 36 * n * 16 + 6 * 4 * cpu_pairs.SIDE**2


@pytest.mark.parametrize(("n", "d"), [(4000, 64), (1000, 200)])
def test_gaussians_on_the_cpu(n, d):
    work = 4 * max(cpu_moments.GROUP, cpu_moments.ROWS * d)
    assert peak_on_cpu(ot.mean_cov, (n, d)) <= 8 * n * d + work
    used = peak_on_cpu(ot.gaussian_wasserstein, (n, d), (n, d))
    assert used <= 18 * 2 * n * d + 2 * work + 200 * d * d


@pytest.mark.parametrize(("p", "d"), [(1, 64), (2048, 16), (16, 128)])
def test_matrices_on_the_cpu(p, d):
    inputs = (p, d), (p, d, d), (p, d), (p, d, d)
    together = max(cpu_bures.GROUP, d * d)
    assert peak_on_cpu(ot.bures_wasserstein, *inputs) <= 32 * p * d * d + 200 * together
    assert peak_on_cpu(ot.sqrtm, (p, d, d)) <= 75 * p * d * d + MEGA


# --- running out of it ----------------------------------------------------------------------------


class _Full(MetaDevice):
    """A device on which one allocation of a raw operator fails."""

    def __init__(self, at):
        super().__init__(warm_up=True)
        self.at = at
        self.after = None

    def look_at(self, func, given, args, kwargs):
        super().look_at(func, given, args, kwargs)
        if self.after is not None:
            self.after.append(func)
        elif self.raw_ops and any(k in func.__name__ for k in ("empty", "zeros", "ones")):
            self.at -= 1
            if self.at < 0:
                self.after = []
                raise torch.OutOfMemoryError("out of memory: 1.00 GiB wanted")


LOSSES = {
    "sliced": (ot.sliced_wasserstein, (300, 4), (300, 4)),
    "sizes": (ot.sliced_wasserstein, (300, 4), (200, 4)),
    "line": (ot.wasserstein_1d, (300,), (200,)),
    "to_normal": (ot.sliced_wasserstein_to_normal, (300, 4)),
    "mmd": (ot.mmd, (300, 40), (200, 40)),
    "gaussian": (ot.gaussian_wasserstein, (300, 20), (200, 20)),
    "large gaussian": (ot.gaussian_wasserstein, (300, 200), (300, 200)),
    "sqrtm": (ot.sqrtm, (20, 20)),
}


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_running_out_of_memory_reaches_the_caller(loss, at):
    """As it is, and at once: nothing is tried again, nor in another way."""
    function, *inputs = LOSSES[loss]
    inputs = [torch.empty(shape, device="meta", requires_grad=True) for shape in inputs]
    device = _Full(at)
    with device, pytest.raises(torch.OutOfMemoryError, match="1.00 GiB wanted"):
        _both_passes(function, inputs, {})
    assert device.after == []


# Handlers that could catch it, and what they may stand around: no tensor is made there.
BROAD = {"Exception", "BaseException", "RuntimeError", "MemoryError", "OutOfMemoryError", None}
HARMLESS = {"broadcast_shapes"}


def broad_handlers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                if ast.unparse(handler).startswith("except torch.OutOfMemoryError:\n    raise"):
                    break  # the handlers below do not see it
                types = getattr(handler.type, "elts", [handler.type])
                names = {getattr(t, "attr", getattr(t, "id", None)) for t in types}
                raises = any(isinstance(n, ast.Raise) and n.exc is None for n in handler.body)
                if names & BROAD and not raises and not _only_harmless(node.body):
                    yield handler.lineno


def _only_harmless(body):
    calls = [n.func for statement in body for n in ast.walk(statement) if isinstance(n, ast.Call)]
    return all(getattr(c, "attr", None) in HARMLESS for c in calls)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_handler_can_hide_it(path):
    if path.parent.name == "verify":
        pytest.skip("a command that reports the failures of other libraries")
    assert list(broad_handlers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("caught", ["", " Exception", " RuntimeError", " (KeyError, Exception)"])
def test_a_broad_handler_is_found(caught):
    source = f"try:\n    launch(x)\nexcept{caught}:\n    x = None\n"
    assert list(broad_handlers(ast.parse(source))) == [3]
    assert not list(broad_handlers(ast.parse(source.replace("x = None", "raise"))))
