import itertools

import numpy as np
import ot
import pytest
import torch

from otkernels import bures_wasserstein
from otkernels.compat import pot

KINDS = ["numpy", "torch"]
DTYPES = ["float32", "float64"]
D = 4
# Cs and Ct by layout: one pair, all pairs, partners.
LAYOUTS = {"one": ((), (), False), "all": ((3,), (2,), False), "paired": ((3,), (3,), True)}
PAIRS = ["bures_distance", "bures_wasserstein_distance"]
MAPS = ["bures_wasserstein_mapping", "empirical_bures_wasserstein_mapping"]
CONDITION = 9.0**2  # of a product of two of the covariances below
EMPIRICAL = ["empirical_bures_wasserstein_distance", "empirical_bures_wasserstein_mapping"]


def theirs(name):
    return getattr(ot.gaussian, name)


def make(kind, dtype, *arrays):
    arrays = [None if t is None else np.asarray(t, dtype) for t in arrays]
    return [torch.tensor(t) if kind == "torch" and t is not None else t for t in arrays]


def gaussians(*batch, seed=0, shift=0.0):
    """Means (*batch, D) and covariances (*batch, D, D) of condition 9."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((*batch, D, D)))[0]
    values = np.linspace(0.5, 4.5, D) * rng.uniform(0.5, 2, (*batch, 1))
    cov = (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return rng.standard_normal((*batch, D)) + shift, (cov + np.swapaxes(cov, -1, -2)) / 2


def problem(name, layout, kind, dtype):
    """Arguments of the function, for one of the layouts."""
    s, t, _ = LAYOUTS[layout]
    (ms, Cs), (mt, Ct) = gaussians(*s), gaussians(*t, seed=1, shift=1.0)
    given = (Cs, Ct) if name == "bures_distance" else (ms, mt, Cs, Ct)
    return make(kind, dtype, *given)


def samples(n=15, m=12):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((n, D)), rng.standard_normal((m, D)) @ gaussians()[1] + 1
    return x, y, rng.random((n, 1)) + 0.1, 3 * rng.random((m, 1)) + 0.1


def double(array):
    return torch.as_tensor(array, dtype=torch.float64)


def wide(given):
    """The arguments with float64 in place of float32."""
    kinds = {np.ndarray: lambda t: t.astype("float64"), torch.Tensor: torch.Tensor.double}
    return [kinds.get(type(t), lambda t: t)(t) for t in given]


def assert_same(actual, expected, exact=None, size=30.0, condition=CONDITION):
    """Same kind, dtype and shape, () for (1,), and numbers as close as both are known.

    Numbers are sums of D x D terms of the given size. They are compared with ``exact``, POT's in
    float64, whose rounding is multiplied by the condition of a product of two covariances.
    """
    exact = double(expected if exact is None else exact)
    if isinstance(expected, torch.Tensor) and expected.shape == (1,):
        expected, exact = expected[0], exact[0]
    assert type(actual) is type(expected), (type(actual), type(expected))
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    eps = np.finfo(np.asarray(actual.detach() if torch.is_tensor(actual) else actual).dtype).eps
    bound = D * size * (eps + condition * np.finfo("float64").eps)
    torch.testing.assert_close(double(actual), exact, rtol=0, atol=bound)


def assert_all_same(actual, expected, exact, **options):
    for a, b, c in zip(actual, expected, exact, strict=True):
        if isinstance(a, dict):
            assert list(a) == list(b)
            assert_all_same(a.values(), b.values(), c.values(), **options)
        else:
            assert_same(a, b, c, **options)


def gradients(function, leaves):
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    out = function(*leaves)
    out = out if isinstance(out, tuple) else (out,)
    total = sum((t * torch.linspace(0.5, 1.5, t.numel()).view_as(t)).sum() for t in out)
    return torch.autograd.grad(total, leaves)


# --- Gaussians ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_distances(name, layout, kind, dtype):
    given, paired = problem(name, layout, kind, dtype), LAYOUTS[layout][2]
    actual = getattr(pot, name)(*given, paired, True)
    expected, exact = (theirs(name)(*g, paired, True) for g in (given, wide(given)))
    assert_all_same(actual, expected, exact)
    assert_same(getattr(pot, name)(*given, paired=paired), expected[0], exact[0])
    assert np.ptp(double(exact[0]).numpy()) > 0.1 or layout == "one"  # not one number everywhere


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_distances(name, layout):
    given, paired = problem(name, layout, "torch", "float64"), LAYOUTS[layout][2]
    ours, other = (
        gradients(lambda *a, f=f: f(*a, paired=paired), given)
        for f in (getattr(pot, name), theirs(name))
    )
    for actual, expected in zip(ours, other, strict=True):
        assert expected.abs().max() > 0.01
        assert_same(actual, expected)


def test_gradient_of_the_logged_root():
    Cs, Ct = problem("bures_distance", "one", "torch", "float64")
    ours, other = (
        gradients(lambda Cs, f=f: f(Cs, Ct, log=True)[1]["Cs12"], [Cs])[0]
        for f in (pot.bures_distance, ot.gaussian.bures_distance)
    )
    assert_same(ours, other)


@pytest.mark.parametrize("name", PAIRS)
def test_paired_without_partners(name):
    given = problem(name, "all", "numpy", "float64")
    expected = theirs(name)(*given)
    assert expected.shape == (3, 2)
    assert_same(getattr(pot, name)(*given, paired=True), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [False, True])
def test_mapping(kind, dtype, rows):
    ms, mt, Cs, Ct = problem("bures_wasserstein_mapping", "one", kind, dtype)
    given = (ms[None], mt[None], Cs, Ct) if rows else (ms, mt, Cs, Ct)
    actual = pot.bures_wasserstein_mapping(*given, True)
    original = ot.gaussian.bures_wasserstein_mapping
    expected, exact = (original(*g, True) for g in (given, wide(given)))
    assert_all_same(actual, expected, exact)
    assert_all_same(pot.bures_wasserstein_mapping(*given), expected[:2], exact[:2])


def test_gradients_of_mapping():
    given = problem("bures_wasserstein_mapping", "one", "torch", "float64")
    ours, other = (
        gradients(f, given)
        for f in (pot.bures_wasserstein_mapping, ot.gaussian.bures_wasserstein_mapping)
    )
    for actual, expected in zip(ours, other, strict=True):
        assert expected.abs().max() > 0.1
        assert_same(actual, expected, condition=CONDITION**2)


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMPIRICAL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", ["", "s", "st"])
@pytest.mark.parametrize("bias", [True, False])
def test_samples(name, kind, dtype, weighted, bias):
    x, y, ws, wt = samples()
    ws, wt = (w if side in weighted else None for side, w in (("s", ws), ("t", wt)))
    x, y, ws, wt = make(kind, dtype, x, y, ws, wt)
    for reg in (1e-6, 0.3):
        given = x, y, reg, ws, wt, bias
        actual = getattr(pot, name)(*given, True)
        expected, exact = (theirs(name)(*g, True) for g in (given, wide(given)))
        options = {"condition": condition(exact[-1]), "size": sizes(exact[-1])}
        assert_all_same(actual, expected, exact, **options)
        again = getattr(pot, name)(*given)
        again = again if isinstance(again, tuple) else (again,)
        assert_all_same(again, expected[:-1], exact[:-1], **options)


def condition(log):
    """Of the product of both covariances."""
    return np.linalg.cond(log["Cs"]) * np.linalg.cond(log["Ct"])


def sizes(log):
    """Of the squared distance, of the covariances and their roots, and of the map's entries."""
    return float(np.trace(log["Cs"]) + np.trace(log["Ct"])) + 30.0


@pytest.mark.parametrize("name", EMPIRICAL)
@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_samples(name, kind):
    x, y = make(kind, "float64", *samples()[:2])
    *expected, log = theirs(name)(x, y, log=True)
    actual = getattr(pot, name)(x, y)
    actual = actual if isinstance(actual, tuple) else (actual,)
    assert_all_same(actual, expected, expected, condition=condition(log), size=sizes(log))


@pytest.mark.parametrize("name", EMPIRICAL)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_samples(name, bias):
    given = make("torch", "float64", *samples())
    ours, other = (
        gradients(lambda x, y, a, b, f=f: f(x, y, ws=a, wt=b, bias=bias), given)
        for f in (getattr(pot, name), theirs(name))
    )
    *_, log = theirs(name)(*given[:2], 1e-6, *given[2:], bias, True)
    for actual, expected in zip(ours, other, strict=True):
        assert expected.abs().max() > 0.01
        assert_same(actual, expected, condition=condition(log) ** 2, size=sizes(log))


def test_fewer_samples_than_features_need_a_ridge_for_a_map_only():
    x, y, *_ = samples(3, 2)
    distance = pot.empirical_bures_wasserstein_distance(x, y, reg=0)
    one = double(np.cov(x.T, bias=True)), double(np.cov(y.T, bias=True))
    means = double(x.mean(0)), double(y.mean(0))
    expected = bures_wasserstein(means[0], one[0], means[1], one[1], squared=False)
    assert_same(double(distance), expected)
    with pytest.warns(UserWarning, match="covariance is singular.* a larger reg helps"):
        a, b = pot.empirical_bures_wasserstein_mapping(x, y, reg=0)
    assert np.isnan(a).all()
    assert np.isnan(b).all()
    for t in pot.empirical_bures_wasserstein_mapping(x, y):
        assert np.isfinite(t).all()


def test_nan_of_samples_warns_of_nothing():
    x, y, *_ = samples()
    a, b = pot.empirical_bures_wasserstein_mapping(x, np.nan * y)
    assert np.isnan(a).all()
    assert np.isnan(b).all()


# --- what arrays may be ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_lists_and_integers(name):
    given = [np.arange(2), np.ones(2, int), np.array([[4, 1], [1, 3]]), np.eye(2, dtype=int)]
    given = given[-2:] if name == "bures_distance" else given
    expected = theirs(name)(*given)
    assert_same(getattr(pot, name)(*given), expected)
    assert_same(getattr(pot, name)(*(t.tolist() for t in given)), expected)


def test_lists_of_samples():
    x, y, *_ = samples()
    expected = pot.empirical_bures_wasserstein_distance(x, y)
    assert_same(pot.empirical_bures_wasserstein_distance(x.tolist(), y.tolist()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_dtypes(kind):
    ms, mt, Cs, Ct = problem("bures_wasserstein_distance", "one", kind, "float64")
    (narrow,) = make(kind, "float32", ms)
    actual = pot.bures_wasserstein_distance(narrow, mt, Cs, Ct)
    assert_same(actual, theirs("bures_wasserstein_distance")(narrow, mt, Cs, Ct))


def test_half_types():
    given = [t.bfloat16() for t in problem("bures_wasserstein_mapping", "one", "torch", "float32")]
    wide = [t.double() for t in given]
    actual = pot.bures_wasserstein_distance(*given)
    eps = torch.finfo(torch.bfloat16).eps
    assert actual.dtype == torch.bfloat16
    assert abs(actual.double() / pot.bures_wasserstein_distance(*wide) - 1) < eps
    for a, b in zip(
        pot.bures_wasserstein_mapping(*given), pot.bures_wasserstein_mapping(*wide), strict=True
    ):
        assert a.dtype == torch.bfloat16
        assert (a.double() - b).abs().max() <= eps * b.abs().max()


# --- what differs ---------------------------------------------------------------------------------


def test_gradient_is_finite_at_equal_gaussians():
    zero, one = torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
    ms = zero.clone().requires_grad_()
    Cs = one.clone().requires_grad_()
    for name, mt in itertools.product(PAIRS, (zero, zero + 1)):
        given, leaves = ((Cs, one), (Cs,)) if name == PAIRS[0] else ((ms, mt, Cs, one), (ms, Cs))
        ours, other = (
            torch.autograd.grad(f(*given).sum(), leaves) for f in (getattr(pot, name), theirs(name))
        )
        assert other[-1].isnan().all()
        # I - T is 0, and so is the sub-gradient where the distance is.
        torch.testing.assert_close(ours[-1], 0 * one, rtol=0, atol=D * 2.2e-16)
        if len(leaves) > 1:
            towards = (zero - mt) / max(1, (zero - mt).norm())
            torch.testing.assert_close(ours[0], towards)


def test_singular_covariances():
    rng = np.random.default_rng(0)
    factor, (_, Ct) = rng.standard_normal((2, D)), gaussians(seed=1)
    Cs = factor.T @ factor
    root = np.linalg.svd(factor @ Ct @ factor.T)[1] ** 0.5
    expected = np.trace(Cs) + np.trace(Ct) - 2 * root.sum()
    actual = pot.bures_distance(Cs, Ct)
    assert_same(actual**2, expected)
    tensors = [torch.tensor(t) for t in (Cs, Ct)]
    assert_same(pot.bures_distance(*tensors) ** 2, torch.tensor(expected))
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert np.isnan(ot.gaussian.bures_distance(Ct, Cs))
    assert_same(pot.bures_distance(Ct, Cs) ** 2, expected)
    zero = np.zeros(D)
    assert np.isnan(pot.bures_wasserstein_mapping(zero, zero, Cs, Ct)[0]).all()


def test_the_symmetric_part_counts():
    Cs, Ct = problem("bures_distance", "one", "numpy", "float64")
    skew = np.triu(np.ones((D, D)), 1) * 0.1
    actual = pot.bures_distance(Cs + skew, Ct)
    assert_same(actual, ot.gaussian.bures_distance(Cs + (skew + skew.T) / 2, Ct))
    assert_same(ot.gaussian.bures_distance(Cs + skew, Ct), ot.gaussian.bures_distance(Cs, Ct))
    assert abs(actual - pot.bures_distance(Cs, Ct)) > 1e-4
    given = torch.tensor(Cs + skew), torch.tensor(Ct)
    assert_same(pot.bures_distance(*given), ot.gaussian.bures_distance(*given))


def test_nan():
    Cs, Ct = problem("bures_distance", "all", "torch", "float64")
    Cs[1, 2, 2] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        ot.gaussian.bures_distance(Cs, Ct)
    distance = pot.bures_distance(Cs, Ct)
    assert distance[1].isnan().all()
    assert distance[[0, 2]].isfinite().all()


def test_second_derivatives_are_refused():
    Cs, Ct = problem("bures_distance", "one", "torch", "float64")
    Ct.requires_grad_()

    def slope(function):
        return torch.autograd.grad(function(Cs, Ct).sum() ** 2, Ct, create_graph=True)[0]

    (second,) = torch.autograd.grad(slope(ot.gaussian.bures_distance).sum(), Ct)
    assert not second.any()  # which it is not
    step = torch.eye(D, dtype=torch.float64) * 1e-3
    with torch.no_grad():
        Ct += step
    first = slope(ot.gaussian.bures_distance)
    with torch.no_grad():
        Ct -= step
    assert (first - slope(ot.gaussian.bures_distance)).abs().max() > 1e-5
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        torch.autograd.grad(slope(pot.bures_distance).sum(), Ct)


@pytest.mark.parametrize("name", EMPIRICAL)
def test_weights_of_one_axis_and_negative_ones(name):
    x, y, ws, wt = samples()

    def first(*weights):
        out = getattr(pot, name)(x, y, 1e-6, *weights)
        return out[0] if isinstance(out, tuple) else out

    assert_same(first(ws[:, 0], wt[:, 0]), first(ws, wt))
    with pytest.raises(ValueError, match="broadcast"):
        theirs(name)(x, y, ws=ws[:, 0])
    ws[0] = -0.1
    out = theirs(name)(x, y, 1e-6, ws, wt)
    assert np.isfinite(out[0] if isinstance(out, tuple) else out).all()
    assert np.isnan(first(ws, wt)).all()


def test_a_small_ridge_counts_in_float32():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((9, D)).astype("float32") * 30
    x[:, 0] = 1
    y = x.copy()
    y[:, 0] += np.linspace(-1, 1, 9)
    expected = ot.gaussian.empirical_bures_wasserstein_mapping(*(t.astype(float) for t in (x, y)))
    actual = pot.empirical_bures_wasserstein_mapping(x, y)
    assert actual[0].dtype == np.float32
    bound = np.finfo("float32").eps * np.abs(expected[0]).max()
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=bound)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("bures_distance", ((2, 3), (2, 2)), r"Cs must have shape \(d, d\) or \(n, d, d\); got"),
        ("bures_distance", ((2, 2), (3, 3)), r"Ct must have as many axes and features as Cs"),
        ("bures_distance", ((2, 2), (1, 2, 2)), r"Ct must .* as Cs \(2, 2\); got \(1, 2, 2\)"),
        ("bures_distance", ((1, 1, 2, 2), (2, 2)), r"Cs must have shape .*got \(1, 1, 2, 2\)"),
        (PAIRS[1], ((2,), (3,), (2, 2), (2, 2)), r"mt must have Ct's shape \(2,\); got \(3,\)"),
        (PAIRS[1], ((2, 2), (2,), (2, 2), (2, 2)), r"ms must have Cs's shape \(2,\)"),
        (MAPS[0], ((1, 2), (1, 2), (1, 2, 2), (1, 2, 2)), r"Cs must have shape \(d, d\); got"),
        (MAPS[0], ((2, 2), (2,), (2, 2), (2, 2)), r"ms must have shape \(2,\) or \(1, 2\)"),
        (EMPIRICAL[0], ((3,), (3, 2)), r"xs must have shape \(n, d\); got \(3,\)"),
        (EMPIRICAL[0], ((3, 2), (0, 2)), r"xt must have shape \(n, d\); got \(0, 2\)"),
        (EMPIRICAL[1], ((3, 2), (3, 1)), r"xt must have xs's 2 features; got \(3, 1\)"),
        (EMPIRICAL[1], ((3, 2), (4, 2), (), (4,)), r"ws must have shape \(3, 1\) or \(3,\)"),
        (EMPIRICAL[1], ((3, 2), (4, 2), (3,), (1, 4)), r"wt must have shape .*got \(1, 4\)"),
    ],
)
def test_shapes(name, shapes, message):
    given = [np.ones(shape) for shape in shapes]
    if len(given) == 4 and name in EMPIRICAL:
        given.insert(2, 1e-6)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        getattr(pot, name)(*given)


def test_kinds():
    one = np.eye(2)
    with pytest.raises(ValueError, match="all be NumPy arrays or .*; got Tensor, ndarray"):
        pot.bures_distance(one, torch.eye(2))
    with pytest.raises(NotImplementedError, match="got str. Use POT"):
        pot.bures_distance("a", "b")
    with pytest.raises(TypeError, match="bures_distance: Cs must be float16"):
        pot.bures_distance(torch.eye(2).long(), torch.eye(2).long())
