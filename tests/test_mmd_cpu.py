"""What is special to kernel sums on the CPU: tiles, near pairs, groups of problems, memory."""

import subprocess
import sys

import pytest
import torch
from support import assert_close64, value_and_grads

import otkernels
from otkernels._kernel_sums import _OPS, _definition
from otkernels._masses import equal_masses
from otkernels.cpu import mmd as cpu
from otkernels.cpu import pairs, pooled

PROFILES = ["gaussian", "laplacian", "cauchy", "energy", "polynomial"]
ALL = [True, True, True]
# Roundings of one pair beside those of its d coordinates: two norms, scale, root, exponential,
# slope, factor, both masses.
PAIR = 9


def inputs(n, m, d, *, profile=None, batch=(), k=1, masses=False, dtype=torch.float32, offset=0.0):
    """Arguments x, y, a, b, coefficients, rates.

    Coefficients are positive, and so are products of points where a profile is one of products, so
    that value and gradient are no small differences.
    """
    x = torch.randn(*batch, n, d) + offset
    y = 1.2 * torch.randn(*batch, m, d) + 0.3 + offset
    if profile == "polynomial":
        x, y = x.abs(), y.abs()
    a, b = (
        torch.rand(*batch, size, dtype=torch.float64).softmax(-1) if masses else None
        for size in (n, m)
    )
    coefficients = 0.5 + torch.rand(*batch, 3, dtype=torch.float64)
    rates = (0.2 + torch.rand(*batch, k, dtype=torch.float64)) / d
    rates = rates.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return x.to(dtype), y.to(dtype), a, b, coefficients, rates


def run(arguments, profile, terms=ALL, counts=(None, None), needs=None):
    """Value and gradients to x, y, a, b and coefficients."""
    needs = [t is not None for t in arguments[:5]] if needs is None else needs
    return _OPS["cpu"](*arguments, *counts, profile, terms, False, needs)


def expected(arguments, profile, terms=ALL):
    """The same from the definition in float64; None for an argument that is None."""
    *given, rates = (None if t is None else t.double() for t in arguments)
    leaves = [None if t is None else t.clone().requires_grad_() for t in given]
    value = _definition(*leaves, rates, profile, terms)
    grads = torch.autograd.grad(
        value.sum(), [t for t in leaves if t is not None], allow_unused=True, materialize_grads=True
    )
    rest = iter(grads)
    return value.detach(), *(None if t is None else next(rest) for t in leaves)


def assert_matches(arguments, profile, terms=ALL, **options):
    out = run(arguments, profile, terms, **options)
    (n, d), m = arguments[0].shape[-2:], arguments[1].shape[-2]
    dtype = arguments[-1].dtype
    for got, reference in zip(out, expected(arguments, profile, terms), strict=True):
        if reference is None:
            assert got.numel() == 0
        elif reference.numel():
            assert_close64(got, reference, terms=max(n, m) * (d + PAIR), dtype=dtype)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(cpu, "FEW", 0)
    monkeypatch.setattr(pooled, "PAIRS", 0)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pairs, "SIDE", 4)


@pytest.fixture(params=["tiles", "pooled"])
def each_form(request, small_tiles, monkeypatch):
    if request.param == "pooled":
        monkeypatch.setattr(pooled, "PAIRS", 2**20)


CASES = {
    "one rate": {},
    "three rates": {"k": 3},
    "masses": {"masses": True},
    "masses, three rates": {"masses": True, "k": 3},
    "batch": {"batch": (2, 3)},
    "batch, masses": {"batch": (3,), "masses": True, "k": 2},
    "float64": {"dtype": torch.float64, "masses": True},
    "float64, three rates": {"dtype": torch.float64, "k": 3},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16, "batch": (2,)},
}


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("profile", PROFILES)
def test_agrees_with_the_definition(profile, case):
    for n, m in ((1, 1), (3, 4), (5, 9), (8, 4)):
        for d in (2, 7):
            assert_matches(inputs(n, m, d, profile=profile, **CASES[case]), profile)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize("wanted", range(1, 8))
def test_terms(profile, masses, wanted):
    terms = [bool(wanted >> t & 1) for t in range(3)]
    assert_matches(inputs(5, 9, 6, profile=profile, masses=masses), profile, terms)


@pytest.mark.parametrize("profile", ["gaussian", "energy"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_true_size_of_tiles(profile, more):
    assert_matches(inputs(pairs.SIDE + more, 40, 5), profile)
    assert_matches(inputs(20, pairs.SIDE + more, 5, k=2), profile)


@pytest.mark.usefixtures("each_form")
def test_masses_of_one_cloud():
    x, y, a, b, *rest = inputs(9, 5, 6, masses=True)
    assert_matches((x, y, a, None, *rest), "gaussian")
    assert_matches((x, y, None, b, *rest), "gaussian")


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("d", [2, 6])
def test_each_gradient_alone(profile, d):
    arguments = inputs(9, 5, d, profile=profile, masses=True, k=2)
    whole = run(arguments, profile)
    for wanted in range(-1, 5):
        needs = [k == wanted for k in range(5)]
        value, *grads = run(arguments, profile, needs=needs)
        assert_close64(value, whole[0], terms=9 * (d + PAIR), dtype=torch.float32)
        for need, grad, reference in zip(needs, grads, whole[1:], strict=True):
            if need:
                assert_close64(grad, reference.double(), terms=9 * (d + PAIR), dtype=torch.float32)
            else:
                assert grad.numel() == 0


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES[:4])
@pytest.mark.parametrize("d", [1, 4, 5, 64])
def test_offset_and_dimension(profile, d):
    assert_matches(inputs(40, 30, d, offset=1e3), profile)
    assert_matches(inputs(40, 30, d, offset=1e3, masses=True, k=2), profile)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES[:4])
def test_clouds_far_apart(profile):
    x, y, *rest = inputs(40, 30, 8)
    assert_matches((x, y + 1e3, *rest), profile)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES[:4])
@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("masses", [False, True])
def test_coincident_and_near_points(profile, d, masses):
    x, y, *rest = inputs(10, 9, d, masses=masses, batch=(2,))
    y[:, 1] = x[:, 6]  # between
    x[:, 2] = x[:, 7]  # within, of two tiles
    x[:, 4] = x[:, 5]  # within, of one
    x[:, 8] = x[:, 9] + 1e-5
    y[:, 3] = x[:, 0] + 1e-4
    y[:, 5:] = 0.3  # the centre, about
    assert_matches((x, y, *rest), profile)


def test_clouds_of_coincident_points_only():
    x = torch.full((3, 8), 7.0)
    for profile in PROFILES[:4]:
        value, gx, gy, *_ = run((x, x, None, None, None, torch.ones(1)), profile)
        assert value == (2 * 6 / 9 - 2) * (profile != "energy")
        assert not gx.any()
        assert not gy.any()


def test_near_pairs_in_many_chunks(monkeypatch):
    monkeypatch.setattr(pairs, "NEAR_PAIRS", 5)
    x, y, *rest = inputs(12, 10, 6)
    together = [1e-3 * t + 3 * (torch.arange(len(t)) % 2)[:, None] for t in (x, y)]
    for profile in ("laplacian", "energy"):
        assert_matches((*together, *rest), profile)


@pytest.mark.parametrize("profile", ["gaussian", "cauchy"])
@pytest.mark.parametrize(("d", "apart"), [(2, 1000), (8, 40), (8, 1000)])
def test_narrow_kernel_on_distant_clusters(profile, d, apart):
    # In float32 about one centre, |x|^2 + |y|^2 - 2 <x, y> would be wrong by 5e-5 or 0.03.
    x, y, *rest = inputs(24, 20, d, k=2)
    x[12:] += apart
    y[10:] += apart
    assert_matches((x, y, *rest), profile)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("d", [2, 6])
def test_nan_stays_in_its_problem(profile, d):
    arguments = inputs(5, 6, d, batch=(4,))
    clean = run(arguments, profile)
    arguments[0][1, 2, 0] = torch.nan
    arguments[1][3, 5, 1] = torch.nan
    value, *grads = run(arguments, profile)
    assert value[[1, 3]].isnan().all()
    for got, reference in zip((value, *grads), clean, strict=True):
        assert torch.equal(got[[0, 2]], reference[[0, 2]])


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("limit", [0, 10**9], ids=["one by one", "padded"])
@pytest.mark.parametrize("profile", PROFILES)
def test_counts(monkeypatch, profile, limit):
    monkeypatch.setattr(cpu, "ALONE", limit)
    n, m = torch.tensor([7, 3, 1]), torch.tensor([2, 6, 1])
    x, y, _, _, coefficients, rates = inputs(7, 6, 6, profile=profile, batch=(3,), offset=30)
    for cloud, counts in ((x, n), (y, m)):
        cloud[torch.arange(cloud.shape[1]) >= counts[:, None]] = 0
    masses = [equal_masses(counts, cloud.shape[1]) for cloud, counts in ((x, n), (y, m))]
    value, *grads, gc = run((x, y, *masses, coefficients, rates), profile, counts=(n, m))
    for k in range(3):
        cut = [n[k], m[k]] * 2
        alone = [t[k, :size] for t, size in zip((x, y, *masses), cut, strict=True)]
        ref, *refs, ref_c = expected((*alone, coefficients[k], rates[k]), profile)
        assert_close64(value[k], ref, terms=7 * (6 + PAIR), dtype=torch.float32)
        assert_close64(gc[k], ref_c, terms=7 * (6 + PAIR), dtype=torch.float32)
        for got, reference, size in zip(grads, refs, cut, strict=True):
            assert_close64(got[k, :size], reference, terms=7 * (6 + PAIR), dtype=torch.float32)
            assert not got[k, size:].any()


@pytest.mark.usefixtures("each_form")
def test_unwanted_terms_do_not_matter():
    x, y, a, b, coefficients, rates = inputs(5, 6, 7)
    clean = run((x, y, a, b, coefficients, rates), "gaussian", [True, False, True])
    coefficients[1] = torch.nan
    value, gx, gy, *_ = run((x, y, a, b, coefficients, rates), "gaussian", [True, False, True])
    for got, reference in zip((value, gx, gy), clean, strict=False):
        assert torch.equal(got, reference)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("group", [1, 50, 10**6])
def test_groups_of_problems(monkeypatch, group):
    monkeypatch.setattr(cpu, "GROUP", group)
    assert_matches(inputs(3, 2, 5, batch=(11,), masses=True), "gaussian")


@pytest.mark.usefixtures("each_form")
def test_expanded_transposed_and_empty_inputs():
    x, y, a, b, coefficients, rates = inputs(5, 6, 7, masses=True)
    strided = x.mT.contiguous().mT.expand(3, 5, 7), y.expand(3, 6, 7), a.expand(3, 5)
    rest = b.expand(3, 6), coefficients.expand(3, 3), rates.expand(3, 1)
    assert_matches((*strided, *rest), "cauchy")
    none = run([t.expand(0, *t.shape) for t in (x, y, a, b, coefficients, rates)], "cauchy")
    assert [tuple(t.shape) for t in none] == [(0,), (0, 5, 7), (0, 6, 7), (0, 5), (0, 6), (0, 3)]


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "imq", "energy"])
def test_equal_clouds(monkeypatch, kernel):
    monkeypatch.undo()
    for n, d in ((2, 6), (3, 9), (33, 3), (40, 16), (200, 20)):
        x = torch.randn(n, d) + 100
        for bandwidth in ("median", 1.0, 1e-3, 1e-7) if kernel != "energy" else ("median",):
            out = otkernels.mmd(x, x.flip(0), kernel=kernel, bandwidth=bandwidth, impl="cpu")
            size = 1 if kernel != "energy" else 2 * torch.cdist(x, x).mean()
            assert abs(out) <= 1e-7 * size


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "imq"])
def test_equal_clouds_of_float64(kernel):
    x = 10 * torch.randn(60, 8, dtype=torch.float64)
    for bandwidth in (1.0, 1e-6, 1e-12):
        out = otkernels.mmd(x, x.flip(0), kernel=kernel, bandwidth=bandwidth, impl="cpu")
        assert abs(out) <= 60 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "imq", "energy"])
def test_small_clouds_a_million_apart(monkeypatch, kernel):
    monkeypatch.undo()
    scale = {} if kernel == "energy" else {"bandwidth": 1.0}
    x, y = torch.randn(20, 8), torch.randn(20, 8) + 1e6
    (value, gradient), (expected, reference) = (
        value_and_grads(lambda x, y=y, i=i: otkernels.mmd(x, y, kernel=kernel, impl=i, **scale), x)
        for x, y, i in ((x, y, "cpu"), (x.double(), y.double(), "torch"))
    )
    assert_close64(value, expected, terms=20 * (8 + PAIR))
    assert_close64(gradient, reference, terms=20 * (8 + PAIR))


@pytest.mark.parametrize("bandwidth", [1.0, 1e-5, 1e-7])
def test_nan_does_not_choose_for_others(monkeypatch, bandwidth):
    monkeypatch.undo()
    x = torch.randn(2, 10, 5)
    x[0, 0, 0] = torch.nan
    value = otkernels.mmd(x, x.flip(1), bandwidth=bandwidth, impl="cpu")
    assert value[0].isnan()
    assert abs(value[1]) <= 1e-7


def test_collapsed_clouds_are_taken_by_differences(monkeypatch):
    monkeypatch.setattr(pairs.Pairs, "_near_differences", None)  # of single pairs, which is slow
    x, y, *rest = inputs(40, 30, 6)
    for profile in ("laplacian", "energy"):
        assert_matches((x * 0 + 1, y * 0 + 1, *rest), profile)


def test_many_tiny_equal_clouds(monkeypatch):
    monkeypatch.undo()
    x = torch.randn(10_000, 3, 9) + 100
    assert pooled.PAIRS < 10_000 * 6**2  # so they go to the tiles
    assert otkernels.mmd(x, x.flip(1), kernel="imq", impl="cpu").abs().max() <= 1e-7


def test_same_bits_again():
    arguments = inputs(700, 600, 9, masses=True, k=2)
    for first, again in zip(run(arguments, "laplacian"), run(arguments, "laplacian"), strict=True):
        assert torch.equal(first, again)


PEAK = """
import torch, otkernels
def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))
torch.manual_seed(0)
def grads(n):
    x, y = torch.randn(n, 8, requires_grad=True), torch.randn(n, 8, requires_grad=True)
    otkernels.mmd(x, y, bandwidth=3.0, impl="cpu").backward()
grads(64)
before = peak()
grads(5000)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_linear():
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=120
    )
    # One float32 array of 5000 x 5000 has 95 MiB.
    assert float(done.stdout) < 30
