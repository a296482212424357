import itertools
import math

import pytest
import torch
from support import assert_close64, problem, value_and_grads

from otkernels import max_sliced as module
from otkernels import (
    max_sliced_wasserstein,
    sample_projections,
    sliced_wasserstein,
    sliced_wasserstein_with_info,
    wasserstein_1d,
)

FAST = ["cpu", "triton"] if not torch.cuda.is_available() else ["triton"]
IMPLS = ["torch", *FAST]
# The interpreter takes seconds for a search, whose every evaluation is a sliced distance.
QUICK = [impl for impl in IMPLS if impl != "triton" or torch.cuda.is_available()]
ORDERS = [1, 2, 1.5]
EACH = [*itertools.product(QUICK, ORDERS), *((impl, 2) for impl in IMPLS if impl not in QUICK)]
INTERPRETED = not torch.cuda.is_available()


def search(impl):
    """How to search, with one step where each takes the interpreter a second."""
    slow = impl == "triton" and INTERPRETED
    return {"impl": impl} | ({"n_steps": 1, "n_starts": 1} if slow else {})


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def found(*clouds, **options):
    """Value and direction."""
    return max_sliced_wasserstein(*clouds, return_direction=True, **options)


def along(x, y, direction, **options):
    """The distance along one direction (..., D) of each problem."""
    return sliced_wasserstein(x, y, projections=direction.unsqueeze(-1), **options)


# --- truth: known maxima ------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "p"), EACH)
def test_translation(impl, p, device):
    x, shift = normal(5, 3).to(device), normal(3).to(device)
    theta = normal(3, 2).to(device)
    value, direction = found(x, x + shift, p=p, projections=theta, **search(impl))
    torch.testing.assert_close(value, shift.norm() ** p)
    torch.testing.assert_close((direction @ shift).abs(), shift.norm())


@pytest.mark.parametrize("p", ORDERS)
def test_every_angle_of_a_plane(p):
    x, y = normal(4, 12, 2), normal(4, 9, 2) * torch.tensor([1.0, 3.0])
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    best = sliced_wasserstein_with_info(x, y, p=p, projections=circle).costs.max(-1).values
    value = max_sliced_wasserstein(x, y, p=p, n_steps=60)
    # Half a step of angle off the maximum, where the cost falls at most as fast as the points are
    # long; the search itself converges.
    torch.testing.assert_close(value, best, rtol=1e-4, atol=0)


def test_two_normal_distributions():
    """Of equal means and standard deviations 1 and (1, 1/2, 3): at the third axis, (3 - 1)^2."""
    n = 5000
    x, y = torch.randn(n, 3), torch.randn(n, 3) * torch.tensor([1.0, 0.5, 3.0])
    value, direction = found(x, y, n_projections=16)
    assert direction[2].abs() > 0.99
    # A standard deviation of n points is off by its share of 1/sqrt(2n).
    assert abs(value.sqrt().item() - 2) < 3 * math.sqrt((3**2 + 1) / (2 * n))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", QUICK)
def test_one_feature_is_the_line(impl, p, device):
    x, y = normal(2, 5, 1).to(device), normal(2, 4, 1).to(device)
    value, direction = found(x, y, p=p, n_projections=1, **search(impl))
    torch.testing.assert_close(value, wasserstein_1d(x[..., 0], y[..., 0], p=p))
    assert (direction.abs() == 1).all()


@pytest.mark.parametrize("impl", QUICK)
def test_one_point_is_the_euclidean_distance(impl, device):
    x, y = normal(2, 1, 4).to(device), normal(2, 1, 4).to(device)
    value, grad, _ = value_and_grads(
        lambda x, y: max_sliced_wasserstein(x, y, p=1, n_projections=1, **search(impl)), x, y
    )
    torch.testing.assert_close(value, (x - y).norm(dim=-1)[:, 0])
    torch.testing.assert_close(grad, (x - y) / (x - y).norm(dim=-1, keepdim=True))


# --- search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", QUICK)
def test_without_steps_it_is_the_best_candidate(impl, p, device):
    """Candidates are those given, the difference of the means, and the start."""
    x, y, theta = problem(6, 3, 2, batch=(2,), device=device)
    options = {"p": p, "projections": theta, "n_steps": 0, "impl": impl}
    value, direction = found(x, y, **options)
    unit = theta / theta.norm(dim=0)
    means = x.double().mean(-2) - y.double().mean(-2)
    candidates = torch.stack([*unit.double().T.expand(2, 2, 3).movedim(0, 1), means])
    candidates /= candidates.norm(dim=-1, keepdim=True)
    costs = torch.stack([along(x.double(), y.double(), c, p=p, impl="torch") for c in candidates])
    best = costs.max(0)
    assert_close64(value, best.values, terms=6 * 3)
    torch.testing.assert_close(direction, candidates[best.indices, [0, 1]].float())


@pytest.mark.parametrize("p", ORDERS)
def test_never_below_the_best_candidate_and_better_with_steps(p):
    x, y = torch.randn(5, 40, 10), torch.randn(5, 30, 10) * 2
    theta = sample_projections(10, 64)
    costs = torch.stack([along(x, y, t, p=p) for t in theta.T])
    values = [
        max_sliced_wasserstein(x, y, p=p, projections=theta, n_steps=n) for n in (0, 1, 3, 10, 40)
    ]
    rounding = 1 - 1e-6
    assert (values[0] >= costs.max(0).values * rounding).all()
    for fewer, more in zip(values[:-1], values[1:], strict=True):
        assert (more >= fewer * rounding).all()
    assert (values[-1] > 1.1 * values[0]).all()


def test_more_starts_reach_at_least_as_high():
    x, y = torch.randn(20, 15, 6), torch.randn(20, 15, 6)
    theta = sample_projections(6, 32)
    one, four = (
        max_sliced_wasserstein(x, y, projections=theta, n_starts=n, n_steps=40) for n in (1, 4)
    )
    assert (four >= one * (1 - 1e-6)).all()
    assert (four > 1.01 * one).any()
    more_than_there_are = max_sliced_wasserstein(x, y, projections=theta[:, :2], n_starts=99)
    assert more_than_there_are.isfinite().all()


def far_apart(*batch):
    """Few points, far apart: a maximum inside one order of the projections, where it is smooth."""
    return normal(*batch, 4, 3), 2 * normal(*batch, 3, 3) + 8


def test_the_maximum_found_is_stationary():
    x, y = far_apart(3)
    _, direction = found(x, y, n_steps=200)
    leaf = direction.clone().requires_grad_()
    (slope,) = torch.autograd.grad(along(x, y, leaf).sum(), leaf)
    tangent = slope - (slope * direction).sum(-1, keepdim=True) * direction
    assert (tangent.norm(dim=-1) < 1e-6 * slope.norm(dim=-1)).all()


def test_steps_are_turns_by_stated_angles():
    """Points at +-2 on an axis against 0: the cost is (2 cos)^2 of the angle to that axis."""
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    angle = 1.0
    theta = torch.tensor([[math.cos(angle)], [math.sin(angle)]], dtype=torch.float64)
    # Two steps uphill, and a third past the axis: refused.
    turns = [module.FIRST_STEP, module.FIRST_STEP * module.LONGER, 0]
    for n_steps, turn in enumerate(turns, 1):
        angle -= turn
        value = max_sliced_wasserstein(x, 0 * x, projections=theta, n_starts=1, n_steps=n_steps)
        assert value.item() == pytest.approx(4 * math.cos(angle) ** 2)
    angle -= module.FIRST_STEP * module.LONGER**2 * module.SHORTER
    value = max_sliced_wasserstein(x, 0 * x, projections=theta, n_starts=1, n_steps=4)
    assert value.item() == pytest.approx(4 * math.cos(angle) ** 2)


@pytest.mark.parametrize("impl", IMPLS)
def test_start_is_one_more_candidate(impl, device):
    x = normal(6, 3).to(device)
    y = x * torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64, device=device)
    x, y = x - x.mean(0), y - y.mean(0)
    theta = torch.eye(3, dtype=torch.float64, device=device)
    options = {"projections": theta[:, :1], "n_steps": 0, "impl": impl}
    value, direction = found(x, y, start=-7 * theta[2], **options)
    torch.testing.assert_close(value, along(x, y, theta[2]))
    torch.testing.assert_close(direction, -theta[2])
    assert value > 1.1 * max_sliced_wasserstein(x, y, **options)
    for nothing in (0 * theta[2], torch.full_like(theta[2], torch.nan)):
        torch.testing.assert_close(
            max_sliced_wasserstein(x, y, start=nothing, **options),
            max_sliced_wasserstein(x, y, **options),
        )


def test_start_of_each_problem_gives_it_a_batch():
    x, y = torch.randn(6, 3), torch.randn(5, 3)
    start = torch.randn(2, 4, 3, dtype=torch.float16)
    value, direction = found(x, y, start=start, n_steps=0, projections=torch.eye(3)[:, :1])
    assert value.shape == (2, 4)
    assert direction.shape == (2, 4, 3)
    assert direction.dtype == torch.float32


# --- one problem of many ------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_each_problem_has_its_own_direction(impl, device):
    x = normal(4, 3).to(device)
    shift = normal(2, 1, 3).to(device)
    theta = normal(3, 1).to(device)
    value, direction = found(
        x.expand(2, 1, 4, 3), (x + shift).expand(2, 2, 4, 3).movedim(0, 1), projections=theta,
        **search(impl),
    )  # fmt: skip
    assert value.shape == (2, 2)
    own = shift[:, 0] / shift.norm(dim=-1)
    torch.testing.assert_close((direction * own[:, None]).sum(-1).abs(), torch.ones_like(value))


def test_candidates_of_each_problem():
    x, y = torch.randn(6, 3), torch.randn(5, 3)
    theta = torch.randn(2, 3, 4)
    value, direction = found(x, y, projections=theta, n_steps=3)
    for k in range(2):
        alone = found(x, y, projections=theta[k], n_steps=3)
        torch.testing.assert_close((value[k], direction[k]), alone)


@pytest.mark.parametrize("impl", QUICK)
def test_coincident_clouds(impl, device):
    x, _, theta = problem(4, 3, 2, batch=(2,), device=device)
    for root in (False, True):
        value, grad_x, grad_y = value_and_grads(
            lambda x, y, root=root: max_sliced_wasserstein(
                x, y, projections=theta, root=root, **search(impl)
            ),
            x,
            x,
        )
        assert not value.any()
        assert not grad_x.any()
        assert not grad_y.any()
    _, direction = found(x, x, projections=theta, **search(impl))
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(2, device=device))


def test_every_direction_tried_has_unit_length(monkeypatch):
    """Also where the means coincide, the start is zero and candidates are not normalised."""
    tried = []

    def noted(measures, projections, *args, **options):
        tried.append(projections.detach().norm(dim=-2))
        return estimate(measures, projections, *args, **options)

    estimate = module.estimate
    monkeypatch.setattr(module, "estimate", noted)
    x, y = torch.randn(2, 4, 3).double()
    max_sliced_wasserstein(x, x, projections=7 * normal(3, 2), start=torch.zeros(3), n_steps=2)
    max_sliced_wasserstein(x, y, projections=7 * normal(3, 2), n_steps=2)
    assert len(tried) == 2 * (1 + 1 + 2 + 1)  # candidates, the start of the climb, steps, the end
    for lengths in tried:
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_zero_projections_are_no_candidates():
    x = torch.randn(4, 2)
    theta = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    _, direction = found(x, x, projections=theta)
    assert direction.norm() == 1


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("impl", QUICK)
def test_nan_stays_in_its_problem(impl, p, device):
    x, y, theta = problem(4, 2, 1, batch=(2,), device=device)

    def run(x, y):
        options = {"p": p, "projections": theta, **search(impl)}
        direction = found(x, y, **options)[1]
        return *value_and_grads(
            lambda x, y: max_sliced_wasserstein(x, y, **options), x, y
        ), direction

    *untouched, direction = run(x, y)
    for side in (0, 1):
        clouds = [x.clone(), y.clone()]
        clouds[side][1, 2, 0] = torch.nan
        *actual, direction_now = run(*clouds)
        for result, expected in zip(actual, untouched, strict=True):
            assert result[1].isnan().all()
            torch.testing.assert_close(result[0], expected[0], rtol=0, atol=0)
        torch.testing.assert_close(direction_now[0], direction[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_weights_are_multiplicities(impl, device):
    x, y, theta = problem(4, 3, 2, m=3, dtype=torch.float64, device=device)
    a, b = torch.tensor([2.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    options = {"projections": theta, **search(impl)}
    weighted = found(x, y, a=a.to(device), b=b.to(device), **options)
    x, y = (t.repeat_interleave(w.int().to(device), 0) for t, w in ((x, a), (y, b)))
    torch.testing.assert_close(weighted, found(x, y, **options))


@pytest.mark.parametrize("impl", QUICK)
def test_padding_is_never_read(impl, device):
    x, y, theta = problem(5, 2, 2, m=4, batch=(2,), dtype=torch.float64, device=device)
    x_lengths, y_lengths = torch.tensor([3, 5], device=device), torch.tensor(2, device=device)
    x[0, 3:], y[:, 2:] = torch.nan, torch.inf
    options = {"projections": theta, **search(impl)}
    value, grad, _ = value_and_grads(
        lambda x, y: max_sliced_wasserstein(
            x, y, x_lengths=x_lengths, y_lengths=y_lengths, **options
        ),
        x,
        y,
    )
    for k, n in enumerate((3, 5)):
        alone = value_and_grads(
            lambda x, y: max_sliced_wasserstein(x, y, **options), x[k, :n], y[k, :2]
        )
        torch.testing.assert_close(value[k], alone[0])
        torch.testing.assert_close(grad[k, :n], alone[1])
        assert not grad[k, n:].any()


# --- gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "p"), EACH)
def test_value_and_gradient_are_those_at_the_direction(impl, p, device):
    batch = (2,) if impl in QUICK else ()
    x, y, theta = problem(5, 3, 1, m=4, batch=batch, device=device)
    a, b = torch.rand(5, device=device), torch.rand(*batch, 4, device=device)
    scale = torch.rand(batch, device=device)
    options = {"n_steps": 20 if impl in QUICK else 0, "impl": impl}
    _, direction = found(x, y, p=p, a=a, b=b, projections=theta, **options)
    assert not direction.requires_grad

    def maximum(x, y, a, b):
        return max_sliced_wasserstein(x, y, p=p, a=a, b=b, projections=theta, **options)

    def sliced(x, y, a, b):
        return along(x, y, direction, p=p, a=a, b=b, impl=impl)

    results = [value_and_grads(f, x, y, a, b, weight=scale) for f in (maximum, sliced)]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradient_is_that_of_the_maximum():
    """Danskin: the direction may be held, for moving it changes nothing in first order."""
    x, y = far_apart()
    move, theta = normal(4, 3), sample_projections(3, 64, dtype=torch.float64)

    def maximum(x):
        return max_sliced_wasserstein(x, y, projections=theta, n_starts=1, n_steps=100)

    _, grad = value_and_grads(maximum, x)
    step = 1e-5
    difference = (maximum(x + step * move) - maximum(x - step * move)) / (2 * step)
    assert (grad * move).sum().item() == pytest.approx(difference.item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("impl", QUICK)
def test_dtypes(impl, dtype, device):
    x, y, theta = problem(4, 2, 2, dtype=dtype, device=device)
    options = {"projections": theta, "n_steps": 0, "impl": impl}
    value, grad, _ = value_and_grads(lambda x, y: max_sliced_wasserstein(x, y, **options), x, y)
    direction = found(x, y, **options)[1]
    wide = x.double(), y.double(), direction.double()
    assert_close64(value, along(*wide, impl="torch"), terms=4)
    assert value.dtype == direction.dtype
    assert grad.dtype == dtype


@pytest.mark.parametrize("impl", FAST)
def test_second_derivative_is_refused(impl, device):
    x, y, theta = problem(3, 2, 1, device=device)
    x.requires_grad_()
    value = max_sliced_wasserstein(x, y, projections=theta, **search(impl))
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        grad.square().sum().backward()


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_root_and_reductions(impl, device):
    x, y, theta = problem(3, 2, 1, batch=(2, 1), device=device)

    def run(**options):
        return max_sliced_wasserstein(x, y, p=3, projections=theta, **search(impl), **options)

    power = run()
    assert power.shape == (2, 1)
    torch.testing.assert_close(run(root=True), power ** (1 / 3))
    torch.testing.assert_close(run(reduction="mean"), power.mean())
    torch.testing.assert_close(run(root=True, reduction="sum"), (power ** (1 / 3)).sum())


@pytest.mark.parametrize("method", ["gaussian", "sobol"])
def test_candidates_come_from_the_generator(method, device):
    x, y = torch.randn(6, 3, device=device), torch.randn(6, 3, device=device)

    def stream():
        return torch.Generator(device).manual_seed(5)

    theta = sample_projections(3, 7, method=method, generator=stream(), device=device)
    options = {"n_projections": 7, "method": method, "n_steps": 0}
    state = torch.random.get_rng_state()
    actual = found(x, y, generator=stream(), **options)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(actual, found(x, y, projections=theta, n_steps=0), rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_vmap_and_functional_grad(impl, device):
    x, y, theta = problem(3, 2, 1, batch=(2,), device=device)

    def cost(x, y):
        return max_sliced_wasserstein(x, y, projections=theta, **search(impl))

    torch.testing.assert_close(torch.func.vmap(cost)(x, y), cost(x, y))
    _, expected, _ = value_and_grads(cost, x, y)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cost))(x, y), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("impl", QUICK)
def test_searches_where_gradients_are_off(impl, mode, device):
    x, y, theta = problem(4, 2, 1, device=device)
    expected = max_sliced_wasserstein(x, y, projections=theta, **search(impl))
    with mode():
        actual = max_sliced_wasserstein(x, y, projections=theta, **search(impl))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    without = max_sliced_wasserstein(x, y, projections=theta, n_steps=0, impl=impl)
    assert actual > without


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, device):
    x, theta = torch.rand(0, 3, 2, device=device), torch.rand(2, 2, device=device)
    value, direction = found(x, x, projections=theta, **search(impl))
    assert value.shape == (0,)
    assert direction.shape == (0, 2)


def test_autocast_does_not_lower_the_arithmetic():
    x, y, theta = problem(5, 3, 3)
    expected = found(x, y, projections=theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = found(x, y, projections=theta)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# --- errors -------------------------------------------------------------------------------------

X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": 0.5}, ValueError, r"max_sliced_wasserstein: p must be a finite number >= 1"),
        ({"n_starts": 0}, ValueError, r"n_starts must be an integer >= 1; got 0"),
        ({"n_steps": -1}, ValueError, r"n_steps must be an integer >= 0; got -1"),
        ({"n_steps": 1.5}, ValueError, r"n_steps must be an integer >= 0; got 1.5"),
        ({"n_projections": 0}, ValueError, r"n_projections must be an integer >= 1; got 0"),
        ({"projections": torch.rand(2, 5)}, ValueError, r"projections must have shape \(3, L\)"),
        ({"projections": torch.square}, TypeError,
         r"projections must be a torch.Tensor; got builtin_function"),
        ({"start": torch.rand(2)}, ValueError,
         r"start must have shape \(\.\.\., 3\); got \(2,\)"),
        ({"start": torch.ones(3).int()}, TypeError, r"start must be float16, .*; got torch.int32"),
        ({"start": [1.0]}, TypeError, r"start must be a torch.Tensor; got list"),
        ({"start": torch.ones(3, device="meta")}, ValueError,
         r"start must be on x's device cpu; got meta"),
        ({"start": torch.ones(3, 3)}, ValueError,
         r"start must have leading axes that broadcast with x's and y's \(2,\); got \(3,\)"),
        ({"reduction": "avg"}, ValueError, r"reduction must be one of .*; got 'avg'"),
        ({"method": "halton"}, ValueError, r"method must be one of .*; got 'halton'"),
        ({"impl": "gpu"}, ValueError, r"impl must be one of .*; got 'gpu'"),
        ({"a": torch.rand(5)}, ValueError, r"a must have shape \(\.\.\., 4\),"),
        ({"x_lengths": torch.tensor(5)}, ValueError, r"x_lengths must be from 1 to 4, .*; got 5"),
        ({"a": -torch.ones(4), "validate": True}, ValueError, r"a must not be negative; got -1.0"),
        ({"projections": torch.rand(5, 3, 2)}, ValueError,
         r"projections must have leading axes that broadcast with x's and y's \(2,\); got \(5,\)"),
    ],
)  # fmt: skip
def test_error_messages(options, error, message):
    with pytest.raises(error, match=message):
        max_sliced_wasserstein(X, Y, **options)
