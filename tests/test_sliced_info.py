import math

import numpy as np
import pytest
import torch
from support import assert_close64, problem, value_and_grads

from otkernels import sample_projections, sliced_wasserstein, sliced_wasserstein_with_info

FAST = ["cpu", "triton"] if not torch.cuda.is_available() else ["triton"]
IMPLS = ["torch", *FAST]
INTERPRETED = not torch.cuda.is_available()
QUICK = [impl for impl in IMPLS if impl != "triton" or not INTERPRETED]


def few(impl, n, least=1):
    """So many directions, or as few as may be where the interpreter runs them."""
    return least if impl == "triton" and INTERPRETED else n


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def directions(d, n, *batch):
    """Independent directions (*batch, d, n), float64."""
    drawn = sample_projections(d, math.prod(batch) * n, dtype=torch.float64)
    return drawn.reshape(d, *batch, n).movedim(0, -2)


def controlled(x, y, theta, **options):
    return sliced_wasserstein_with_info(x, y, projections=theta, control_variate=True, **options)


def clouds(n, m, d):
    """Of different means and covariances, about as far apart as normal distributions are."""
    return normal(n, d), normal(m, d) * torch.linspace(0.5, 2, d).double() + 0.3


# --- value, costs, standard error ---------------------------------------------------------------


@pytest.mark.parametrize(("kind", "p"), [("plain", 1), ("weights", 2), ("lengths", 1.5)])
@pytest.mark.parametrize("impl", IMPLS)
def test_costs_are_those_of_each_direction(impl, kind, p, device):
    x, y, theta = problem(5, 3, few(impl, 3, 2), m=4, batch=(2,), device=device)
    lengths = torch.tensor([2, 5], device=device)
    given = {
        "plain": {},
        "weights": {"a": torch.rand(5, device=device), "b": torch.rand(2, 4, device=device)},
        "lengths": {"x_lengths": lengths, "y_lengths": torch.tensor(3, device=device)},
    }[kind]
    leaf = x.clone().requires_grad_()
    info = sliced_wasserstein_with_info(leaf, y, p=p, projections=theta, impl=impl, **given)
    assert info._fields == ("value", "costs", "standard_error")
    each = [
        sliced_wasserstein(
            x.double(), y.double(), p=p, projections=t[:, None].double(), impl="torch", **given
        )
        for t in theta.T
    ]
    assert_close64(info.costs, torch.stack(each, -1), terms=9)
    assert not info.costs.requires_grad
    assert not info.standard_error.requires_grad
    value, grad = value_and_grads(
        lambda x: sliced_wasserstein(x, y, p=p, projections=theta, impl=impl, **given), x
    )
    torch.testing.assert_close(info.value.detach(), value, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(info.value.sum(), leaf)[0], grad)


def test_standard_error_is_that_of_a_mean():
    x, y, theta = normal(2, 9, 3), normal(2, 7, 3), directions(3, 12)
    info = sliced_wasserstein_with_info(x, y, projections=theta)
    expected = np.std(info.costs.numpy(), axis=-1, ddof=1) / math.sqrt(12)
    assert info.standard_error.tolist() == pytest.approx(expected.tolist())
    assert sliced_wasserstein_with_info(x, y, n_projections=1).standard_error.isnan().all()


def test_callable_slices_and_drawn_directions():
    x, y, theta = normal(9, 3), normal(7, 3), directions(3, 12)
    straight = sliced_wasserstein_with_info(x, y, projections=theta)
    sliced = sliced_wasserstein_with_info(x, y, projections=lambda z: z @ theta)
    torch.testing.assert_close(sliced, straight)

    def stream():
        return torch.Generator().manual_seed(3)

    for method in ("gaussian", "sobol"):
        theta = sample_projections(3, 8, method=method, generator=stream(), dtype=torch.float64)
        for control in (False, True):
            drawn = sliced_wasserstein_with_info(
                x, y, n_projections=8, method=method, generator=stream(), control_variate=control
            )
            expected = sliced_wasserstein_with_info(
                x, y, projections=theta, control_variate=control
            )
            torch.testing.assert_close(drawn, expected, rtol=0, atol=0)


# --- statistics over many draws -----------------------------------------------------------------

DRAWS = 1500


def estimates(control_variate, n_directions, d=6):
    """Of one pair of clouds, a draw of directions each, and the truth from fresh ones."""
    x, y = clouds(20, 15, d)
    theta = directions(d, n_directions, DRAWS)
    info = sliced_wasserstein_with_info(
        x.expand(DRAWS, -1, -1), y, projections=theta, control_variate=control_variate
    )
    truth = sliced_wasserstein_with_info(x, y, projections=directions(d, 50000))
    return info, truth


@pytest.mark.parametrize("control_variate", [False, True])
def test_standard_error_is_the_spread_of_the_values(control_variate):
    info, truth = estimates(control_variate, 32)
    spread = info.value.std()
    stated = info.standard_error.square().mean().sqrt()
    # The spread of DRAWS normal values is itself off by 1/sqrt(2 DRAWS) = 0.018 of it.
    assert abs(stated / spread - 1) < 5 * 0.018
    bias = info.value.mean() - truth.value
    error = math.hypot(spread / math.sqrt(DRAWS), truth.standard_error)
    assert abs(bias) < 4 * error


def test_control_variate_cuts_the_variance():
    plain, with_control = (estimates(control, 32)[0] for control in (False, True))
    assert with_control.value.var() < plain.value.var() / 8
    assert with_control.standard_error.mean() < plain.standard_error.mean() / 2.5


# --- control variate: least squares, written independently --------------------------------------


def controls(x, y, theta, a=None, b=None):
    """The three quadratic forms less their means over the sphere, (L, 3)."""
    d = x.shape[1]
    a, b = (
        torch.full_like(z[:, 0], 1 / len(z)) if w is None else w / w.sum()
        for z, w in ((x, a), (y, b))
    )
    shift = a @ x - b @ y
    forms = [shift.outer(shift)]
    for z, w in ((x, a), (y, b)):
        second = torch.einsum("n,ni,nj->ij", w, z, z)
        forms.append(second - (w @ z).outer(w @ z))
    return torch.stack(
        [torch.einsum("il,ij,jl->l", theta, f, theta) - f.trace() / d for f in forms], 1
    )


def least_squares(costs, columns):
    """Intercept, its standard error and the slopes of costs (L,) on columns (L, K), the first 1."""
    costs = costs - columns[:, 0]
    design = np.column_stack([np.ones(len(costs)), columns[:, 1:]])
    fitted, *_ = np.linalg.lstsq(design, costs, rcond=1e-10)
    variance = np.square(costs - design @ fitted).sum() / (len(costs) - design.shape[1])
    error = np.sqrt(variance * np.linalg.pinv(design.T @ design)[0, 0])
    return fitted[0], error, np.append(1.0, fitted[1:])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_directions", [6, 40])
def test_value_and_error_are_those_of_least_squares(n_directions, weighted):
    theta = directions(4, n_directions)
    for _ in range(3):
        x, y = clouds(9, 7, 4)
        weights = {"a": torch.rand(9).double(), "b": torch.rand(7).double()} if weighted else {}
        info = controlled(x, y, theta, **weights)
        columns = controls(x, y, theta, **weights).numpy()
        value, error, _ = least_squares(info.costs.numpy(), columns)
        assert info.value.item() == pytest.approx(value, rel=1e-9)
        assert info.standard_error.item() == pytest.approx(error, rel=1e-7)


@pytest.mark.parametrize("d", [2, 3])
def test_dependent_controls_do_no_harm(d):
    """In a plane there are two independent ones; equal covariances are one."""
    x, theta = normal(9, d), directions(d, 20)
    scaled = normal(9, d) if d == 2 else x @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]).double())
    info = controlled(x, scaled + 1, theta)
    columns = controls(x, scaled + 1, theta).numpy()
    value, _, _ = least_squares(info.costs.numpy(), columns)
    assert info.value.item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("impl", IMPLS)
def test_exact_where_the_cost_is_a_control(impl, device):
    """A translation, and single points: the mean over the sphere is |shift|^2 / d."""
    theta = directions(3, few(impl, 9, 5)).to(device)
    for n in (1, 4):
        x, shift = normal(2, n, 3).to(device), normal(2, 1, 3).to(device)
        info = controlled(x, x + shift, theta, impl=impl)
        torch.testing.assert_close(info.value, shift.square().mean((-2, -1)))
        assert (info.standard_error < 1e-6 * info.value).all()


@pytest.mark.parametrize("d", [1, 3])
def test_equal_clouds(d):
    x, theta = normal(6, d), directions(d, 8)
    value, *grads = value_and_grads(lambda x, y: controlled(x, y, theta).value, x, x)
    assert value == 0
    assert not grads[0].any()
    assert not grads[1].any()
    assert controlled(x, x, theta).standard_error == 0


def test_one_feature():
    x, y, theta = normal(6, 1), normal(5, 1), directions(1, 8)
    info = controlled(x, y, theta)
    torch.testing.assert_close(info.value, sliced_wasserstein(x, y, projections=theta))
    assert info.standard_error < 1e-12


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_stay_in_their_problem(bad):
    x, y, theta = normal(3, 6, 3), normal(3, 5, 3), directions(3, 9)

    def run(x):
        info = controlled(x, y, theta)
        return info.value, info.standard_error, value_and_grads(
            lambda x: controlled(x, y, theta).value, x
        )[1]  # fmt: skip

    untouched = run(x)
    x[1, 2, 0] = bad
    for actual, expected in zip(run(x), untouched, strict=True):
        assert not actual[1].isfinite().any()
        torch.testing.assert_close(actual[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


def test_four_directions_are_enough():
    x, y = clouds(9, 7, 4)
    theta = directions(4, 4)
    info = controlled(x, y, theta)
    value, error, _ = least_squares(info.costs.numpy(), controls(x, y, theta).numpy())
    assert info.value.item() == pytest.approx(value, rel=1e-7)
    assert info.standard_error.item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("impl", QUICK)
def test_dtypes(impl, dtype, device):
    x, y, _ = problem(6, 3, 1, m=5, dtype=dtype, device=device)
    theta = sample_projections(3, few(impl, 16, 6)).to(device)
    info = controlled(x, y, theta, impl=impl)
    wide = controlled(x.double(), y.double(), theta.double(), impl="torch")
    assert {t.dtype for t in info} == {torch.float32}
    assert_close64(info.costs, wide.costs, terms=11 + 3)
    assert_close64(info.value, wide.value, terms=(11 + 3) * theta.shape[1])


# --- gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_holds_the_coefficients(impl, device):
    """Of points, directions and weights: against the difference of a formula that freezes them."""
    tensors = (
        *clouds(5, 4, 3),
        directions(3, few(impl, 9, 6)),
        *(torch.rand(n).double() for n in (5, 4)),
    )
    tensors = [t.to(device) for t in tensors]
    x, y, theta, a, b = tensors
    _, *grads = value_and_grads(
        lambda x, y, theta, a, b: controlled(x, y, theta, a=a, b=b, impl=impl).value, *tensors
    )
    costs = sliced_wasserstein_with_info(x, y, projections=theta, a=a, b=b).costs
    slopes = least_squares(costs.cpu().numpy(), controls(*tensors).cpu().numpy())[2]
    slopes = torch.from_numpy(slopes).to(device)

    def frozen(x, y, theta, a, b):
        plain = sliced_wasserstein(x, y, projections=theta, a=a, b=b, impl="torch")
        return plain - slopes @ controls(x, y, theta, a, b).mean(0)

    moves = [torch.randn_like(t) for t in tensors]
    for k, (grad, move) in enumerate(zip(grads, moves, strict=True)):
        ends = [
            frozen(*(t + sign * 1e-6 * move if i == k else t for i, t in enumerate(tensors)))
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((grad * move).sum(), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_where_means_coincide(dtype):
    """Centred clouds differ in their means by rounding, from which nothing can be learnt."""
    x, y = (t.to(dtype) for t in clouds(60, 60, 8))
    x, y = x - x.mean(0), y - y.mean(0)
    theta = directions(8, 64).to(dtype)
    _, plain = value_and_grads(lambda x: sliced_wasserstein(x, y, projections=theta), x)
    _, grad = value_and_grads(lambda x: controlled(x, y, theta).value, x)
    assert grad.norm() < 3 * plain.norm()


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
def test_padding_is_never_read(impl, device):
    x, y, theta = problem(5, 3, 6, m=4, batch=(2,), dtype=torch.float64, device=device)
    x_lengths, y_lengths = torch.tensor([3, 5], device=device), torch.tensor(2, device=device)
    x[0, 3:], y[:, 2:] = torch.nan, torch.inf
    value, grad = value_and_grads(
        lambda x: (
            controlled(x, y, theta, x_lengths=x_lengths, y_lengths=y_lengths, impl=impl).value
        ),
        x,
    )
    for k, n in enumerate((3, 5)):
        alone = value_and_grads(lambda x, y: controlled(x, y, theta).value, x[k, :n], y[k, :2])
        torch.testing.assert_close(value[k], alone[0])
        torch.testing.assert_close(grad[k, :n], alone[1])
        assert not grad[k, n:].any()


def test_batches_broadcast():
    x, y, theta = normal(2, 1, 6, 3), normal(3, 5, 3), directions(3, 7, 2, 3)
    info = controlled(x, y, theta)
    assert info.value.shape == info.standard_error.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = controlled(x[i, 0], y[j], theta[i, j])
            torch.testing.assert_close([t[i, j] for t in info], list(alone))


def test_directions_give_a_batch_to_one_pair_of_clouds():
    x, y, theta = normal(6, 3), normal(5, 3), directions(3, 7, 2)
    info = controlled(x, y, theta)
    for k in range(2):
        torch.testing.assert_close([t[k] for t in info], list(controlled(x, y, theta[k])))


def test_compile_full_graph():
    x, y = clouds(6, 5, 3)
    theta = directions(3, 8)

    def value(x, y):
        return controlled(x, y, theta).value

    torch._dynamo.reset()
    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    results = [value_and_grads(f, x, y) for f in (compiled, value)]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_autocast_does_not_lower_the_arithmetic():
    x, y, theta = problem(6, 3, 8)
    expected = controlled(x, y, theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = controlled(x, y, theta)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# --- errors -------------------------------------------------------------------------------------

X, Y = torch.rand(2, 4, 3), torch.rand(5, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": 1, "control_variate": True}, ValueError,
         r"sliced_wasserstein_with_info: p must be 2 with control_variate=True; got 1"),
        ({"projections": torch.square, "control_variate": True}, ValueError,
         r"projections must be directions with control_variate=True; got builtin_function"),
        ({"n_projections": 3, "control_variate": True}, ValueError,
         r"projections must have L > 3 for a control variate; got 3"),
        ({"p": 0.5}, ValueError, r"p must be a finite number >= 1; got 0.5"),
        ({"n_projections": 0}, ValueError, r"n_projections must be an integer >= 1; got 0"),
        ({"projections": torch.rand(2, 5)}, ValueError,
         r"sliced_wasserstein_with_info: projections must have shape \(3, L\)"),
        ({"a": torch.rand(5)}, ValueError, r"a must have shape \(\.\.\., 4\),"),
        ({"y_lengths": torch.tensor(6)}, ValueError, r"y_lengths must be from 1 to 5, .*; got 6"),
        ({"b": -torch.ones(5), "validate": True}, ValueError, r"b must not be negative; got -1.0"),
        ({"impl": "gpu"}, ValueError, r"impl must be one of .*; got 'gpu'"),
    ],
)  # fmt: skip
def test_error_messages(options, error, message):
    with pytest.raises(error, match=message):
        sliced_wasserstein_with_info(X, Y, **options)
