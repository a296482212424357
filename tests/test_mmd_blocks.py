import pytest
import torch

from otkernels import median_bandwidth, mmd
from otkernels._kernels import KERNELS
from otkernels.mmd_blocks import mmd_blocks
from tests.support import value_and_grads


def close(out, reference, terms, size=4.0):
    """Within the rounding of sums whose terms have the mean ``size``."""
    eps = torch.finfo(out.dtype).eps
    assert out.shape == reference.shape
    assert (out - reference).abs().max() <= (1 + terms**0.5) * eps * size


def by_hand(x, y, blocks, **options):
    """Unbiased MMD^2 of each of the blocks, one after the other: (..., blocks)."""
    n, m = x.shape[-2] // blocks, y.shape[-2] // blocks
    each = [
        mmd(
            x[..., k * n : (k + 1) * n, :],
            y[..., k * m : (k + 1) * m, :],
            unbiased=True,
            impl="torch",
            **options,
        )
        for k in range(blocks)
    ]
    return torch.stack(each, dim=-1)


# --- what it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_block_is_the_unbiased_mmd(kernel, impl):
    x, y = torch.rand(13, 3).double(), torch.rand(17, 3).double()
    found = mmd_blocks(x, y, block_size=13, kernel=kernel, impl=impl)
    size = 4 * 8.0 if kernel == "polynomial" else 8.0  # the largest kernel value in the cube is 8
    close(found.value, mmd(x, y, kernel=kernel, unbiased=True, impl="torch"), 17**2, size)
    assert found.standard_error.isnan()


@pytest.mark.parametrize(
    ("n", "m", "block_size", "blocks"),
    [
        (20, 20, 5, 4),
        (23, 20, 5, 4),
        (20, 47, 5, 4),
        (47, 20, 5, 4),
        (11, 13, 4, 2),
        (9, 9, 5, 1),
        (4, 4, 2, 2),
    ],
)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_mean_over_blocks(n, m, block_size, blocks, batch):
    x, y = torch.randn(*batch, n, 2).double(), torch.randn(*batch, m, 2).double()
    found = mmd_blocks(x, y, block_size=block_size, bandwidth=1.3, impl="torch")
    each = by_hand(x, y, blocks, bandwidth=1.3)
    close(found.value, each.mean(-1), n * m)
    if blocks > 1:
        spread = (each - each.mean(-1, keepdim=True)).square().sum(-1) / (blocks - 1) / blocks
        close(found.standard_error, spread.sqrt(), n * m)


def test_median_is_one_for_all_blocks():
    scales = torch.logspace(-1, 1, 4).repeat_interleave(10)[:, None]
    x, y = scales * torch.randn(3, 40, 2), 1 + scales * torch.randn(3, 40, 2)
    median = median_bandwidth(x, y)
    one = mmd_blocks(x, y, block_size=10, impl="torch")
    same = mmd_blocks(x, y, block_size=10, bandwidth=median[:, None], impl="torch")
    assert torch.equal(one.value, same.value)
    for k in range(3):
        close(one.value[k], by_hand(x[k], y[k], 4, bandwidth=median[k]).mean(), 400)


def test_every_problem_has_its_own_bandwidths():
    x, y = torch.randn(3, 20, 2).double(), torch.randn(20, 2).double() + 1
    bandwidth = torch.tensor([[0.3, 1.0], [1.0, 2.0], [0.1, 0.2]])
    found = mmd_blocks(x, y, block_size=5, bandwidth=bandwidth, impl="torch").value
    for k in range(3):
        close(found[k], by_hand(x[k], y, 4, bandwidth=bandwidth[k]).mean(), 400, 8.0)
    scalar = mmd_blocks(x, y, block_size=5, bandwidth=torch.tensor(0.5), impl="torch").value
    assert torch.equal(scalar, mmd_blocks(x, y, block_size=5, bandwidth=0.5, impl="torch").value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    x, y = torch.randn(20, 2).to(dtype), torch.randn(20, 2).to(dtype)
    found = mmd_blocks(x, y, block_size=5, bandwidth=1.0, impl="torch")
    assert found.value.dtype == found.standard_error.dtype == torch.float32
    close(found.value, by_hand(x.double(), y.double(), 4, bandwidth=1.0).mean(), 25)


# --- its law ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_value_is_unbiased_and_the_standard_error_is_its_own(shift):
    """Against MMD^2 of two normal laws with unit covariance, Gaussian kernel, in closed form."""
    d, s, draws = 2, 1.5, 3000
    mean = torch.tensor([shift, 0.0]).double()
    same = (s**2 / (s**2 + 2)) ** (d / 2)
    truth = 2 * same * (1 - torch.exp(-mean.square().sum() / (2 * (s**2 + 2))))
    x = torch.randn(draws, 40, d).double()
    y = torch.randn(draws, 45, d).double() + mean
    found = mmd_blocks(x, y, block_size=5, bandwidth=s, impl="torch")
    error = found.value - truth
    assert z_score(error) < 4
    # Both have the variance of the value as their mean.
    assert z_score(error.square() - found.standard_error.square()) < 4


def z_score(samples):
    return (samples.mean() / (samples.std() / len(samples) ** 0.5)).abs()


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["torch", "cpu"])
def test_gradients(impl):
    x, y = torch.randn(2, 23, 2).double(), torch.randn(2, 20, 2).double()
    cotangent = torch.tensor([1.0, -2.0])

    def ours(x, y):
        return mmd_blocks(x, y, block_size=5, bandwidth=1.0, impl=impl).value

    def definition(x, y):
        return by_hand(x, y, 4, bandwidth=1.0).mean(-1)

    found = value_and_grads(ours, x, y, weight=cotangent)
    for one, other in zip(found, value_and_grads(definition, x, y, weight=cotangent), strict=True):
        close(one, other, 25)
    assert (found[1][:, 20:] == 0).all()  # points left over
    assert (found[1][:, :20] != 0).all()


def test_standard_error_has_no_gradient():
    x, y = torch.randn(10, 2, requires_grad=True), torch.randn(10, 2)
    found = mmd_blocks(x, y, block_size=5, impl="torch")
    assert found.value.requires_grad
    assert not found.standard_error.requires_grad


def test_nan_spoils_all_blocks_of_its_own_problem_only():
    x, y = torch.randn(3, 20, 2), torch.randn(3, 20, 2)
    x[1, 7] = torch.nan
    value, gx, gy = value_and_grads(
        lambda x, y: mmd_blocks(x, y, block_size=5, bandwidth=1.0, impl="torch").value, x, y
    )
    for t in (value, gx, gy):
        assert t[1].isnan().all()
        assert t[[0, 2]].isfinite().all()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"block_size": 1}, ValueError, "block_size must be from 2 to 8, .*; got 1"),
        ({"block_size": 9}, ValueError, "block_size must be from 2 to 8, .*; got 9"),
        ({"block_size": 2.5}, ValueError, "block_size must be an integer >= 1; got 2.5"),
        ({"kernel": "rbf"}, ValueError, "kernel must be one of 'gaussian', .*; got 'rbf'"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be a positive number; got -1.0"),
        ({"precision": "half"}, ValueError, "precision must be one of 'full', 'fast'"),
        ({"x": torch.zeros(9, 3)}, ValueError, "y must have x's 3 features"),
        ({"x": torch.zeros(9, 2).int()}, TypeError, "x must be float16"),
        ({"x": torch.zeros(1, 2)}, ValueError, "block_size must be from 2 to 1, "),
    ],
)
def test_errors(options, error, text):
    arguments = {"x": torch.zeros(9, 2), "y": torch.zeros(8, 2), "block_size": 4} | options
    with pytest.raises(error, match=f"^mmd_blocks: {text}"):
        mmd_blocks(**arguments)


def test_leading_axes_must_broadcast():
    with pytest.raises(ValueError, match="^mmd_blocks: y must have leading axes that broadcast"):
        mmd_blocks(torch.zeros(2, 9, 2), torch.zeros(3, 8, 2), block_size=4)
