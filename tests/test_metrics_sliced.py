import pytest
import torch

pytest.importorskip("torchmetrics")

from otkernels import sliced_wasserstein
from otkernels.metrics import SlicedWasserstein, sliced

D = 4


def rows(n, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator, dtype=torch.float64).to(dtype) + 2 * seed


def filled(metric, x, y, parts=3):
    for points, real in ((x, True), (y, False)):
        for part in points.tensor_split(parts):
            metric.update(part, real=real)
    return metric


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("options", [{}, {"p": 1}, {"p": 3.5, "root": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_functional(dtype, options, impl):
    x, y = rows(40, dtype=dtype), rows(31, seed=1, dtype=dtype)
    metric = filled(SlicedWasserstein(num_features=D, dtype=dtype, impl=impl, **options), x, y)
    expected = sliced_wasserstein(x, y, projections=metric.projections, impl=impl, **options)
    assert metric.compute().dtype == dtype
    assert torch.equal(metric.compute(), expected)
    assert metric.projections.shape == (D, 128)


def test_half_precision_features_are_held_as_they_are():
    x, y = rows(40, dtype=torch.bfloat16), rows(31, seed=1, dtype=torch.bfloat16)
    metric = filled(SlicedWasserstein(num_features=D), x, y)
    assert torch.equal(metric.real_samples, x.float())
    assert torch.equal(metric.compute(), sliced_wasserstein(x, y, projections=metric.projections))


def test_triton_answers():
    x, y = rows(5, dtype=torch.float32), rows(4, seed=1, dtype=torch.float32)
    options = {"num_features": D, "n_projections": 2}
    values = [
        filled(SlicedWasserstein(impl=impl, **options), x, y).compute()
        for impl in ("triton", "torch")
    ]
    torch.testing.assert_close(*values)


def test_impl_is_used(monkeypatch):
    used = []

    def spy(x, y, **options):
        used.append(options["impl"])
        return sliced_wasserstein(x, y, **options)

    monkeypatch.setattr(sliced, "sliced_wasserstein", spy)
    filled(SlicedWasserstein(num_features=D, impl="torch"), rows(4), rows(3)).compute()
    assert used == ["torch"]


def test_directions_follow_from_the_seed_alone():
    torch.manual_seed(0)
    one = SlicedWasserstein(num_features=D, seed=7)
    state = torch.get_rng_state()
    double = SlicedWasserstein(num_features=D, seed=7, dtype=torch.float64)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.projections, double.projections.float())
    before = one.projections.clone()
    filled(one, rows(5), rows(4)).compute()
    one.reset()
    assert torch.equal(one.projections, before)
    other = SlicedWasserstein(num_features=D, seed=8)
    assert not torch.equal(one.projections, other.projections)
    torch.testing.assert_close(before.norm(dim=0), torch.ones(128))


def test_method_and_number_of_directions():
    metric = SlicedWasserstein(num_features=D, n_projections=D, method="orthogonal")
    product = metric.projections.T @ metric.projections
    torch.testing.assert_close(product, torch.eye(D))


def test_given_directions():
    x, y = rows(9), rows(7, seed=1)
    given = torch.eye(D, dtype=torch.float64)[:, :2]
    metric = SlicedWasserstein(num_features=D, dtype=torch.float64, projections=given)
    expected = sliced_wasserstein(x, y, projections=given)
    given.zero_()  # the metric has a copy
    assert torch.equal(filled(metric, x, y).compute(), expected)


def test_nan():
    x = rows(9)
    x[4, 2] = torch.nan
    assert filled(SlicedWasserstein(num_features=D), x, rows(9)).compute().isnan()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": 0.5}, ValueError, "p must be"),
        ({"n_projections": 0}, ValueError, "n_projections must be an integer >= 1; got 0"),
        ({"method": "grid"}, ValueError, "method must be one of"),
        ({"projections": torch.ones(3, 5)}, ValueError, r"have shape \(4, L\); got \(3, 5\)"),
        ({"projections": torch.ones(4, 0)}, ValueError, r"have shape \(4, L\); got \(4, 0\)"),
        ({"projections": torch.ones(1, 4, 5)}, ValueError, r"have shape \(4, L\)"),
        ({"projections": lambda points: points}, TypeError, "must be a torch.Tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match="SlicedWasserstein: .*" + message):
        SlicedWasserstein(num_features=D, **options)
