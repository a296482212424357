import copy

import pytest
import torch

from otkernels import SlicedWassersteinLoss, sliced_wasserstein


def clouds(device, *batch):
    return torch.rand(*batch, 20, 3, device=device), torch.rand(*batch, 20, 3, device=device)


def test_is_the_function_reduced_to_its_mean(device):
    x, y = clouds(device, 4)
    loss = SlicedWassersteinLoss(8, p=3, root=True, resample="fixed", dim=3).to(device)
    expected = sliced_wasserstein(x, y, p=3, root=True, projections=loss.projections)
    torch.testing.assert_close(loss(x, y), expected.mean())
    loss.reduction = "none"
    torch.testing.assert_close(loss(x, y), expected)


def test_weights_are_passed_on(device):
    x, y = clouds(device)
    loss = SlicedWassersteinLoss(8, resample="fixed", dim=3).to(device)
    a = torch.rand(20, device=device)
    expected = sliced_wasserstein(x, y, projections=loss.projections, a=a)
    torch.testing.assert_close(loss(x, y, a=a), expected)
    assert not torch.isclose(loss(x, y), expected)


def test_step_draws_anew_in_every_call(device):
    x, y = clouds(device)
    loss = SlicedWassersteinLoss(8)
    assert loss(x, y) != loss(x, y)
    torch.manual_seed(1)
    first = loss(x, y)
    torch.manual_seed(1)
    assert loss(x, y) == first


def test_generator_leaves_the_global_stream_alone(device):
    x, y = clouds(device)
    values = []
    for _ in range(2):
        generator = torch.Generator(device).manual_seed(2)
        loss = SlicedWassersteinLoss(8, generator=generator)
        state = torch.random.get_rng_state()
        values.append(loss(x, y))
        assert torch.equal(state, torch.random.get_rng_state())
    assert values[0] == values[1]


def test_epoch_keeps_its_directions_until_told(device):
    x, y = clouds(device)
    loss = SlicedWassersteinLoss(8, resample="epoch", dim=3).to(device)
    first = loss(x, y)
    assert loss(x, y) == first
    loss.resample_projections()
    assert loss(x, y) != first


def test_fixed_directions_are_saved_and_refuse_resampling(device):
    x, y = clouds(device)
    loss = SlicedWassersteinLoss(8, resample="fixed", dim=3).to(device)
    other = SlicedWassersteinLoss(8, resample="fixed", dim=3).to(device)
    assert loss(x, y) != other(x, y)
    other.load_state_dict(loss.state_dict())
    assert loss(x, y) == other(x, y) == copy.deepcopy(loss)(x, y)
    with pytest.raises(ValueError, match="resample must be 'epoch'; got 'fixed'"):
        loss.resample_projections()
    assert not SlicedWassersteinLoss(8).state_dict()


def test_half_precision_leaves_the_directions_alone():
    loss = SlicedWassersteinLoss(8, resample="fixed", dim=3)
    before = loss.projections.clone()
    assert torch.equal(loss.bfloat16().projections, before)
    assert loss.to("meta").projections.device.type == "meta"


def test_gradient_descent_moves_a_cloud_onto_the_other(device):
    torch.manual_seed(0)
    x, y = clouds(device)
    y = y * 2 + 3
    x.requires_grad_()
    loss = SlicedWassersteinLoss(32)
    optimizer = torch.optim.SGD([x], lr=10.0)
    before = loss(x, y).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    assert loss(x, y).item() < 1e-3 * before


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(SlicedWassersteinLoss()) == "SlicedWassersteinLoss(n_projections=128, p=2)"
    loss = SlicedWassersteinLoss(5, p=1, resample="epoch", dim=2, reduction="sum", impl="torch")
    assert repr(loss) == (
        "SlicedWassersteinLoss(n_projections=5, p=1, resample='epoch', dim=2, "
        "reduction='sum', impl='torch')"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_projections": 0}, r"SlicedWassersteinLoss: n_projections must be an integer >= 1"),
        ({"p": 0.9}, r"p must be a finite number >= 1; got 0.9"),
        ({"resample": "batch"}, r"resample must be one of 'step', 'epoch', 'fixed'; got 'batch'"),
        ({"resample": "fixed"}, r"dim must be an integer >= 1; got None"),
        ({"reduction": "avg"}, r"reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        ({"impl": "fast"}, r"impl must be one of 'torch', 'cpu', 'triton'; got 'fast'"),
    ],
)
def test_error_messages(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedWassersteinLoss(**options)
