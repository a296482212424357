import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from otkernels import mmd, random_features
from otkernels._kernels import KERNELS, kernel_matrix
from otkernels.random_features import (
    mmd_random_features,
    random_fourier_features,
    sample_frequencies,
)
from tests.support import problem, value_and_grads

NAMES = ("gaussian", "laplacian", "imq", "rational_quadratic")
WITHOUT = ("polynomial", "energy")


def close(out, reference, terms, size):
    """Within the rounding of sums whose terms have the mean ``size``."""
    eps = torch.finfo(out.dtype).eps
    assert out.shape == reference.shape
    assert (out - reference).abs().max() <= (1 + terms**0.5) * eps * size


def z_scores(samples, expected):
    """Deviation of the mean over the first axis in standard errors; exact ones count as 0."""
    error = (samples - expected).mean(0)
    spread = samples.std(0) / len(samples) ** 0.5
    return torch.where(error.abs() < 1e-14, 0, error / spread).abs()


def exact(kernel, x, y, bandwidth):
    k = KERNELS[kernel]
    return kernel_matrix(k.profile, x, y, torch.tensor([k.factor / bandwidth**2]).double())


def draws(count, d, n, kernel):
    """Independent draws of frequencies (count, d, n), float64."""
    w = sample_frequencies(d, count * n, kernel=kernel, dtype=torch.float64)
    return w.unflatten(1, (count, n)).movedim(1, 0)


# --- frequencies --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("d", [1, 2, 7])
def test_characteristic_function_is_the_kernel(kernel, d):
    w = sample_frequencies(d, 40_000, kernel=kernel, dtype=torch.float64)
    points = torch.cat([torch.zeros(1, d), torch.randn(4, d) / d**0.5, torch.ones(1, d)]).double()
    found = torch.cos(points @ w).T
    truth = exact(kernel, points, torch.zeros(1, d).double(), 1.0)[:, 0]
    assert z_scores(found, truth).max() < 4.5
    assert z_scores(torch.sin(points @ w).T, 0.0).max() < 4.5


def test_frequencies_of_the_laplacian_are_cauchy():
    """On the line: quartiles -1, 0, 1; in the plane half of the lengths are above sqrt(3)."""
    n = 20_000
    w = sample_frequencies(1, n, kernel="laplacian")[0]
    for quartile, share in ((-1.0, 0.25), (0.0, 0.5), (1.0, 0.75)):
        assert abs((w < quartile).double().mean() - share) < 4.5 * (share * (1 - share) / n) ** 0.5
    length = sample_frequencies(2, n, kernel="laplacian").norm(dim=0)
    assert abs((length < 3**0.5).double().mean() - 0.5) < 4.5 * 0.5 / n**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frequencies_are_repeatable(dtype, device):
    for kernel in NAMES:
        options = {"kernel": kernel, "device": device, "dtype": dtype}
        one, same, other = (
            sample_frequencies(3, 8, generator=torch.Generator(device).manual_seed(seed), **options)
            for seed in (1, 1, 2)
        )
        assert one.shape == (3, 8)
        assert one.dtype == dtype
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


# --- features -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", NAMES)
def test_inner_products_of_features_have_the_kernel_as_their_mean(kernel):
    x, y = torch.randn(4, 3).double(), torch.randn(5, 3).double()
    s, w = 1.7, draws(400, 3, 16, kernel)
    options = {"kernel": kernel, "bandwidth": s, "frequencies": w}
    zx, zy = (random_fourier_features(t, **options) for t in (x, y))
    assert zx.shape == (400, 4, 32)
    assert z_scores(zx @ zy.mT, exact(kernel, x, y, s)).max() < 4.5


def test_features_by_hand():
    x, w = torch.randn(2, 3, 5).double(), torch.randn(5, 4).double()
    found = random_fourier_features(x, bandwidth=(0.5, 3.0), frequencies=w)
    parts = [f(x @ w / s) / 2 for s in (0.5, 3.0) for f in (torch.cos, torch.sin)]
    torch.testing.assert_close(found, torch.cat(parts, -1))
    own = torch.tensor([[0.5], [3.0]])
    found = random_fourier_features(x, bandwidth=own, frequencies=w)
    for k in range(2):
        alone = random_fourier_features(x[k], bandwidth=own[k].item(), frequencies=w)
        torch.testing.assert_close(found[k], alone)


def test_frequencies_and_bandwidths_may_have_leading_axes():
    x, w = torch.randn(3, 1, 4, 2).double(), torch.randn(2, 2, 6).double()
    s = torch.rand(5, 1, 1, 2) + 0.5
    found = random_fourier_features(x, bandwidth=s, frequencies=w)
    assert found.shape == (5, 3, 2, 4, 24)
    alone = random_fourier_features(x[1, 0], bandwidth=s[4, 0, 0], frequencies=w[1])
    torch.testing.assert_close(found[4, 1, 1], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_points_have_float32_features(dtype):
    x, _, w = problem(9, 3, 8, dtype=dtype)
    found = random_fourier_features(x, bandwidth=2.0, frequencies=w)
    assert found.dtype == torch.float32
    reference = random_fourier_features(x.double(), bandwidth=2.0, frequencies=w.double())
    angle = (x.double() @ w.double() / 2).abs().max().item()
    close(found, reference, 3, 1 + angle)


# --- the discrepancy ----------------------------------------------------------------------------


def by_hand(z, unbiased, a, b):
    """MMD^2 of the kernel z z' over points of x, then of y, from all pairs; masses a, b."""
    gram, n = z @ z.T, len(a)
    terms = []
    for part, mass in ((slice(n), a), (slice(n, None), b)):
        pairs = mass[:, None] * mass
        pairs = pairs - pairs.diag().diag() if unbiased else pairs
        terms.append((gram[part, part] * pairs).sum() / pairs.sum())
    return sum(terms) - 2 * (gram[:n, n:] * a[:, None] * b).sum()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(random_features, "BLOCK", 7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kernel", NAMES)
def test_value_is_the_definition_over_features(kernel, weighted, unbiased):
    x, y = torch.randn(20, 3).double(), torch.randn(15, 3).double() + 1
    w = sample_frequencies(3, 10, kernel=kernel, dtype=torch.float64)
    a, b = (torch.rand(n).double() if weighted else torch.ones(n).double() for n in (20, 15))
    options = {"kernel": kernel, "bandwidth": (1.0, 2.0), "frequencies": w}
    weights = {"a": a, "b": b} if weighted else {}
    found = mmd_random_features(x, y, unbiased=unbiased, **weights, **options)
    z = random_fourier_features(torch.cat([x, y]), **options)
    angle = (torch.cat([x, y]) @ w).abs().max().item()  # whose rounding both share
    reference = by_hand(z, unbiased, a / a.sum(), b / b.sum())
    close(found, reference, 20 * 15, 2 * (4 + angle))
    found32 = mmd_random_features(x.float(), y.float(), unbiased=unbiased, **weights, **options)
    assert found32.dtype == torch.float32
    # Points are rounded too, and their rounding is one of angles.
    close(found32, found.float(), 20 + 15, 2 * (4 + 3 * angle))


@pytest.mark.usefixtures("small_blocks")
def test_lengths_and_batches():
    x, y = torch.randn(3, 1, 20, 2).double(), torch.randn(2, 15, 2).double()
    x_lengths, y_lengths = torch.tensor([20, 8, 3])[:, None], torch.tensor([15, 7])
    w = sample_frequencies(2, 10, dtype=torch.float64)
    b = torch.rand(2, 15)
    options = {"bandwidth": 1.5, "frequencies": w, "unbiased": True}
    padded = x.clone()
    padded[1, 0, 8:] = torch.nan
    found = mmd_random_features(padded, y, b=b, x_lengths=x_lengths, y_lengths=y_lengths, **options)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            n, m = x_lengths[i, 0], y_lengths[j]
            alone = mmd_random_features(x[i, 0, :n], y[j, :m], b=b[j, :m], **options)
            close(found[i, j], alone, 35, 4.0)
    total = mmd_random_features(x, y, bandwidth=1.5, frequencies=w, reduction="sum")
    each = mmd_random_features(x, y, bandwidth=1.5, frequencies=w)
    close(total, each.sum(), 35, 24.0)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", NAMES)
def test_mean_over_draws_is_the_exact_mmd_and_the_error_falls_as_the_root(kernel, unbiased):
    x, y = torch.randn(30, 2).double(), torch.randn(40, 2).double() + 0.7
    options = {"kernel": kernel, "unbiased": unbiased, "bandwidth": "median"}
    truth = mmd(x, y, impl="torch", **options)
    errors = {}
    for f in (16, 256):
        w = draws(400, 2, f // 2, kernel)
        errors[f] = mmd_random_features(x, y, frequencies=w, **options) - truth
        assert z_scores(errors[f], 0.0) < 4.5
    # 16 times the features: a variance 16 times smaller, within the noise of both.
    scaled = [f * errors[f].square() for f in errors]
    spread = sum(s.var() / len(s) for s in scaled).sqrt()
    assert (scaled[0].mean() - scaled[1].mean()).abs() < 4.5 * spread


def test_equal_clouds_have_no_discrepancy_wherever_they_lie():
    x, y, _ = problem(20, 3, 4)
    w = sample_frequencies(3, 16, dtype=torch.float32)
    options = {"bandwidth": 1.0, "frequencies": w}
    assert mmd_random_features(x + 1024, x + 1024, **options) == 0
    # The coordinates have so few bits that the shift is exact.
    here = value_and_grads(lambda x, y: mmd_random_features(x, y, **options), x, y)
    there = value_and_grads(lambda x, y: mmd_random_features(x, y, **options), x + 1024, y + 1024)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one, other)


def test_squared_false_is_the_root_with_gradient_0_at_0():
    x, y = torch.randn(5, 2), torch.randn(6, 2)
    w = sample_frequencies(2, 8)
    root = mmd_random_features(x, y, bandwidth=1.0, frequencies=w, squared=False)
    assert root == mmd_random_features(x, y, bandwidth=1.0, frequencies=w).sqrt()
    x.requires_grad_()
    mmd_random_features(x, x, bandwidth=1.0, frequencies=w, squared=False).backward()
    assert (x.grad == 0).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("unbiased", [True, False])
def test_gradients_of_first_and_second_order(unbiased):
    x, y = torch.randn(9, 2).double(), torch.randn(4, 2).double()
    a, b = torch.rand(9).double() + 0.1, torch.rand(4).double() + 0.1
    tensors = [t.requires_grad_() for t in (x, y, a, b, torch.randn(2, 3).double())]

    def function(x, y, a, b, w):
        return mmd_random_features(
            x, y, a=a, b=b, bandwidth=(0.8, 2.0), frequencies=w, unbiased=unbiased
        )

    assert gradcheck(function, tensors)
    assert gradgradcheck(function, tensors)


def test_gradient_is_that_of_the_definition_although_the_origin_moves_with_x():
    """The first point of x, which others are measured from, gets its gradient too."""
    x, y = torch.randn(6, 2).double(), torch.randn(5, 2).double()
    w = sample_frequencies(2, 8, dtype=torch.float64)
    options = {"bandwidth": 1.0, "frequencies": w}

    def definition(x, y):
        zx, zy = (random_fourier_features(t, **options) for t in (x, y))
        return (zx.mean(0) - zy.mean(0)).square().sum()

    def ours(x, y):
        return mmd_random_features(x, y, **options)

    size = 4 * (1 + w.abs().max().item()) ** 2
    found, reference = (value_and_grads(f, x, y) for f in (ours, definition))
    for one, other in zip(found, reference, strict=True):
        close(one, other, 11 * 16, size)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_spoils_its_own_problem_only(bad):
    x, y = torch.randn(3, 8, 2), torch.randn(3, 5, 2)
    x[1, 4, 0] = bad
    value, gx, gy = value_and_grads(
        lambda x, y: mmd_random_features(x, y, bandwidth=1.0, n_features=8), x, y
    )
    for t in (value, gx, gy):
        assert t[1].isnan().all()
        assert t[[0, 2]].isfinite().all()


def test_unbiased_with_all_mass_in_one_point_is_nan_for_its_own_problem():
    x, y, a = torch.randn(2, 4, 2), torch.randn(2, 5, 2), torch.rand(2, 4)
    a[1] = torch.tensor([0.0, 3.0, 0.0, 0.0])
    value, gx, gy = value_and_grads(
        lambda x, y: mmd_random_features(x, y, a=a, bandwidth=1.0, n_features=8, unbiased=True),
        x,
        y,
    )
    for t in (value, gx, gy):
        assert t[1].isnan().all()
        assert t[0].isfinite().all()


def test_generator_global_seed_and_given_frequencies():
    x, y = torch.randn(8, 2), torch.randn(5, 2)
    values = [
        mmd_random_features(x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]
    w = sample_frequencies(2, 512, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    assert mmd_random_features(x, y, frequencies=w) == values[0]
    torch.manual_seed(3)
    first = mmd_random_features(x, y)
    torch.manual_seed(3)
    assert first == mmd_random_features(x, y)


class Largest(TorchDispatchMode):
    """The largest number of elements that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return out


def test_without_gradient_features_of_one_block_are_held(monkeypatch):
    monkeypatch.setattr(random_features, "BLOCK", 32)
    x, y = torch.randn(1000, 2), torch.randn(900, 2)
    with Largest() as largest:
        mmd_random_features(x, y, bandwidth=1.0, n_features=64)
    assert largest.numel == 32 * 64


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", WITHOUT)
def test_kernels_without_frequencies_are_refused_by_name(kernel):
    x = torch.randn(4, 2)
    text = (
        f"kernel must have random .*; got '{kernel}'. Use mmd or mmd_blocks with kernel='{kernel}'"
    )
    for name, call in {
        "mmd_random_features": lambda: mmd_random_features(x, x, kernel=kernel),
        "random_fourier_features": lambda: random_fourier_features(x, bandwidth=1.0, kernel=kernel),
        "sample_frequencies": lambda: sample_frequencies(2, 4, kernel=kernel),
    }.items():
        with pytest.raises(NotImplementedError, match=f"^{name}: {text}"):
            call()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"kernel": "rbf"}, ValueError, "kernel must be one of 'gaussian', .*; got 'rbf'"),
        ({"n_features": 7}, ValueError, "n_features must be even; got 7"),
        ({"n_features": 0}, ValueError, "n_features must be an integer >= 1; got 0"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be a positive number; got 0.0"),
        ({"generator": 1}, TypeError, "generator must be a torch.Generator or None; got int"),
        (
            {"frequencies": torch.zeros(3, 4)},
            ValueError,
            r"frequencies must have shape \(2, F / 2\) or \(..., 2, F / 2\); got \(3, 4\)",
        ),
        (
            {"x": torch.zeros(3, 5, 2), "frequencies": torch.zeros(4, 2, 6)},
            ValueError,
            r"frequencies must have leading axes that broadcast with x's and y's \(3,\)",
        ),
        ({"frequencies": [1.0]}, TypeError, "frequencies must be a torch.Tensor; got list"),
        (
            {"frequencies": torch.full((2, 4), math.inf), "validate": True},
            ValueError,
            "frequencies must be finite everywhere; got inf",
        ),
        ({"unbiased": True, "squared": False}, ValueError, "squared must be True with unbiased"),
        ({"y": torch.zeros(1, 2), "unbiased": True}, ValueError, "y must have at least two points"),
        ({"y": torch.zeros(4, 2).double()}, ValueError, "y must have x's dtype"),
        ({"a": torch.zeros(3)}, ValueError, r"a must have shape \(..., 5\)"),
        ({"x_lengths": torch.tensor(9)}, ValueError, "x_lengths must be from 1 to 5"),
    ],
)
def test_errors(options, error, text):
    arguments = {"x": torch.zeros(5, 2), "y": torch.zeros(4, 2), "bandwidth": 1.0} | options
    with pytest.raises(error, match=f"^mmd_random_features: {text}"):
        mmd_random_features(**arguments)


def test_errors_of_features_and_frequencies():
    with pytest.raises(ValueError, match="^random_fourier_features: bandwidth must be a positive"):
        random_fourier_features(torch.zeros(3, 2), bandwidth="median")
    with pytest.raises(NotImplementedError, match="bandwidth must not require a gradient"):
        random_fourier_features(torch.zeros(3, 2), bandwidth=torch.ones((), requires_grad=True))
    with pytest.raises(ValueError, match="^sample_frequencies: d must be an integer >= 1; got 0"):
        sample_frequencies(0, 4)
    with pytest.raises(ValueError, match="^sample_frequencies: dtype must be float32 or float64"):
        sample_frequencies(2, 4, dtype=torch.float16)
