import inspect

import numpy as np
import ot
import pytest
import torch

from otkernels.compat import pot

SLICED = ["sliced_wasserstein_distance", "max_sliced_wasserstein_distance"]
CLOUDS = [*SLICED, "sliced_wasserstein_sphere"]
KINDS = ["numpy", "torch"]
DTYPES = ["float32", "float64"]
# POT cumulates float32 weights in float32 and stops its search for a cut within 1e-7 of a turn.
CLOSE = {"float32": {"rtol": 1e-4, "atol": 2e-5}, "float64": {"rtol": 1e-7, "atol": 1e-12}}
CLOSE_SPHERE = {"float32": CLOSE["float32"], "float64": {"rtol": 1e-5, "atol": 1e-6}}


def theirs(name):
    return getattr(ot.lp if name == "wasserstein_1d" else ot.sliced, name)


def make(kind, dtype, *arrays):
    arrays = [None if t is None else np.asarray(t, dtype) for t in arrays]
    return [torch.tensor(t) if kind == "torch" and t is not None else t for t in arrays]


def clouds(name, n=7, m=7, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) + 0.3
    if name == "sliced_wasserstein_sphere":
        x, y = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (x, y))
    return x, y


def weights(n, m, total=1.0):
    rng = np.random.default_rng(1)
    return tuple(total * w / w.sum() for w in (rng.random(n) + 0.1, rng.random(m) + 0.1))


def assert_same(actual, expected, **close):
    """Same kind, dtype and shape, and numbers that are close."""
    assert type(actual) is type(expected), (type(actual), type(expected))
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    to = {"dtype": torch.float64}
    torch.testing.assert_close(
        torch.as_tensor(actual, **to), torch.as_tensor(expected, **to), **close
    )


def gradients(function, tensors, *args, **kwargs):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    return torch.autograd.grad(function(*leaves, *args, **kwargs).sum(), leaves)


@pytest.mark.parametrize("name", pot.__all__)
def test_signature(name):
    def arguments(function):
        return [
            (p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
        ]

    homes = ot.lp, ot.sliced, ot.sliced._utils, ot.gaussian
    original = next(getattr(home, name) for home in homes if hasattr(home, name))
    assert arguments(getattr(pot, name)) == arguments(original)


# --- clouds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(7, 7), (5, 8)])
@pytest.mark.parametrize("p", [1, 2, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_clouds(name, kind, dtype, sizes, p, weighted):
    x, y = make(kind, dtype, *clouds(name, *sizes))
    a, b = make(kind, dtype, *(weights(*sizes) if weighted else (None, None)))
    close = (CLOSE_SPHERE if name == "sliced_wasserstein_sphere" else CLOSE)[dtype]
    args = (x, y, a, b, 9, p, None, 4)  # by position
    actual, log = getattr(pot, name)(*args, True)
    expected, expected_log = theirs(name)(*args, True)
    assert_same(actual, expected, **close)
    assert list(log) == list(expected_log)
    assert_same(log["projections"], expected_log["projections"], rtol=0, atol=0)
    assert_same(log["projected_emds"], expected_log["projected_emds"], **close)
    assert_same(getattr(pot, name)(*args), expected, **close)  # without log, another way


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("sizes", [(7, 7), (5, 8)])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_gradients_of_clouds(name, sizes, p, weighted, log):
    x, y = make("torch", "float64", *clouds(name, *sizes))
    a, b = make("torch", "float64", *(weights(*sizes) if weighted else (None, None)))
    given = {"a": a, "b": b, "n_projections": 6, "p": p, "seed": 3, "log": log}

    def first(function):
        return lambda x, y: function(x, y, **given)[0] if log else function(x, y, **given)

    for actual, expected in zip(
        gradients(first(getattr(pot, name)), (x, y)),
        gradients(first(theirs(name)), (x, y)),
        strict=True,
    ):
        assert_same(actual, expected, **CLOSE_SPHERE["float64"])


@pytest.mark.parametrize("name", SLICED)
@pytest.mark.parametrize("kind", KINDS)
def test_given_directions_and_scalers(name, kind):
    x, y = make(kind, "float64", *clouds(name, 6, 4))
    (theta,) = make(kind, "float64", np.random.default_rng(2).standard_normal((3, 5)))

    class Halves:
        def transform(self, points):
            return points / 2

    for scaler in (None, Halves(), lambda points: points**3):
        given = {"projections": theta, "n_projections": 99, "scaler": scaler, "p": 3}
        actual = getattr(pot, name)(x, y, **given)
        assert_same(actual, theirs(name)(x, y, **given), **CLOSE["float64"])


def test_gradients_of_directions_and_weights():
    x, y = make("torch", "float64", *clouds("", 6, 4))
    a, b = make("torch", "float64", *weights(6, 4))
    theta = torch.randn(3, 5, dtype=torch.float64)

    def cost(function):
        return lambda theta, a, b: function(x, y, a, b, projections=theta)

    ours = gradients(cost(pot.sliced_wasserstein_distance), (theta, a, b))
    other = gradients(cost(ot.sliced_wasserstein_distance), (theta, a, b))
    assert_same(ours[0], other[0], **CLOSE["float64"])
    for actual, expected in zip(ours[1:], other[1:], strict=True):  # up to a constant
        assert_same(actual - actual.mean(), expected - expected.mean(), **CLOSE["float64"])


@pytest.mark.parametrize("name", CLOUDS)
def test_numpy_of_mixed_dtypes(name):
    x, y = clouds(name, 6, 4)
    x = x.astype(np.float32)
    a, _ = weights(6, 4)
    args = (x, y, a.astype(np.float32), None, 5, 2, None, 0)
    assert_same(getattr(pot, name)(*args), theirs(name)(*args), **CLOSE["float32"])


@pytest.mark.parametrize("name", CLOUDS)
def test_half_types_come_back(name):
    x, y = make("torch", "float32", *clouds(name, 6, 4))
    projections = {"seed": 0}
    if name == "sliced_wasserstein_sphere":  # torch has no QR of half types
        projections = {"projections": pot.get_projections_sphere(3, 50, 0, "torch", x).bfloat16()}
        x, y = (torch.eye(3)[[0, 1, 2, 0]], torch.eye(3)[[2, 1, 1, 0]])
    distance, log = getattr(pot, name)(x.bfloat16(), y.bfloat16(), log=True, **projections)
    assert {distance.dtype, log["projected_emds"].dtype} == {torch.bfloat16}


@pytest.mark.parametrize("name", SLICED)
def test_lists(name):
    x, y = clouds(name)
    expected = theirs(name)(x.tolist(), y.tolist(), seed=0)
    assert_same(getattr(pot, name)(x.tolist(), y.tolist(), seed=0), expected, **CLOSE["float64"])
    like = torch.tensor(y)
    expected = theirs(name)(x.tolist(), like, seed=0)
    assert_same(getattr(pot, name)(x.tolist(), like, seed=0), expected, **CLOSE["float64"])


@pytest.mark.parametrize("name", SLICED)
def test_integers_are_numbers(name):
    x, y = np.array([[0, 1], [2, 3]]), np.array([[1, 1], [5, 3]])
    assert_same(
        getattr(pot, name)(x, y, seed=0),
        theirs(name)(x.astype(float), y.astype(float), seed=0),
        **CLOSE["float64"],
    )


@pytest.mark.parametrize("name", SLICED)
def test_weights_of_another_total(name):
    x, y = clouds(name, 6, 4)
    args = (x, y, *weights(6, 4, total=3.0), 5, 2, None, 0)
    assert_same(getattr(pot, name)(*args), theirs(name)(*args), **CLOSE["float64"])


@pytest.mark.parametrize("name", CLOUDS)
def test_gradient_is_zero_where_the_distance_is(name):
    x = torch.tensor(clouds(name)[0], requires_grad=True)
    for log in (False, True):
        out = getattr(pot, name)(x, x.detach(), seed=0, log=log)
        distance = out[0] if log else out
        (grad,) = torch.autograd.grad(distance, x)
        assert distance == 0
        assert torch.equal(grad, torch.zeros_like(x))


# --- the line -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors:UserWarning")  # of POT's own
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 2.5])
@pytest.mark.parametrize("weighted", ["none", "one row", "each row", "one side"])
@pytest.mark.parametrize(("shape_u", "shape_v"), [((6,), (6,)), ((5, 3), (8, 3))])
def test_line(kind, dtype, p, weighted, shape_u, shape_v):
    rng = np.random.default_rng(0)
    u, v = make(kind, dtype, rng.random(shape_u), rng.random(shape_v))
    a, b = weights(len(u), len(v))
    if weighted == "each row":
        a, b = (rng.random(s) for s in (shape_u, shape_v))
        a, b = a / a.sum(0), b / b.sum(0)
    a, b = {"none": (None, None), "one side": (a, None)}.get(weighted, (a, b))
    a, b = make(kind, dtype, a, b)
    for order in (p,) if p != 1 else ((), (1,)):
        args = (u, v, a, b, *((order,) if order == p else order))
        assert_same(pot.wasserstein_1d(*args), ot.wasserstein_1d(*args), **CLOSE[dtype])
    if kind == "torch":
        ours, other = (
            gradients(lambda u, v, f=f: f(u, v, a, b, p), (u, v))
            for f in (pot.wasserstein_1d, ot.wasserstein_1d)
        )
        for actual, expected in zip(ours, other, strict=True):
            assert_same(actual, expected, **CLOSE[dtype])


def test_line_of_sorted_values():
    u, v = np.sort(np.random.default_rng(0).random((2, 6)))
    expected = ot.wasserstein_1d(u, v, p=2, require_sort=False)
    actual = pot.wasserstein_1d(u, v, p=2, require_sort=False)
    assert_same(actual, expected, **CLOSE["float64"])
    with pytest.raises(ValueError, match="v_values must be sorted"):
        pot.wasserstein_1d(u, v[::-1], require_sort=False)


def test_line_takes_more_axes():
    u, v = np.random.default_rng(0).random((2, 5, 3, 2))
    actual = pot.wasserstein_1d(u, v, p=2)
    assert actual.shape == (3, 2)
    assert_same(actual[:, 1], ot.wasserstein_1d(u[..., 1], v[..., 1], p=2), **CLOSE["float64"])


# --- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["get_random_projections", "get_projections_sphere"])
def test_numpy_draws(name):
    ours, other = getattr(pot, name), getattr(ot.sliced._utils, name)
    for seed in (5, None, None, np.array([1, 2])):  # without a seed the stream goes on
        assert_same(ours(4, 6, seed), other(4, 6, seed), rtol=0, atol=0)
    states = np.random.RandomState(3), np.random.RandomState(3)
    for _ in range(2):
        assert_same(ours(4, 6, states[0]), other(4, 6, states[1]), rtol=0, atol=0)
    assert_same(ours(4, 6), other(4, 6), rtol=0, atol=0)  # a RandomState leaves it alone


@pytest.mark.parametrize("name", ["get_random_projections", "get_projections_sphere"])
def test_torch_draws(name):
    ours, other = getattr(pot, name), getattr(ot.sliced._utils, name)
    backend = ot.backend.get_backend(torch.zeros(1))
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(1, dtype=dtype)
        for seed in (5, None, 0):
            actual = ours(4, 6, seed, "torch", like)
            assert_same(actual, other(4, 6, seed, backend, like), rtol=0, atol=0)
    assert_same(ours(4, 6, 7, backend), other(4, 6, 7, backend), rtol=0, atol=0)
    generators = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for seeds in (generators, (None, None), (4, 4), (None, None)):
        actual = ours(4, 6, seeds[0], backend)
        assert_same(actual, other(4, 6, seeds[1], backend), rtol=0, atol=0)
    for function in (ours, other):
        with pytest.raises(ValueError, match="seed"):
            function(4, 6, np.random.RandomState(0), backend)


def test_draws_leave_other_streams_alone():
    np.random.seed(0)  # noqa: NPY002
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    pot.get_random_projections(4, 6, 1)
    pot.get_random_projections(4, 6, 1, "torch")
    assert (np.random.get_state()[1] == states[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


# --- refusals -----------------------------------------------------------------------------------


def test_refusals():
    x, y = clouds("")
    a, b = weights(7, 7)
    distance = pot.sliced_wasserstein_distance
    with pytest.raises(NotImplementedError, match="return_plans must be False; .* Use POT's"):
        pot.wasserstein_1d(x, y, return_plans=True)
    with pytest.raises(NotImplementedError, match="backend must be 'numpy' or 'torch'; got 'jax'"):
        pot.get_random_projections(3, 4, backend="jax")
    with pytest.raises(NotImplementedError, match="NumPy arrays or .*; got str. Use POT"):
        distance("x", "y")
    with pytest.raises(ValueError, match="all be NumPy arrays or .*; got Tensor, ndarray"):
        distance(x, torch.tensor(y))
    with pytest.raises(ValueError, match="same total; got 1 apart"):
        distance(x, y, a, 2 * b)
    with pytest.raises(ValueError, match="same total; got 2 apart"):
        pot.wasserstein_1d(x[:, 0], y[:, 0], 3 * a)
    with pytest.raises(ValueError, match="X_t must have X_s's 3 features"):
        distance(x, y[:, :2])
    with pytest.raises(ValueError, match=r"X_s must have shape \(n, d\); got \(1, 7, 3\)"):
        distance(x[None], y)
    with pytest.raises(ValueError, match="scaler must be None"):
        distance(x, y, scaler=2)
    with pytest.raises(ValueError, match="X_s must be on the unit sphere"):
        pot.sliced_wasserstein_sphere(x, y)
    x, y = clouds("sliced_wasserstein_sphere")
    with pytest.raises(ValueError, match="weights must have a total of 1; got 1 off"):
        pot.sliced_wasserstein_sphere(x, y, 2 * a, 2 * b)
