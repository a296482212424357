import copy

import pytest
import torch

from otkernels import EnergyDistanceLoss, MMDLoss, energy_distance, median_bandwidth, mmd
from otkernels import _kernel_sums as sums

EVERY = [MMDLoss, EnergyDistanceLoss]
# Of three sums, none of which is above 4 here, each rounded once or twice.
ROUNDING = 4 * 3 * 2 * torch.finfo(torch.float32).eps


def clouds(device, *batch):
    return torch.rand(*batch, 20, 3, device=device), torch.rand(*batch, 15, 3, device=device)


def test_is_the_function_reduced_to_its_mean(device):
    x, y = clouds(device, 4)
    options = {"kernel": "imq", "bandwidth": (0.5, 2.0), "unbiased": True}
    expected = mmd(x, y, **options)
    loss = MMDLoss(**options)
    torch.testing.assert_close(loss(x, y), expected.mean())
    loss.reduction = "none"
    torch.testing.assert_close(loss(x, y), expected)
    expected = energy_distance(x, y, squared=False)
    torch.testing.assert_close(EnergyDistanceLoss(squared=False)(x, y), expected.mean())


def test_weights_and_lengths_are_passed_on(device):
    x, y = clouds(device, 2)
    a, b = torch.rand(2, 20, device=device), torch.rand(2, 15, device=device)
    lengths = {
        "x_lengths": torch.tensor([11, 20], device=device),
        "y_lengths": torch.tensor([7, 5], device=device),
    }
    for loss, function in ((MMDLoss(), mmd), (EnergyDistanceLoss(), energy_distance)):
        expected = function(x, y, a=a, b=b, **lengths).mean()
        torch.testing.assert_close(loss(x, y, a=a, b=b, **lengths), expected)
        assert not torch.isclose(loss(x, y, b=b, **lengths), expected)
        assert not torch.isclose(loss(x, y, a=a, b=b), expected)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("loss", [MMDLoss(bandwidth=0.7), EnergyDistanceLoss()], ids=EVERY)
def test_a_reference_changes_no_value_and_no_gradient(loss, unbiased, device):
    loss = copy.copy(loss)
    loss.unbiased, loss.reduction = unbiased, "none"
    x, y = clouds(device, 2)
    b, lengths = torch.rand(2, 15, device=device), torch.tensor([7, 15], device=device)
    for given in ({}, {"b": b}, {"y_lengths": lengths}, {"b": b, "y_lengths": lengths}):
        loss.set_reference(y, **given)
        with_it, without = x.clone().requires_grad_(), x.clone().requires_grad_()
        value, expected = loss(with_it), loss(without, y, **given)
        torch.testing.assert_close(value, expected, rtol=0, atol=ROUNDING)
        value.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(with_it.grad, without.grad)


def test_one_reference_serves_a_batch(device):
    x, y = clouds(device, 4)
    loss = MMDLoss(reduction="none", bandwidth=torch.tensor([0.5, 1.0], device=device))
    loss.set_reference(y[0])
    torch.testing.assert_close(loss(x), loss(x, y[0]), rtol=0, atol=ROUNDING)
    loss.set_reference(y)
    torch.testing.assert_close(loss(x[0]), loss(x[0], y), rtol=0, atol=ROUNDING)


def test_the_own_term_of_a_reference_is_not_computed_again(device, monkeypatch):
    x, y = clouds(device)
    loss = MMDLoss(bandwidth=1.0, impl="torch")
    loss.set_reference(y)
    asked = []
    definition = sums._definition
    monkeypatch.setattr(
        sums, "_definition", lambda *args: asked.append(args[-1]) or definition(*args)
    )
    loss(x)
    loss(x, y)
    assert asked == [(True, False, True), (True, True, True)]


def test_median_bandwidth_of_a_reference_is_its_own(device):
    x, y = clouds(device)
    loss = MMDLoss()
    loss.set_reference(y)
    torch.testing.assert_close(loss(10 * x), mmd(10 * x, y, bandwidth=median_bandwidth(y)))
    torch.testing.assert_close(loss(10 * x, y), mmd(10 * x, y))
    loss.set_reference(None)
    with pytest.raises(ValueError, match="y must be given where no reference is set; got None"):
        loss(x)


def test_a_reference_is_a_copy(device):
    x, y = clouds(device)
    b, lengths = torch.rand(15, device=device), torch.tensor(9, device=device)
    bandwidth = torch.tensor(1.0, device=device)
    loss = MMDLoss(bandwidth=bandwidth)
    loss.set_reference(y, b=b, y_lengths=lengths)
    before = loss(x)
    for given, number in ((y, 0), (b[1:], 0), (lengths, 2), (bandwidth, 2)):
        given.fill_(number)
        assert torch.equal(loss(x), before)


@pytest.mark.parametrize(
    ("option", "value"), [("bandwidth", 5.0), ("kernel", "imq"), ("unbiased", True)]
)
def test_a_reference_is_not_used_with_other_settings(option, value, device):
    x, y = clouds(device)
    loss = MMDLoss(bandwidth=1.0)
    loss.set_reference(y)
    setattr(loss, option, value)
    with pytest.raises(ValueError, match="the reference must be set again after kernel, bandwidth"):
        loss(x)
    loss.set_reference(y)
    torch.testing.assert_close(loss(x), loss(x, y))


def test_a_failing_reference_leaves_the_old_one(device):
    x, y = clouds(device)
    loss = MMDLoss(bandwidth=1.0)
    loss.set_reference(y)
    before = loss(x)
    with pytest.raises(ValueError, match=r"set_reference: b must have shape \(\.\.\., 15\)"):
        loss.set_reference(y, b=torch.rand(4, device=device))
    with pytest.raises(TypeError, match="set_reference: y_lengths must be an integer tensor"):
        loss.set_reference(y, y_lengths=torch.ones((), device=device))
    assert torch.equal(loss(x), before)


def test_a_reference_without_a_value_has_no_gradient_either(device):
    x, y = clouds(device)
    loss = MMDLoss(bandwidth=1.0, unbiased=True)
    loss.set_reference(y, b=torch.eye(15, device=device)[0])  # all mass in one point
    value = loss(x.requires_grad_())
    value.backward()
    assert value.isnan()
    assert x.grad.isnan().all()


def test_a_bandwidth_that_is_a_tensor_moves_with_the_module():
    loss = torch.nn.Sequential(MMDLoss(bandwidth=torch.tensor([1.0, 2.0]))).half().to("meta")
    assert loss[0].bandwidth.is_meta
    assert loss[0].bandwidth.dtype == torch.float32
    assert not loss.state_dict()


def test_no_gradient_reaches_a_reference(device):
    x, y = clouds(device)
    loss = MMDLoss()
    loss.set_reference(y.requires_grad_(), b=torch.rand(15, device=device, requires_grad=True))
    assert not any(t.requires_grad for t in loss.buffers())
    loss(x.requires_grad_()).backward()
    assert y.grad is None
    assert x.grad.any()


def test_a_reference_moves_keeps_its_dtype_and_is_not_saved(device):
    x, y = clouds(device)
    loss = torch.nn.Sequential(MMDLoss())
    loss[0].set_reference(y)
    before = loss(x)
    loss.half().to("meta")
    assert loss[0].reference.is_meta
    assert loss[0].reference.dtype == torch.float32
    assert loss[0].reference_term.dtype == torch.float64
    assert not loss.state_dict()
    other = copy.deepcopy(MMDLoss())
    other.set_reference(y)
    torch.testing.assert_close(other(x), before)


@pytest.mark.parametrize("cls", EVERY)
def test_repr_shows_what_differs_from_the_defaults(cls):
    if cls is MMDLoss:
        expected = "MMDLoss(kernel='gaussian', bandwidth='median')"
        assert repr(MMDLoss("imq", (1.0, 2.0), unbiased=True)) == (
            "MMDLoss(kernel='imq', bandwidth=(1.0, 2.0), unbiased=True)"
        )
    else:
        expected = "EnergyDistanceLoss()"
        assert repr(EnergyDistanceLoss(reduction="sum")) == "EnergyDistanceLoss(reduction='sum')"
    assert repr(cls()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of 'none', 'mean', 'sum'; got 'max'"),
        ({"impl": "cuda"}, "impl must be one of 'torch', 'cpu', 'triton'; got 'cuda'"),
        ({"precision": "tf32"}, "precision must be one of 'full', 'fast'; got 'tf32'"),
        (
            {"unbiased": True, "squared": False},
            "squared must be True with unbiased=True, whose estimates may be negative; got False",
        ),
    ],
)
@pytest.mark.parametrize("cls", EVERY)
def test_bad_options_are_refused_when_made(cls, options, message):
    with pytest.raises(ValueError, match=f"^{cls.__name__}: {message}$"):
        cls(**options)


def test_bad_kernel_and_bandwidth_are_refused_when_made():
    with pytest.raises(ValueError, match="^MMDLoss: bandwidth must be a positive number; got -1"):
        MMDLoss(bandwidth=-1)
    with pytest.raises(ValueError, match="^MMDLoss: bandwidth must be 'median'.* got 'mean'"):
        MMDLoss(bandwidth="mean")
    with pytest.raises(
        ValueError, match="^MMDLoss: bandwidth must be left out for kernel 'energy'"
    ):
        MMDLoss("energy", bandwidth=1.0)
    with pytest.raises(ValueError, match="^MMDLoss: kernel must be one of 'gaussian', .*'rbf'$"):
        MMDLoss("rbf")


def test_arguments_that_do_not_go_with_a_reference(device):
    x, y = clouds(device)
    loss = MMDLoss()
    loss.set_reference(y)
    for given in ({"b": torch.rand(15)}, {"y_lengths": torch.tensor(3)}):
        with pytest.raises(ValueError, match="must be left out with the reference; got a tensor"):
            loss(x, **given)
    with pytest.raises(ValueError, match=r"set_reference: y must have shape \(\.\.\., N, D\)"):
        loss.set_reference(y[0])
    with pytest.raises(ValueError, match="MMDLoss: y must have x's dtype torch.float64"):
        loss(x.double(), y)
