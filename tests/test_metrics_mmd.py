import pytest
import torch

pytest.importorskip("torchmetrics")

from otkernels import energy_distance, mmd
from otkernels.metrics import EnergyDistance, MaximumMeanDiscrepancy
from otkernels.metrics import mmd as metrics_mmd

D = 4


def rows(n, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator, dtype=torch.float64).to(dtype) + seed


def filled(metric, x, y, parts=3):
    for points, real in ((x, True), (y, False)):
        for part in points.tensor_split(parts):
            metric.update(part, real=real)
    return metric


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": "imq", "bandwidth": [0.5, 2.0], "unbiased": True},
        {"bandwidth": torch.tensor([0.5, 2.0]), "squared": False},
        {"bandwidth": torch.tensor(1.5)},
        {"kernel": "polynomial"},
    ],
    ids=str,
)
def test_mmd_is_the_functional(dtype, options, impl):
    x, y = rows(90, dtype=dtype), rows(70, seed=1, dtype=dtype)  # a median looks at some of them
    metric = MaximumMeanDiscrepancy(num_features=D, dtype=dtype, impl=impl, **options)
    value = filled(metric, x, y).compute()
    assert value.shape == ()
    assert value.dtype == dtype
    assert torch.equal(value, mmd(x, y, impl=impl, **options))


@pytest.mark.parametrize("options", [{}, {"unbiased": True}, {"squared": False}], ids=str)
def test_energy_distance_is_the_functional(options):
    x, y = rows(40), rows(31, seed=1)
    metric = EnergyDistance(num_features=D, dtype=torch.float64, **options)
    assert torch.equal(filled(metric, x, y).compute(), energy_distance(x, y, **options))


def test_triton_answers():
    x, y = rows(5, dtype=torch.float32), rows(4, seed=1, dtype=torch.float32)
    values = [
        filled(EnergyDistance(num_features=D, impl=impl), x, y).compute()
        for impl in ("triton", "torch")
    ]
    torch.testing.assert_close(*values)


def test_impl_and_precision_are_used(monkeypatch):
    used = []

    def spy(x, y, **options):
        used.append((options["impl"], options["precision"]))
        return mmd(x, y, **options)

    monkeypatch.setattr(metrics_mmd, "mmd", spy)
    metric = EnergyDistance(num_features=D, impl="torch", precision="fast")
    filled(metric, rows(4), rows(3)).compute()
    assert used == [("torch", "fast")]


def test_a_given_bandwidth_is_copied():
    given = torch.tensor(1.5)
    metric = MaximumMeanDiscrepancy(num_features=D, bandwidth=given)
    given.zero_()
    assert metric.bandwidth == 1.5


def test_an_unbiased_estimate_may_be_negative_and_lies_on_the_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    metric = EnergyDistance(num_features=D, unbiased=True)
    filled(metric, rows(20), rows(20))
    assert metric.compute() < 0
    figure, axes = metric.plot()
    low, high = axes.get_ylim()
    assert low < metric.compute() < high
    pyplot.close(figure)


@pytest.mark.parametrize(("n", "m"), [(1, 9), (9, 1)])
def test_two_samples_of_each_kind_for_an_unbiased_estimate(n, m):
    metric = filled(EnergyDistance(num_features=D, unbiased=True), rows(n), rows(m))
    message = f"samples must be two or more of each kind; got {n} real and {m} fake"
    with pytest.raises(RuntimeError, match=message):
        metric.compute()
    assert filled(EnergyDistance(num_features=D), rows(n), rows(m)).compute() > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "cauchy"}, ValueError, "kernel must be one of"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be a positive number; got -1.0"),
        ({"bandwidth": torch.tensor([1.0, 0.0])}, ValueError, "bandwidth must be positive every"),
        ({"bandwidth": torch.ones(2, 1)}, ValueError, r"shape \(\) or \(K,\); got \(2, 1\)"),
        ({"bandwidth": torch.ones(2).int()}, TypeError, "bandwidth must be float16"),
        ({"kernel": "energy", "bandwidth": 1.0}, ValueError, "bandwidth must be left out"),
        ({"unbiased": True, "squared": False}, ValueError, "squared must be True with unbiased"),
        ({"precision": "half"}, ValueError, "precision must be one of"),
    ],
    ids=str,
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match="MaximumMeanDiscrepancy: .*" + message):
        MaximumMeanDiscrepancy(num_features=D, **options)
