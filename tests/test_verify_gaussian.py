"""The truths of Gaussian distances and roots, their peers, and what the check of them catches."""

import mpmath
import numpy as np
import pytest
import torch

import otkernels
from otkernels.verify import digits, gaussian, gaussian_inputs, gaussian_roots, gaussian_samples
from otkernels.verify.check import FAIL, PASS, check, truth
from otkernels.verify.gaussian import Pair, Side
from otkernels.verify.inputs import Case, draw
from otkernels.verify.ops import OPS
from otkernels.verify.peers import load
from otkernels.verify.reference import EXACT


def gaussians(kind="", d=4, seed=0):
    return gaussian_inputs.gaussians(Case(d, kind=kind), np.random.default_rng(seed))


def clouds(kind="", n=7, m=6, d=3, seed=0):
    arrays = gaussian_inputs.clouds(Case(n, d=d, m=m, kind=kind), np.random.default_rng(seed))
    return {name: arrays[name] for name in sorted(arrays)}


# --- the truths ---------------------------------------------------------------------------------


def assert_difference_quotients(formula, arrays, rtol=1e-6, **options):
    """Gradients of a formula against central differences; covariances move symmetrically."""
    result = formula(**arrays, rounding=EXACT, **options).result

    def value(**moved):
        return formula(**arrays | moved, rounding=EXACT, **options).result["value"]

    names = [name for name in result if name.startswith("grad ")]
    assert names
    for name in names:
        array, grad = arrays[name[5:]], result[name]
        scale = np.abs(grad).max()
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] += 0.5
            step[index[:-2] + index[-2:][::-1] if "cov" in name and array.ndim > 1 else index] += (
                0.5
            )
            up, down = (value(**{name[5:]: array + s * 1e-5 * step}) for s in (1, -1))
            expected = np.sum(grad * step)
            assert (up - down) / 2e-5 == pytest.approx(expected, abs=rtol * scale), (name, index)


@pytest.mark.parametrize("kind", ["", "condition 1e2", "commuting", "repeated"])
def test_gradients_between_gaussians(kind):
    assert_difference_quotients(gaussian.between_gaussians, gaussians(kind))


def test_gradients_of_pairs_and_of_variances():
    rng = np.random.default_rng(0)
    pairs = gaussian_inputs.gaussians(Case(3, m=2, batch=(3,)), rng)
    pairs["cov_x"], pairs["mean_x"] = pairs["cov_x"][:2], pairs["mean_x"][:2]
    result = gaussian.all_pairs(**pairs, rounding=EXACT, pairwise=True).result
    for i, j in np.ndindex(2, 2):
        one = (array[i if name[-1] == "x" else j] for name, array in pairs.items())
        single = gaussian.between_gaussians(*one, EXACT).result["value"]
        assert result["value"][i, j] == single
    variances = gaussian_inputs.variances(Case(3), rng)
    assert_difference_quotients(gaussian.between_variances, variances, diagonal=True)


OPTIONS = [{}, {"correction": 1}, {"eps": 0.5}, {"diagonal": True}, {"squared": False}]


@pytest.mark.parametrize("kind", ["", "weights"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
def test_gradients_between_clouds(options, kind):
    assert_difference_quotients(gaussian_samples.between_clouds, clouds(kind), **options)


@pytest.mark.parametrize("kind", ["", "weights"])
def test_gradients_to_the_normal_and_of_moments(kind):
    arrays = {name: array for name, array in clouds(kind).items() if name in ("a", "x")}
    assert_difference_quotients(gaussian_samples.to_normal, arrays, correction=1)
    rng = np.random.default_rng(0)
    arrays = gaussian_inputs.moments(Case(7, d=3, kind=kind), rng)
    assert_difference_quotients(gaussian_samples.mean_and_covariance, arrays, correction=1)


@pytest.mark.parametrize(("n", "m"), [(4, 3), (4, 12), (6, 6)])
def test_gradients_of_fewer_points_than_features(n, m):
    """A distance of singular covariances is smooth in the points where a product has full rank."""
    arrays = clouds(n=n, m=m, d=6)
    smooth = ["x"] if n <= m else ["y"]
    held = {name: array for name, array in arrays.items() if name not in smooth}

    def formula(rounding, **moved):
        return gaussian_samples.between_clouds(**held, **moved, rounding=rounding)

    result = formula(EXACT, **{name: arrays[name] for name in smooth})
    for name in smooth:
        grad = result.result[f"grad {name}"]
        for index in np.ndindex(arrays[name].shape):
            step = np.zeros_like(arrays[name])
            step[index] = 1e-5
            up, down = (
                formula(EXACT, **{name: arrays[name] + s * step}).result["value"] for s in (1, -1)
            )
            assert (up - down) / 2e-5 == pytest.approx(grad[index], abs=1e-6)


@pytest.mark.parametrize("kind", ["", "condition 1e2"])
def test_gradients_of_roots_and_maps(kind):
    rng = np.random.default_rng(0)
    arrays = gaussian_inputs.matrix(Case(3, kind=kind), rng)
    assert_difference_quotients(gaussian_roots.square_root, arrays, rtol=1e-5)
    assert_difference_quotients(gaussian_roots.inverse_root, arrays, rtol=1e-5)
    arrays = gaussian_inputs.fitted(Case(3, kind=kind), rng)
    assert_difference_quotients(gaussian_roots.map_between, arrays, rtol=1e-5)


@pytest.mark.parametrize("condition", ["1", "1e4", "1e8"])
def test_digits_are_those_of_eigenvalues_in_mpmath(condition):
    arrays = gaussians(f"condition {condition}")
    covs = arrays["cov_x"], arrays["cov_y"]
    fidelity, there, back = digits.fidelity_and_map(*covs)
    with mpmath.workdps(60):
        x, y = (mpmath.matrix(((cov + cov.T) / 2).tolist()) for cov in covs)

        def power(a, exponent):
            values, vectors = mpmath.eigsy(a)
            return vectors * mpmath.diag([v**exponent for v in values]) * vectors.T

        half = mpmath.mpf(1) / 2
        root, inverse = power(x, half), power(x, -half)
        middle = power(root * y * root, half)
        expected = sum(middle[i, i] for i in range(4))
        assert fidelity == float(expected)
        np.testing.assert_array_equal(there, _array(inverse * middle * inverse))
        np.testing.assert_array_equal(back, _array(root * power(middle, -1) * root))


def _array(matrix):
    """Rounded; symmetric to its last digit."""
    array = np.array(matrix.tolist(), dtype=float)
    return (array + array.T) / 2


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("condition", ["1", "1e2", "1e4", "1e6", "1e8"])
def test_singular_values_are_within_their_allowance_of_the_digits(condition, d):
    for seed in range(3):
        arrays = gaussians(f"condition {condition}", d=d, seed=seed)
        exact = gaussian.in_digits(**arrays, rounding=EXACT)
        found = gaussian.between_gaussians(**arrays, rounding=EXACT)
        for name, slack in exact.slack.items():
            assert np.all(np.abs(exact.result[name] - found.result[name]) <= slack), name


def test_commuting_covariances_in_a_hadamard_basis():
    """All numbers are exact: eigenvalues are squares of powers of two."""
    h = np.array([[1.0]])
    for _ in range(3):
        h = np.block([[h, h], [h, -h]])
    roots = 2.0 ** np.arange(0, -8, -1), 2.0 ** np.array([-3, -1, -2, 0, -7, -5, -6, -4])
    covs = [(h * r**2) @ h.T / 8 for r in roots]
    pair = Pair([Side.of_covariance(cov) for cov in covs])
    assert pair.fidelity == pytest.approx(np.sum(roots[0] * roots[1]), rel=1e-14)
    there = (h * (roots[1] / roots[0])) @ h.T / 8
    np.testing.assert_allclose(pair.part(0), there, atol=1e-11)
    assert digits.fidelity_and_map(*covs)[0] == np.sum(roots[0] * roots[1])
    np.testing.assert_allclose(digits.fidelity_and_map(*covs)[1], there, rtol=0, atol=1e-40)


@pytest.mark.parametrize(("kind", "ranks"), [("rank 2", (2, 2)), ("onto 1", (4, 1)), ("", (4, 4))])
def test_ranks(kind, ranks):
    arrays = gaussians(kind)
    sides = [Side.of_covariance(arrays[name]) for name in ("cov_x", "cov_y")]
    assert tuple(len(side.inverse) for side in sides) == ranks
    t = Pair(sides).part(0)
    outside = sides[0].outside
    assert np.linalg.norm(outside @ t @ outside) < 1e-13  # no gradient from null to null
    # Onto the range the map still takes x to what y has there.
    if ranks[0] >= ranks[1]:
        np.testing.assert_allclose(t @ arrays["cov_x"] @ t, arrays["cov_y"], atol=1e-11)


@pytest.mark.parametrize("kind", ["", "condition 1e4", "rank 2"])
def test_no_error_of_the_polar_factor_moves_it_further_than_said(kind):
    """Rotations by the eps of float32 are what the allowance is for."""
    eps = float(np.finfo(np.float32).eps)
    arrays = gaussians(kind)
    sides = [Side.of_covariance(arrays[name]) for name in ("cov_x", "cov_y")]
    pair = Pair(sides)
    rng = np.random.default_rng(1)
    q = np.linalg.svd(sides[0].factor.T @ sides[1].factor)
    q = q[0] @ q[2]
    for _ in range(20):
        skew = rng.standard_normal(q.shape)
        skew = (skew - skew.T) / np.linalg.norm(skew - skew.T, 2) * eps
        moved = q + skew @ q
        t = gaussian.symmetric(sides[1].factor @ moved.T @ sides[0].inverse)
        plain = gaussian.symmetric(pair.maps[0])
        assert np.all(np.abs(t - plain) <= pair.part_off(0, eps) + 1e-15)


# --- the peers ----------------------------------------------------------------------------------


def _entries(name):
    return [op for op in OPS if op.name == name]


@pytest.mark.parametrize("name", ["bures_wasserstein", "gaussian_map", "sqrtm", "inv_sqrtm"])
def test_peers_agree_where_nothing_is_singular(name):
    op = _entries(name)[0]
    row = _row(op, Case(5), {}, peer=load(op.peer) or pytest.skip(f"no {op.peer.name}"))
    assert (row.verdict, row.reason) == (PASS, "")
    assert all(q.counted for q in row.quantities.values() if q.peer is not None)
    assert "peer" in row.values


@pytest.mark.parametrize("kind", ["", "weights"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
def test_peers_of_clouds_agree(options, kind):
    op = _entries("gaussian_wasserstein")[0]
    pot = load(op.peer) or pytest.skip("no POT")
    row = _row(op, Case(20, d=3, m=15, kind=kind), options, torch.float64, pot)
    assert (row.verdict, row.reason) == (PASS, "")
    assert row.quantities["grad x"].counted


def test_pot_loses_the_gradient_of_equal_covariances_in_float32():
    """Which is why peers are asked in float64 and gradients there not counted."""
    pot = load(_entries("bures_wasserstein")[0].peer) or pytest.skip("no POT")
    cov = torch.tensor(gaussians("condition 1e4", d=8)["cov_x"], dtype=torch.float32)
    x, y = (cov.clone().requires_grad_() for _ in range(2))
    mean = torch.zeros(8)
    (pot.gaussian.bures_wasserstein_distance(mean, mean, x, 4 * y) ** 2).backward()
    wrong = torch.linalg.matrix_norm(x.grad + torch.eye(8)).item()
    assert not wrong < 1e-3


# --- what is caught -----------------------------------------------------------------------------


def _value(right, *given, **options):
    value = right(*given, **options)
    return value + 0.001 * value.detach()


def _value_by_a_little(right, **given):
    """As a part of the traces 1e-5, more than float32 explains."""
    traces = sum(given[n].detach().diagonal(dim1=-2, dim2=-1).sum(-1) for n in ("cov_x", "cov_y"))
    return right(**given) + 1e-5 * traces.float()


def _gradient(right, *given, **options):
    value = right(*given, **options)
    return 1.001 * value - 0.001 * value.detach()


def _not_symmetric(right, cov_x, **given):
    skew = torch.triu(torch.ones(cov_x.shape[-2:]), 1)
    return right(cov_x=cov_x, **given) + 1e-3 * ((cov_x - cov_x.mT) * skew).sum((-2, -1))


def _gradient_lost(right, cov_y, **given):
    return right(cov_y=cov_y.detach(), **given) + 0 * cov_y.sum((-2, -1))


def _means_left_out(right, mean_x, mean_y, **given):
    return right(mean_x=mean_y, mean_y=mean_y, **given) + 0 * mean_x.sum(-1)


def _ridge(right, cov_x, cov_y, **given):
    """A jitter of 1e-6, as others add it."""
    ridge = 1e-6 * torch.eye(cov_x.shape[-1], dtype=cov_x.dtype)
    return right(cov_x=cov_x + ridge, cov_y=cov_y + ridge, **given)


def _by_eigenvalues(right, mean_x, cov_x, mean_y, cov_y, impl):
    """The usual route, in the dtype of the covariances."""
    values, vectors = torch.linalg.eigh(cov_y)
    root = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT
    roots = torch.linalg.eigvalsh(root @ cov_x @ root).clamp(min=0).sqrt()
    traces = sum(c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in (cov_x, cov_y))
    return (mean_x - mean_y).square().sum(-1) + traces - 2 * roots.sum(-1)


def _transposed_pairs(right, mean_x, cov_x, mean_y, cov_y, **options):
    return right(mean_x=mean_x, cov_x=cov_x.flip(-3), mean_y=mean_y, cov_y=cov_y, **options)


def _correction_left_out(right, *clouds, correction, **options):
    return right(*clouds, **options)


def _weights_held(right, x, y, *, a, **options):
    return right(x, y, a=a.detach(), **options) + 0 * a.sum()


def _row_lost(right, x, y, **options):
    held = torch.zeros_like(y, dtype=torch.bool)
    held[..., -1, :] = True
    return right(x, torch.where(held, y.detach(), y), **options)


def _one_more_of_the_padding(right, x, y, *, x_lengths, **options):
    lengths = (x_lengths + 1).clamp(max=x.shape[-2])
    return right(x.nan_to_num(0.0), y, x_lengths=lengths, **options)


def _not_squared(right, *clouds, squared, **options):
    return right(*clouds, **options)


def _one_left_out(right, x, **options):
    return right(x[..., :-1, :], **options)


def _scaled_root(right, a, **options):
    return right(a, **options) * 1.00001


def _other_root(right, a, **options):
    """A root of A that is not the symmetric one."""
    return torch.linalg.cholesky(a)


def _root_gradient(right, a, **options):
    root = right(a, **options)
    return 1.001 * root - 0.001 * root.detach()


def _inverse_map(right, mean_x, cov_x, mean_y, cov_y, **options):
    return right(mean_y, cov_y, mean_x, cov_x, **options)


def _no_translation(right, *given, **options):
    a, b = right(*given, **options)
    return a, b - b.detach() * 1e-3


def _uncentred(right, x, **options):
    mean, cov = right(x, **options)
    n = x.shape[-2]
    return mean, (x.mT @ x / n - mean[..., :, None] * mean[..., None, :]) + 0 * cov


def _divisor(right, x, *, correction, **options):
    return right(x, **options)


def _scaled_mean(right, x, **options):
    mean, cov = right(x, **options)
    return mean * 1.0001, cov


B, G, N = "bures_wasserstein", "gaussian_wasserstein", "gaussian_wasserstein_to_normal"
PADDED = Case(24, d=3, m=20, batch=(4,), kind="padded long")
INJECTIONS = [
    (B, {}, Case(8), _value, "value differs"),
    (B, {}, Case(8), _value_by_a_little, "value differs"),
    (B, {}, Case(8), _gradient, "grad cov_x differs"),
    (B, {}, Case(8), _not_symmetric, "grad cov_x differs"),
    (B, {}, Case(8), _gradient_lost, "grad cov_y differs"),
    (B, {}, Case(8), _means_left_out, "value differs"),
    (B, {}, Case(8, kind="condition 1e6"), _ridge, "grad cov_x differs"),
    (B, {}, Case(8, kind="condition 1e4"), _by_eigenvalues, "grad cov_x differs"),
    (B, {}, Case(8, kind="equal"), _by_eigenvalues, "grad cov_x differs"),
    (B, {"pairwise": True}, Case(5, m=2, batch=(3,)), _transposed_pairs, "value differs"),
    (B, {"diagonal": True}, Case(8), _value, "value differs"),
    (B, {"diagonal": True}, Case(8), _gradient, "grad cov_x differs"),
    (G, {}, Case(61, m=40), _value, "value differs"),
    (G, {}, Case(61, m=40), _gradient, "grad x differs"),
    (G, {}, Case(5, d=12, m=7, kind="few"), _gradient, "grad x differs"),
    (G, {}, Case(61, m=40), _row_lost, "grad y differs"),
    (G, {"correction": 1}, Case(61, m=40), _correction_left_out, "value differs"),
    (G, {"squared": False}, Case(61, m=40), _not_squared, "value differs"),
    (G, {}, Case(61, m=40, kind="weights"), _weights_held, "grad a differs"),
    (G, {}, PADDED, _one_more_of_the_padding, "value differs"),
    (N, {}, Case(61), _value, "value differs"),
    (N, {}, Case(61), _gradient, "grad x differs"),
    (N, {}, Case(61), _one_left_out, "value differs"),
    ("sqrtm", {}, Case(8), _scaled_root, "root differs"),
    ("sqrtm", {}, Case(8), _other_root, "root differs"),
    ("sqrtm", {}, Case(8), _root_gradient, "grad cov_x differs"),
    ("inv_sqrtm", {}, Case(8), _scaled_root, "root differs"),
    ("inv_sqrtm", {}, Case(8), _root_gradient, "grad cov_x differs"),
    ("gaussian_map", {}, Case(8), _inverse_map, "A differs"),
    ("gaussian_map", {}, Case(8), _no_translation, "b differs"),
    ("mean_cov", {}, Case(61, kind="offset"), _uncentred, "cov differs"),
    ("mean_cov", {"correction": 1}, Case(61), _divisor, "cov differs"),
    ("mean_cov", {}, Case(61), _scaled_mean, "mean differs"),
]


def _row(op, case, settings, dtype=torch.float32, peer=None):
    inputs = draw(op, case, dtype)
    return check(op, "torch", "cpu", inputs, settings, truth(op, inputs, settings, peer))


@pytest.mark.parametrize(
    ("name", "settings", "case", "wrong", "reason"),
    INJECTIONS,
    ids=lambda v: v.__name__.strip("_") if callable(v) else v if isinstance(v, str) else "",
)
def test_what_is_wrong_fails(monkeypatch, name, settings, case, wrong, reason):
    op = next(op for op in _entries(name) if settings in op.settings)
    assert (_row(op, case, settings).verdict, _row(op, case, settings).reason) == (PASS, "")
    right = getattr(otkernels, name)
    monkeypatch.setattr(otkernels, name, lambda *given, **k: wrong(right, *given, **k))
    row = _row(op, case, settings)
    assert row.verdict == FAIL
    assert reason in row.reason


def test_every_entry_runs_in_every_dtype_it_names():
    for name in (B, G, N, "gaussian_map", "sqrtm", "inv_sqrtm", "mean_cov"):
        dtypes = {dtype for op in _entries(name) for dtype in op.dtypes}
        assert dtypes == {"float16", "bfloat16", "float32", "float64"}


@pytest.mark.parametrize(
    ("name", "kind"), [(B, "rank 4"), (B, "onto 3"), ("sqrtm", "rank 4"), ("sqrtm", "rank 1")]
)
def test_ranks_survive_every_dtype(name, kind):
    arrays = gaussian_inputs.gaussians(Case(8, kind=kind), np.random.default_rng(0))
    cov = arrays["cov_y"]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(torch.tensor(cov, dtype=dtype).double(), torch.tensor(cov))
    assert np.linalg.matrix_rank(cov) == int(kind.split()[1])
