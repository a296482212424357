import copy

import pytest
import torch

from otkernels import (
    MaxSlicedWassersteinLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
    max_sliced_wasserstein,
    sample_projections,
    sliced_wasserstein,
    sliced_wasserstein_to_normal,
)

EVERY = [SlicedWassersteinLoss, SlicedWassersteinToNormalLoss, MaxSlicedWassersteinLoss]


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


def test_lengths_are_passed_on(device):
    x, y = clouds(device, 2)
    x[0, 11:], y[:, 7:] = torch.nan, torch.nan
    lengths = {
        "x_lengths": torch.tensor([11, 20], device=device),
        "y_lengths": torch.tensor([7, 5], device=device),
    }
    loss = SlicedWassersteinLoss(8, resample="fixed", dim=3, reduction="none").to(device)
    expected = sliced_wasserstein(x, y, projections=loss.projections, **lengths)
    torch.testing.assert_close(loss(x, y, **lengths), expected)
    loss = MaxSlicedWassersteinLoss(8, generator=torch.Generator(device).manual_seed(1))
    expected = max_sliced_wasserstein(
        x, y, n_projections=8, generator=torch.Generator(device).manual_seed(1), **lengths
    )
    torch.testing.assert_close(loss(x, y, **lengths), expected.mean())
    loss = SlicedWassersteinToNormalLoss(8, resample="fixed", dim=3, reduction="sum").to(device)
    expected = sliced_wasserstein_to_normal(
        x, projections=loss.projections, x_lengths=lengths["x_lengths"]
    )
    torch.testing.assert_close(loss(x, x_lengths=lengths["x_lengths"]), expected.sum())


@pytest.mark.parametrize("method", ["orthogonal", "sobol"])
@pytest.mark.parametrize("resample", ["step", "epoch", "fixed"])
def test_method_says_how_directions_are_drawn(resample, method, device):
    x, y = clouds(device)

    def stream():
        return torch.Generator(device).manual_seed(3)

    theta = sample_projections(
        3, 8, method=method, generator=stream(), device=device, dtype=torch.float32
    )
    options = {"method": method, "resample": resample, "dim": 3}
    loss = SlicedWassersteinLoss(8, generator=stream(), **options)
    torch.testing.assert_close(loss(x, y), sliced_wasserstein(x, y, projections=theta))
    loss = SlicedWassersteinToNormalLoss(8, generator=stream(), **options)
    torch.testing.assert_close(loss(x), sliced_wasserstein_to_normal(x, projections=theta))


def test_slices_replace_directions_and_are_trained(device):
    x, y = clouds(device)
    slices = torch.nn.Linear(3, 2, bias=False).to(device)
    loss = SlicedWassersteinLoss(slices=slices)
    straight = sliced_wasserstein(x, y, projections=slices.weight.T)
    torch.testing.assert_close(loss(x, y), straight)
    assert [id(p) for p in loss.parameters()] == [id(slices.weight)]
    loss(x, y).backward()
    assert slices.weight.grad.any()
    loss = SlicedWassersteinLoss(slices=torch.square)
    torch.testing.assert_close(
        loss(x, y), sliced_wasserstein(x.square(), y.square(), projections=torch.eye(3).to(x))
    )


@pytest.mark.parametrize("module", EVERY)
def test_every_option_reaches_the_function(module, device):
    """Each attribute that the function knows is passed on, and changes what it should."""
    x, y = clouds(device, 2)
    given = (x,) if module is SlicedWassersteinToNormalLoss else (x, y)

    def run(**options):
        generator = torch.Generator(device).manual_seed(1)
        return module(**{"n_projections": 8, "generator": generator} | options)(*given)

    squares = run(reduction="none")
    assert squares.shape == (2,)
    torch.testing.assert_close(run(), squares.mean())
    torch.testing.assert_close(run(reduction="sum"), squares.sum())
    torch.testing.assert_close(run(root=True, reduction="none"), squares.sqrt())
    torch.testing.assert_close(run(impl="torch"), run())
    assert run(n_projections=1) != run()
    assert run(method="sobol") != run()
    if len(given) == 2:
        assert run(p=3) != run()


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


# --- to the normal ------------------------------------------------------------------------------


def test_to_normal_is_the_function_reduced_to_its_mean(device):
    x, _ = clouds(device, 4)
    loss = SlicedWassersteinToNormalLoss(8, root=True, resample="fixed", dim=3).to(device)
    expected = sliced_wasserstein_to_normal(x, root=True, projections=loss.projections)
    torch.testing.assert_close(loss(x), expected.mean())


def test_to_normal_makes_a_cloud_normal(device):
    torch.manual_seed(0)
    x = (torch.rand(100, 2, device=device) * 4).requires_grad_()
    loss = SlicedWassersteinToNormalLoss(16)
    optimizer = torch.optim.SGD([x], lr=30.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    assert x.mean(0).abs().max() < 0.05
    assert (x.std(0) - 1).abs().max() < 0.1


# --- the maximum --------------------------------------------------------------------------------


def test_warm_start_helps_where_steps_are_few():
    """Twenty calls of one step with one candidate climb; without warm start each begins anew."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 12), torch.randn(60, 12)
    y[:, 3] *= 3
    x, y = x - x.mean(0), y - y.mean(0)  # no help from the difference of the means
    last = {}
    for warm in (True, False):
        loss = MaxSlicedWassersteinLoss(1, n_starts=1, n_steps=1, warm_start=warm)
        values = [loss(x, y).item() for _ in range(20)]
        last[warm] = values[-1]
        if warm:
            rising = all(b >= a * (1 - 1e-6) for a, b in zip(values[:-1], values[1:], strict=True))
            assert rising
    best = max_sliced_wasserstein(x, y, n_steps=100)
    assert last[True] > 0.9 * best > 1.5 * last[False]


def test_warm_start_is_used_as_long_as_the_batch_keeps_its_axes():
    loss = MaxSlicedWassersteinLoss(4, n_steps=1)
    for n, *batch in ((5,), (7,), (5, 2), (6, 2), (5, 3, 2), (5,)):
        x = torch.rand(*batch, n, 3, requires_grad=True)
        loss(x, torch.rand(6, 3)).backward()
        assert loss.direction.shape == (*batch, 3)
        assert not loss.direction.requires_grad
        torch.testing.assert_close(loss.direction.norm(dim=-1), torch.ones(batch))
    loss(torch.rand(5, 4), torch.rand(5, 4).double().float())
    assert loss.direction.shape == (4,)
    loss(torch.rand(5, 4).double(), torch.rand(5, 4).double())
    assert loss.direction.dtype == torch.float64


def test_warm_start_after_validation_and_nan():
    loss = MaxSlicedWassersteinLoss(4, n_steps=2)
    x, y = torch.rand(5, 3), torch.rand(5, 3)
    with torch.inference_mode():
        loss(x, y)
    loss(x.requires_grad_(), y).backward()
    assert x.grad.isfinite().all()
    loss(x.detach() * torch.nan, y)
    assert loss(x, y).isfinite()


def test_the_direction_moves_with_the_module_but_is_not_saved():
    loss = MaxSlicedWassersteinLoss(4, n_steps=2)
    assert not loss.state_dict()
    x, y = torch.rand(5, 3), torch.rand(5, 3)
    loss(x, y)
    assert not loss.state_dict()
    assert torch.equal(copy.deepcopy(loss).direction, loss.direction)
    assert loss.to("meta").direction.device.type == "meta"
    assert loss(x, y).isfinite()


def test_warm_start_of_a_batch_that_weights_give():
    x, y, a = torch.randn(30, 5), torch.randn(30, 5), torch.ones(2, 30)
    x, y = x - x.mean(0), y - y.mean(0)
    loss = MaxSlicedWassersteinLoss(1, n_starts=1, n_steps=0)
    values = [loss(x, y, a=a).item() for _ in range(10)]
    assert values == pytest.approx(sorted(values))


def test_max_weights_are_passed_on():
    x, y = clouds("cpu")
    a, b = torch.rand(2, 20)
    theta = torch.Generator().manual_seed(1)
    value = MaxSlicedWassersteinLoss(4, p=1, root=True, generator=theta)(x, y, a=a, b=b)
    expected = max_sliced_wasserstein(
        x, y, p=1, n_projections=4, a=a, b=b, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(value, expected)


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", EVERY)
def test_compile_full_graph(module):
    x, y = clouds("cpu")
    given = (x,) if module is SlicedWassersteinToNormalLoss else (x, y)
    options = {"n_steps": 1, "n_starts": 1} if module is MaxSlicedWassersteinLoss else {}
    torch._dynamo.reset()
    loss = torch.compile(module(4, **options), fullgraph=True, backend="aot_eager")
    first, second = loss(*given), loss(*given)
    assert first.isfinite()
    assert second.isfinite()


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(SlicedWassersteinLoss()) == "SlicedWassersteinLoss(n_projections=128, p=2)"
    loss = SlicedWassersteinLoss(5, p=1, resample="epoch", dim=2, reduction="sum", impl="torch")
    assert repr(loss) == (
        "SlicedWassersteinLoss(n_projections=5, p=1, resample='epoch', dim=2, "
        "reduction='sum', impl='torch')"
    )
    assert repr(SlicedWassersteinToNormalLoss(5, method="sobol")) == (
        "SlicedWassersteinToNormalLoss(n_projections=5, method='sobol')"
    )
    assert repr(MaxSlicedWassersteinLoss(5, n_steps=3, warm_start=False)) == (
        "MaxSlicedWassersteinLoss(n_projections=5, p=2, n_steps=3, warm_start=False)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "halton"}, r"method must be one of 'gaussian', .*; got 'halton'"),
        ({"slices": abs, "resample": "fixed", "dim": 3},
         r"slices must be None with kept directions; got builtin_function_or_method"),
        ({"n_projections": 0}, r"SlicedWassersteinLoss: n_projections must be an integer >= 1"),
        ({"p": 0.9}, r"p must be a finite number >= 1; got 0.9"),
        ({"resample": "batch"}, r"resample must be one of 'step', 'epoch', 'fixed'; got 'batch'"),
        ({"resample": "fixed"}, r"dim must be an integer >= 1; got None"),
        ({"reduction": "avg"}, r"reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        ({"impl": "fast"}, r"impl must be one of 'torch', 'cpu', 'triton'; got 'fast'"),
    ],
)  # fmt: skip
def test_error_messages(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedWassersteinLoss(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_starts": 0}, r"MaxSlicedWassersteinLoss: n_starts must be an integer >= 1; got 0"),
        ({"n_steps": -1}, r"MaxSlicedWassersteinLoss: n_steps must be an integer >= 0; got -1"),
    ],
)
def test_max_error_messages(options, message):
    with pytest.raises(ValueError, match=message):
        MaxSlicedWassersteinLoss(**options)


def test_to_normal_has_no_other_exponent():
    with pytest.raises(TypeError, match="unexpected keyword argument 'p'"):
        SlicedWassersteinToNormalLoss(p=1)
