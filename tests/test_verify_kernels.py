"""The truths of kernel discrepancies, their peers, and what the check of them catches."""

import numpy as np
import pytest
import torch

import otkernels
from otkernels.verify import __main__ as verify
from otkernels.verify import kernel_peers, kernels
from otkernels.verify.check import FAIL, PASS, check, truth
from otkernels.verify.inputs import Case, draw
from otkernels.verify.line import EPS64
from otkernels.verify.ops import OPS
from otkernels.verify.peers import load
from otkernels.verify.reference import Rounding

EXACT = Rounding(EPS64, EPS64, 0.0)
KERNELS = [
    ("gaussian", 1.3),
    ("gaussian", (0.7, 2.0)),
    ("laplacian", 1.3),
    ("laplacian", (0.7, 2.0)),
    ("imq", (0.7, 2.0)),
    ("rational_quadratic", 1.3),
    ("polynomial", None),
    ("energy", None),
]


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.5 + rng.standard_normal((m, d))


# --- the truths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unbiased", [False, True], ids=["V", "U"])
@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize(("kernel", "bandwidth"), KERNELS)
def test_gradients_are_difference_quotients(kernel, bandwidth, weighted, unbiased):
    x, y = clouds(6, 4, 3)
    arrays = {"x": x, "y": y}
    if weighted:
        rng = np.random.default_rng(1)
        arrays |= {"a": rng.uniform(0.1, 1, 6), "b": rng.uniform(0.1, 1, 4)}
        arrays["a"][2] = 0.0
    options = {"kernel": kernel, "bandwidth": bandwidth, "unbiased": unbiased}

    def value(**arrays):
        return kernels.discrepancy(**arrays, rounding=EXACT, **options).result["value"]

    result = kernels.discrepancy(**arrays, rounding=EXACT, **options).result
    assert set(result) == {"value", *(f"grad {name}" for name in arrays)}
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 1e-6
            up, down = (value(**arrays | {name: array + s * step}) for s in (1, -1))
            assert result[f"grad {name}"][index] == pytest.approx((up - down) / 2e-6, abs=2e-8)


def test_two_diracs():
    x, y = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    expected = {
        ("gaussian", 5.0): 2 - 2 * np.exp(-0.5),
        ("laplacian", 2.5): 2 - 2 * np.exp(-2.0),
        ("imq", 5.0): 2 - 2 * 0.5,
        ("rational_quadratic", 5.0): 2 - 2 / 1.5,
        ("imq", (5.0, 10.0)): 4 - 2 * (0.5 + 0.8),
        ("polynomial", None): 1 + 13.5**3 - 2,
        ("energy", None): 10.0,
    }
    for (kernel, bandwidth), value in expected.items():
        solved = kernels.discrepancy(x, y, EXACT, kernel=kernel, bandwidth=bandwidth)
        assert solved.result["value"] == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(("kernel", "bandwidth"), KERNELS)
def test_a_u_statistic_leaves_out_pairs_of_a_point_with_itself(kernel, bandwidth):
    x, y = clouds(5, 3, 2)

    def k(p, q):
        t = np.sum((p - q) ** 2)
        if kernel == "polynomial":
            return (p @ q / 2 + 1) ** 3
        return sum(kernels.KERNELS[kernel](t, s)[0] for s in np.atleast_1d(bandwidth or 1.0))

    def mean(p, q, same):
        pairs = [k(u, v) for i, u in enumerate(p) for j, v in enumerate(q) if i != j or not same]
        return np.mean(pairs)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    options = {"kernel": kernel, "bandwidth": bandwidth}
    solved = kernels.discrepancy(x, y, EXACT, unbiased=True, **options)
    assert solved.result["value"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unbiased", [False, True], ids=["V", "U"])
def test_a_weight_of_zero_is_no_point(unbiased):
    x, y = clouds(6, 4, 3)
    a = np.array([1.0, 0.0, 2.0, 1.0, 0.0, 3.0])
    options = {"kernel": "imq", "bandwidth": 1.0, "unbiased": unbiased, "rounding": EXACT}
    whole = kernels.discrepancy(x, y, a=a, **options).result["value"]
    cut = kernels.discrepancy(x[a > 0], y, a=a[a > 0], **options).result["value"]
    assert whole == pytest.approx(cut, rel=1e-13)


def test_the_root():
    x, y = clouds(6, 4, 3)
    options = {"kernel": "gaussian", "bandwidth": 1.0}
    square = kernels.discrepancy(x, y, EXACT, **options).result
    root = kernels.root_of_discrepancy(x, y, EXACT, **options).result
    assert root["value"] == pytest.approx(square["value"] ** 0.5)
    np.testing.assert_allclose(root["grad x"] * 2 * root["value"], square["grad x"], rtol=1e-14)


def test_the_median_of_three_points_and_of_one():
    x, y = np.array([[0.0], [3.0]]), np.array([[4.0]])
    assert kernels.median_bandwidth(x, EXACT, y=y).result["value"] == 3.0
    assert kernels.median_bandwidth(x, EXACT).result["value"] == 3.0
    assert kernels.median_bandwidth(x[:1], EXACT).result["value"] == 1.0
    assert kernels.median_bandwidth(x[[0, 0, 1]], EXACT).result["value"] == 3.0


@pytest.mark.parametrize(("kernel", "bandwidth"), KERNELS)
def test_no_rounding_of_points_moves_it_further_than_said(kernel, bandwidth):
    """Points that are off by the eps of float32 are what summing squares in it allows, and less."""
    eps = float(np.finfo(np.float32).eps)
    rounding = Rounding(eps, eps, 0.0)
    x, y = clouds(12, 9, 3)
    y[:4] = x[:4]
    options = {"kernel": kernel, "bandwidth": bandwidth}
    solved = kernels.discrepancy(x, y, rounding, **options)
    rng = np.random.default_rng(2)
    for _ in range(20):
        rounded = [z * (1 + eps / 2 * rng.choice([-1.0, 1.0], z.shape)) for z in (x, y)]
        rounded[1][:4] = rounded[0][:4]
        moved = kernels.discrepancy(*rounded, EXACT, **options)
        for name, slack in solved.slack.items():
            assert np.all(np.abs(moved.result[name] - solved.result[name]) <= slack), name


# --- the peers ----------------------------------------------------------------------------------


def _mmd(x, y, **options):
    return otkernels.mmd(x, y, impl="torch", **options)


def test_geomloss_is_wrong_in_float32_far_from_the_origin():
    """Which is why peers are asked in float64; fails when GeomLoss mends it."""
    geomloss = load(kernel_peers.GEOMLOSS) or pytest.skip("no GeomLoss")
    x, y = (torch.tensor(z, dtype=torch.float32) for z in clouds(61, 61, 8))
    loss = geomloss.SamplesLoss("gaussian", blur=2.0, backend="tensorized")
    near, far = (2 * loss(x + shift, y + shift).item() for shift in (0.0, 1000.0))
    # The points themselves are rounded to 6e-5 there, which moves ours as much.
    ours_near, ours_far = (
        _mmd(x + shift, y + shift, bandwidth=2.0).item() for shift in (0.0, 1000.0)
    )
    assert near == pytest.approx(ours_near, rel=1e-5)
    assert ours_far == pytest.approx(ours_near, rel=1e-3)
    assert abs(far / near - 1) > 0.02


def test_geomloss_takes_coincident_points_to_be_apart():
    geomloss = load(kernel_peers.GEOMLOSS) or pytest.skip("no GeomLoss")
    x = torch.zeros(2, 1, dtype=torch.float64)
    y = torch.ones(1, 1, dtype=torch.float64)
    theirs = 2 * geomloss.SamplesLoss("energy", backend="tensorized")(x, y).item()
    assert theirs == pytest.approx(2 - 2 * kernel_peers.FLOOR, rel=1e-12)
    ours = kernel_peers.GEOMLOSS.call(geomloss, x, y, kernel="energy").item()
    assert ours == pytest.approx(2.0, rel=1e-12)


def test_scikit_learn_has_every_kernel():
    sklearn = load(kernel_peers.SKLEARN) or pytest.skip("no scikit-learn")
    x, y = (torch.tensor(z) for z in clouds(6, 4, 3))
    for kernel, bandwidth in KERNELS:
        options = {"kernel": kernel} | ({"bandwidth": bandwidth} if bandwidth else {})
        theirs = kernel_peers.SKLEARN.call(sklearn, x, y, **options).item()
        assert theirs == pytest.approx(_mmd(x, y, **options).item(), rel=1e-12)


def test_a_peer_that_misses_what_it_needs_is_not_there():
    assert load(kernel_peers.GEOMLOSS._replace(needs="no_such_package")) is None
    assert load(kernel_peers.TORCHMETRICS._replace(module="no_such_package.image")) is None


# --- what is caught -----------------------------------------------------------------------------


def _value(right, x, y, **options):
    value = right(x, y, **options)
    return value + 0.001 * value.detach()


def _gradient(right, x, y, **options):
    value = right(x, y, **options)
    return 1.001 * value - 0.001 * value.detach()


def _half(right, x, y, **options):
    return right(x, y, **options) / 2


def _row_lost(right, x, y, **options):
    held = torch.zeros_like(y, dtype=torch.bool)
    held[..., -1, :] = True
    return right(x, torch.where(held, y.detach(), y), **options)


def _last_point_left_out(right, x, y, **options):
    return right(x, y[..., :-1, :], **options)


def _v_for_u(right, x, y, *, unbiased, **options):
    return right(x, y, **options)


def _n_for_n_minus_one(right, x, y, *, unbiased, **options):
    """The U-statistic over n^2."""
    right_one = right(x, y, unbiased=True, **options)
    return right_one - (right_one - right(x, y, **options)) / x.shape[-2]


def _weights_held(right, x, y, *, a, **options):
    return right(x, y, a=a.detach() + 0 * a, **options)


def _weights_not_normalised(right, x, y, *, a, **options):
    return right(x, y, a=a, **options) + 1e-3 * (a.sum() - a.detach().sum())


def _one_bandwidth_less(right, x, y, *, bandwidth, **options):
    return right(x, y, bandwidth=bandwidth[:-1], **options)


def _same_bandwidths(right, x, y, *, bandwidth, **options):
    return right(x, y, bandwidth=bandwidth[:1], **options)


def _one_more_of_the_padding(right, x, y, *, x_lengths, **options):
    lengths = (x_lengths + 1).clamp(max=x.shape[-2])
    return right(x.nan_to_num(0.0), y, x_lengths=lengths, **options)


def _expanded(right, x, y, *, kernel, bandwidth=1.0, **options):
    """Distances as |x|^2 + |y|^2 - 2 <x, y>, not centred, in the dtype of the points."""

    def mean(u, v):
        t = (u.square().sum(-1)[:, None] + v.square().sum(-1) - 2 * u @ v.T).clamp(min=1e-30)
        return (torch.exp(-t / (2 * bandwidth**2)) if kernel == "gaussian" else -t.sqrt()).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _tf32(right, x, y, **options):
    """Points rounded to the 10 bits of mantissa that tensor cores read in their fast mode."""
    x, y = (z + ((z * 8193) - (z * 8192) - z).detach() for z in (x, y))
    return right(x, y, **options)


def _squared(right, x, y, *, squared, **options):
    return right(x, y, **options)


def _nan_where_points_coincide(right, x, y, **options):
    value = right(x, y, **options)
    apart = (x - y).square().sum(-1).sqrt().mean()
    return value + apart * 0


def _a_little_more(right, x, y, **options):
    """A constant no larger than what sums in float32 leave where clouds are equal."""
    return right(x, y, **options) + 1e-6


def _upper_median(right, x, y, **options):
    pooled = torch.cat([x, y], dim=-2)
    apart = torch.pdist(pooled)
    return apart.sort().values[apart.numel() // 2]


GAUSSIAN = {"kernel": "gaussian", "bandwidth": 2.0}
U = GAUSSIAN | {"unbiased": True}
SEVERAL = {"kernel": "gaussian", "bandwidth": (0.25, 1.0, 4.0)}
ENERGY = {"kernel": "energy"}
SMALL = Case(33, m=20)
WEIGHTS = Case(15, m=12, kind="weights")
INJECTIONS = [
    ("mmd", GAUSSIAN, SMALL, _value, "value differs"),
    ("mmd", GAUSSIAN, SMALL, _gradient, "grad x differs"),
    ("mmd", GAUSSIAN, SMALL, _half, "value differs"),
    ("mmd", GAUSSIAN, SMALL, _row_lost, "grad y differs"),
    ("mmd", GAUSSIAN, SMALL, _last_point_left_out, "value differs"),
    ("mmd", GAUSSIAN, Case(300, m=250, d=16), _last_point_left_out, "value differs"),
    ("mmd", GAUSSIAN, SMALL, _tf32, "grad x differs"),
    ("mmd", GAUSSIAN, Case(61, kind="offset"), _expanded, "value differs"),
    ("mmd", ENERGY, Case(61, m=40, kind="shared"), _expanded, "grad x differs"),
    ("mmd", GAUSSIAN, Case(61, kind="equal"), _a_little_more, "value differs"),
    ("mmd", ENERGY, Case(61, kind="equal"), _nan_where_points_coincide, "grad x is not a number"),
    ("mmd", SEVERAL, SMALL, _one_bandwidth_less, "value differs"),
    ("mmd", U, SMALL, _v_for_u, "value differs"),
    ("mmd", U, SMALL, _n_for_n_minus_one, "value differs"),
    ("mmd", U, WEIGHTS, _weights_held, "grad a differs"),
    ("mmd", GAUSSIAN, WEIGHTS, _weights_held, "grad a differs"),
    ("mmd", GAUSSIAN, WEIGHTS, _weights_not_normalised, "grad a differs"),
    ("mmd", GAUSSIAN, Case(12, batch=(4,), kind="padded"), _one_more_of_the_padding, "value"),
    ("mmd", {"kernel": "polynomial"}, SMALL, _value, "value differs"),
    ("mmd", {"kernel": "polynomial"}, SMALL, _gradient, "grad y differs"),
    ("mmd", {"kernel": "imq"}, SMALL, _value, "value differs"),
    (
        "mmd",
        {"kernel": "imq"},
        Case(20, d=3, m=15, batch=(4,), kind="ladders"),
        _same_bandwidths,
        "value differs",
    ),
    ("mmd", GAUSSIAN | {"squared": False}, SMALL, _squared, "value differs"),
    ("energy_distance", {}, SMALL, _half, "value differs"),
    ("energy_distance", {"unbiased": True}, SMALL, _v_for_u, "value differs"),
    ("median_bandwidth", {}, SMALL, _upper_median, "value differs"),
    ("median_bandwidth", {}, SMALL, _value, "value differs"),
]


def _entry(name, settings, case):
    """The first entry of the table with this op, these settings and such a case."""
    root = settings.get("squared") is False
    settings = {key: value for key, value in settings.items() if key != "squared"}
    for op in OPS:
        ladders = any(c.kind == "ladders" for c in op.cases)
        fits = ("root" in op.against) == root and ladders == (case.kind == "ladders")
        if op.name == name and settings in op.settings and fits:
            return op, settings
    raise LookupError(name)


def _row(op, case, settings, impl="torch"):
    inputs = draw(op, case, torch.float32)
    return check(op, impl, "cpu", inputs, settings, truth(op, inputs, settings, None))


@pytest.mark.parametrize(
    ("name", "settings", "case", "wrong", "reason"),
    INJECTIONS,
    ids=[f"{i[0]}-{i[3].__name__.strip('_')}-{k}" for k, i in enumerate(INJECTIONS)],
)
def test_what_is_wrong_fails(monkeypatch, name, settings, case, wrong, reason):
    op, settings = _entry(name, settings, case)
    right = _row(op, case, settings)
    assert (right.verdict, right.reason) == (PASS, "")
    function = getattr(otkernels, name)
    monkeypatch.setattr(otkernels, name, lambda x, y, **k: wrong(function, x, y, **k))
    row = _row(op, case, settings)
    assert row.verdict == FAIL
    assert reason in row.reason


def test_a_wrong_kernel_of_a_peer_is_seen(monkeypatch):
    sklearn = load(kernel_peers.SKLEARN) or pytest.skip("no scikit-learn")
    right = kernel_peers._matrices
    wrong = {"imq": "rational_quadratic"}
    monkeypatch.setattr(kernel_peers, "_matrices", lambda kernel, s: right(wrong[kernel], s))
    op, settings = _entry("mmd", {"kernel": "imq", "bandwidth": 2.0}, SMALL)
    inputs = draw(op, SMALL, torch.float32)
    row = check(op, "torch", "cpu", inputs, settings, truth(op, inputs, settings, sklearn))
    assert row.verdict == FAIL
    assert "value differs from scikit-learn" in row.reason


def test_a_u_statistic_for_a_v_statistic_is_seen_in_the_mean_of_draws(monkeypatch):
    op = next(op for op in OPS if "closed form" in op.against)
    case, settings = op.cases[0], op.settings[0]
    right = otkernels.mmd
    assert _row(op, case, settings).verdict == PASS
    monkeypatch.setattr(otkernels, "mmd", lambda x, y, unbiased, **k: right(x, y, **k))
    assert "value differs from the truth" in _row(op, case, settings).reason


# --- the command line ---------------------------------------------------------------------------


def test_own_clouds_too_large_for_all_pairs_are_left_out(monkeypatch, tmp_path, capsys):
    for name, cloud in zip("xy", clouds(9, 8, 3), strict=True):
        np.save(tmp_path / f"{name}.npy", cloud)
    arguments = ["--x", str(tmp_path / "x.npy"), "--y", str(tmp_path / "y.npy")]
    arguments += ["--impl", "torch", "--dtype", "float32", "--op", "sliced_wasserstein", "mmd"]
    monkeypatch.setattr(verify, "HELD_COORDINATES", 9 * 9 * 3)
    assert verify.main(arguments) == 0
    assert "not run" not in capsys.readouterr().out.replace("not run: triton", "")
    monkeypatch.setattr(verify, "HELD_COORDINATES", 9 * 9 * 3 - 1)
    assert verify.main(arguments) == 0
    out = capsys.readouterr().out
    assert "not run: mmd in float32: all pairs of points have more than 242 coordinates" in out
    assert "4 rows: 4 pass" in out


def test_settings_are_told_apart(tmp_path, capsys):
    np.save(tmp_path / "x.npy", clouds(9, 8, 3)[0])
    file = str(tmp_path / "x.npy")
    arguments = ["--x", file, "--y", file, "--impl", "torch", "--dtype", "float64"]
    verify.main([*arguments, "--op", "mmd"])
    lines = [line[41:54].strip() for line in capsys.readouterr().out.splitlines() if "9x3" in line]
    assert {"gaussian", "gaussian x3", "gaussian U", "gaussian x3 U"} <= set(lines)
    assert len(set(lines)) == len(lines)
