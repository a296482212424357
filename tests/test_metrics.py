import subprocess
import sys

import pytest
import torch

pytest.importorskip("torchmetrics")

from torchmetrics.image import kid
from torchmetrics.image.kid import KernelInceptionDistance as Theirs

from otkernels._ops import accumulation_dtype
from otkernels.metrics import KernelInceptionDistance as Ours
from otkernels.metrics import kid as our_kid

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")

IMPLS = ["torch", "cpu"]


class Features(torch.nn.Module):
    """Six features of an image of 3 x 2 x 2 numbers, in the dtype of the image."""

    num_features = 6

    def forward(self, images):
        flat = images.flatten(1)
        return torch.cat([flat[:, :4], (flat[:, 4:6] * flat[:, 6:8])], dim=1)


def images(n, dtype=torch.float32, shift=0.0):
    return (torch.randn(n, 3, 2, 2) + shift).to(dtype)


def filled(metric, dtype=torch.float32, n_real=40, n_fake=35):
    """The metric with images in two batches of each kind, the same at every call."""
    torch.manual_seed(1)
    for n, real in ((n_real, True), (n_fake, False)):
        for part in images(n, dtype, 0.0 if real else 0.3).split((n + 1) // 2):
            metric.update(part, real=real)
    return metric


def pair(seed=0, dtype=torch.float32, impl=None, **options):
    """Their answer and ours with the same images and the same seed, and their largest kernel."""
    options = {"feature": Features(), "subsets": 5, "subset_size": 16} | options
    answers = []
    for metric in (filled(Theirs(**options), dtype), filled(Ours(**options, impl=impl), dtype)):
        torch.manual_seed(seed)
        answers.append(metric.compute())
    held = torch.cat(metric.real_features + metric.fake_features).double()
    largest = kid.poly_kernel(held, held, 3, metric.gamma, metric.coef).abs().max().item()
    return *answers, largest


def assert_equal(theirs, ours, largest, *, terms, dtype=torch.float32):
    """Both may round each of three means of kernel values, theirs in the dtype of the features."""
    eps = sum(torch.finfo(t).eps for t in (dtype, accumulation_dtype(dtype)))
    bound = terms**0.5 * eps * 4 * largest
    for name, a, b in zip(("mean", "std"), theirs, ours, strict=True):
        assert b.shape == ()
        error = abs(a.double() - b.double()).item()
        assert error <= bound, f"{name} differs by {error:.3g}, above {bound:.3g}"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 0.3}, {"coef": 2.5}, {"gamma": 0.05, "coef": 0.5}, {"subset_size": 2}],
    ids=str,
)
def test_the_numbers_of_torchmetrics(options, dtype, impl):
    for seed in range(3):
        theirs, ours, largest = pair(seed, dtype, impl, **options)
        assert ours[0].dtype == ours[1].dtype == dtype
        assert ours[1] > 0
        # Products of six features, then sums over 16 x 16 pairs.
        assert_equal(theirs, ours, largest, terms=6 + 2 * 16, dtype=dtype)


def test_another_seed_draws_other_subsets():
    first, second = (pair(seed, torch.float64)[1] for seed in (0, 1))
    assert first[0] != second[0]


def test_chunks_of_subsets_change_nothing(monkeypatch):
    _, whole, largest = pair(dtype=torch.float64)
    monkeypatch.setattr(our_kid, "CHUNK", 2 * 16 * 6)  # five subsets by two
    theirs, parts, _ = pair(dtype=torch.float64)
    assert_equal(whole, parts, largest, terms=38, dtype=torch.float64)
    assert_equal(theirs, parts, largest, terms=38, dtype=torch.float64)


def test_no_more_subsets_at_once_than_the_chunk_holds(monkeypatch):
    sizes = []
    right = our_kid.mmd

    def spy(x, y, **options):
        sizes.append(len(x))
        return right(x, y, **options)

    monkeypatch.setattr(our_kid, "mmd", spy)
    monkeypatch.setattr(our_kid, "CHUNK", 2 * 16 * 6)
    pair()
    assert sizes == [2, 2, 1]
    sizes.clear()
    monkeypatch.setattr(our_kid, "CHUNK", 1)
    pair()
    assert sizes == [1] * 5


@pytest.mark.parametrize("kept", [True, False])
def test_reset(kept):
    metric = filled(Ours(feature=Features(), subset_size=8, reset_real_features=not kept))
    metric.reset()
    assert len(metric.real_features) == (2 if kept else 0)
    assert metric.fake_features == []
    metric.update(images(9), real=False)
    if kept:
        assert metric.compute()[0].isfinite()
    else:
        metric.update(images(9), real=True)
        metric.update(images(9), real=False)
        torch.manual_seed(0)
        assert metric.compute()[1] > 0


def test_it_is_torchmetrics_metric():
    metric = Ours(feature=Features(), subsets=2, subset_size=8)
    assert isinstance(metric, Theirs)
    assert metric.higher_is_better is False
    assert metric.impl is None


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_too_few_images(kind):
    metric = filled(Ours(feature=Features(), subset_size=20), **{f"n_{kind}": 19})
    message = f"subset_size must be at most the number of {kind} images, 19; got 20"
    with pytest.raises(ValueError, match=message):
        metric.compute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"subset_size": 1}, ValueError, "subset_size must be at least 2; got 1"),
        ({"subset_size": 0}, ValueError, "`subset_size` expected to be integer larger than 0"),
        ({"subsets": 0}, ValueError, "`subsets` expected to be integer larger than 0"),
        ({"degree": 2}, NotImplementedError, "degree must be 3; got 2. Use torchmetrics.image.kid"),
        ({"degree": 0}, ValueError, "`degree` expected to be integer larger than 0"),
        ({"gamma": -1.0}, ValueError, "`gamma` expected"),
        ({"coef": 0.0}, ValueError, "`coef` expected"),
        ({"impl": "numba"}, ValueError, "impl must be one of 'torch', 'cpu', 'triton'"),
    ],
    ids=str,
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Ours(feature=Features(), **options)


def test_without_torchmetrics_the_import_says_so_and_the_library_does_not_need_it():
    program = """
import sys
sys.modules["torchmetrics"] = None
import otkernels
try:
    import otkernels.metrics
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "otkernels.metrics needs torchmetrics: pip install torchmetrics\n"
