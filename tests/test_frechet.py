import pickle

import pytest
import scipy.linalg
import torch

pytest.importorskip("torchmetrics")

from torchmetrics import MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from otkernels import gaussian_wasserstein
from otkernels.metrics import FrechetDistance, frechet

IMPLS = ["torch", "cpu"]
EPS = torch.finfo(torch.float64).eps
D = 6


class Features(torch.nn.Module):
    """Features of a batch of rows, in its dtype."""

    num_features = D

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        mix = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
        self.mix = torch.nn.Parameter(mix)

    def forward(self, rows):
        return rows @ self.mix.to(rows.dtype)


def rows(n, d=D, dtype=torch.float64, shift=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scale + shift).to(dtype)


def filled(metric, real, fake, parts=1):
    for points, kind in ((real, True), (fake, False)):
        for part in points.tensor_split(parts):
            metric.update(part, real=kind)
    return metric


def truth(x, y):
    """From points: the last trace is the sum of singular values of the product of both factors."""
    x, y = x.double(), y.double()
    factors = [(t - t.mean(0)) / (len(t) - 1) ** 0.5 for t in (x, y)]
    root = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return (
        (x.mean(0) - y.mean(0)).square().sum() + sum(f.square().sum() for f in factors) - 2 * root
    )


def size(x, y):
    """What is summed: squares about the means, and of the means' difference."""
    spread = sum(t.double().var(0).sum() for t in (x, y))
    return (spread + (x.double().mean(0) - y.double().mean(0)).square().sum()).item()


def assert_near(value, expected, x, y, scale=None):
    """Both are sums of N terms and of D x D ones, rounded to float64."""
    terms = len(x) + len(y) + x.shape[1] ** 2
    bound = terms**0.5 * EPS * (size(x, y) if scale is None else scale)
    error = (value.double() - expected.double()).abs().item()
    assert error <= bound, f"error {error:.3g} above the bound {bound:.3g}"


# --- the number -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_number_of_torchmetrics(dtype, impl):
    real, fake = rows(40, dtype=dtype), rows(31, dtype=dtype, shift=0.4, scale=1.5, seed=1)
    feature = Features()
    ours = filled(FrechetDistance(feature, impl=impl), real, fake, parts=3).compute()
    assert ours.shape == ()
    assert ours.dtype == torch.float64
    x, y = (feature(t).detach().double() for t in (real, fake))
    assert_near(ours, _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()), x, y)
    if dtype == torch.float64:  # its metric rounds the answer to others
        theirs = filled(FrechetInceptionDistance(feature=feature), real, fake, parts=3).compute()
        assert_near(ours, theirs, x, y)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (2, 9, 5), (20, 25, 64), (65, 10, 64)])
def test_fewer_samples_than_features(n, m, d, impl):
    x, y = rows(n, d), rows(m, d, shift=0.3, scale=2.0, seed=1)
    ours = filled(FrechetDistance(num_features=d, impl=impl), x, y, parts=2).compute()
    assert_near(ours, truth(x, y), x, y)


@pytest.mark.parametrize(("n", "m"), [(40, 31), (4, 5)])
def test_it_is_the_functional_of_all_samples(n, m):
    x, y = rows(n), rows(m, shift=0.4, scale=1.5, seed=1)
    expected = gaussian_wasserstein(x, y, correction=1)
    assert_near(filled(FrechetDistance(num_features=D), x, y, parts=3).compute(), expected, x, y)


def test_other_formulas_lose_digits_or_leave_the_reals_with_few_samples():
    x, y = rows(20, 64), rows(25, 64, seed=1)
    theirs = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    with pytest.raises(AssertionError, match="above the bound"):
        assert_near(theirs, truth(x, y), x, y)
    assert scipy.linalg.sqrtm((x.T.cov() @ y.T.cov()).numpy()).imag.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_root_and_a_distance_of_zero(impl):
    x, y = rows(30), rows(40, shift=1.0, seed=1)
    root = filled(FrechetDistance(num_features=D, squared=False, impl=impl), x, y).compute()
    assert_near(root**2, truth(x, y), x, y)
    same = filled(FrechetDistance(num_features=D, impl=impl), x, x).compute()
    assert_near(same, torch.zeros(()), x, x)
    same = filled(FrechetDistance(num_features=D, squared=False, impl=impl), x, x).compute()
    assert_near(same**2, torch.zeros(()), x, x)


def test_shifts_and_scales():
    x, y = rows(30), rows(40, shift=1.0, scale=0.5, seed=1)
    value = filled(FrechetDistance(num_features=D), x, y).compute()
    moved = filled(FrechetDistance(num_features=D), 1024 * x + 5, 1024 * y + 5).compute()
    assert_near(moved / 1024**2, value, x, y)


@pytest.mark.parametrize("impl", IMPLS)
def test_small_features_count(impl):
    scales = torch.logspace(0, -5, D, dtype=torch.float64)
    x, y = scales * rows(40), scales * rows(30, scale=2.0, seed=1)
    value = filled(FrechetDistance(num_features=D, impl=impl), x, y).compute()
    assert_near(value, truth(x, y), x, y)


def test_nan():
    x = rows(9)
    x[4, 2] = torch.nan
    assert filled(FrechetDistance(num_features=D), x, rows(9)).compute().isnan()


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 7, 50])  # of 50: batches of one sample, and empty ones
def test_any_batches(parts):
    x, y = rows(40, shift=3.0), rows(31, shift=2.0, scale=1.5, seed=1)
    metric = filled(FrechetDistance(num_features=D), x, y, parts)
    assert_near(metric.compute(), truth(x, y), x, y)
    for state, points in ((metric.real_moments, x), (metric.fake_moments, y)):
        assert state[0, 0] == len(points)
        bound = (len(points) * parts) ** 0.5 * EPS * points.abs().max().item()
        torch.testing.assert_close(state[0, 1:], points.mean(0), rtol=0, atol=bound)
        scatter = points.T.cov(correction=0) * len(points)
        torch.testing.assert_close(state[1:, 1:], scatter, rtol=0, atol=bound * len(points))


def test_an_offset_costs_its_rounding_and_not_that_of_its_square():
    offset, bits = 2.0**20, 2.0**12
    x, y = ((t * bits).round() / bits for t in (rows(300), rows(200, scale=2.0, seed=1)))
    expected = truth(x, y)
    far = x + offset, y + offset
    assert torch.equal(far[0] - offset, x)  # exact
    ours = filled(FrechetDistance(num_features=D), *far, parts=9).compute()
    # A mean of offset c is known to eps c, and that meets deviations once.
    assert_near(ours, expected, x, y, offset * size(x, y) ** 0.5)
    identity = torch.nn.Identity()
    identity.num_features = D
    theirs = filled(FrechetInceptionDistance(feature=identity), *far, parts=9).compute()
    with pytest.raises(AssertionError, match="above the bound"):
        assert_near(theirs, expected, x, y, offset * size(x, y) ** 0.5)


def test_a_constant_feature_stays_constant():
    metrics = [FrechetDistance(num_features=2) for _ in range(2)]
    for metric in metrics:
        for _ in range(101):
            metric.update(torch.full((2, 2), 0.1, dtype=torch.float64), real=True)
    metrics[0].merge_state(metrics[1])
    assert metrics[0].real_moments.tolist() == [[404, 0.1, 0.1], [0, 0, 0], [0, 0, 0]]


def split(x, y):
    """A metric each of three thirds, of which the last has no fake samples."""
    return [
        filled(FrechetDistance(num_features=D), a, b)
        for a, b in zip(x.split([5, 1, len(x) - 6]), y.split([10, len(y) - 10, 0]), strict=True)
    ]


def test_merged_states():
    x, y = rows(40, shift=3.0), rows(31, shift=2.0, seed=1)
    one, two, three = split(x, y)
    one.compute()  # is not given again after a merge
    one.merge_state(two)
    one.merge_state(three.metric_state)
    assert_near(one.compute(), truth(x, y), x, y)
    empty = FrechetDistance(num_features=D)
    empty.merge_state(one)
    assert torch.equal(empty.compute(), one.compute())


def ranks(metrics, **options):
    """A metric whose gather returns the states of the others, in the order of ranks."""
    metric = FrechetDistance(num_features=D, **options)
    asked = iter(["unshared", "real_moments", "fake_moments"] * 9)

    def gather(state, group):
        others = [getattr(m, name) for name in [next(asked)] for m in metrics]
        return [*others, state]

    metric.dist_sync_fn = gather
    metric.distributed_available_fn = lambda: True
    return metric


def test_ranks():
    x, y = rows(40, shift=3.0), rows(31, shift=2.0, seed=1)
    one, two, three = split(x, y)
    metric = ranks([one, two])
    metric.merge_state(three)
    metric.update(x[:0], real=True)
    before = metric.real_moments
    assert_near(metric.compute(), truth(x, y), x, y)
    assert metric.real_moments is before or torch.equal(metric.real_moments, before)
    empty = ranks([one, two, three])  # a rank that got nothing
    with pytest.warns(UserWarning, match="was called before the ``update``"):
        assert_near(empty.compute(), truth(x, y), x, y)


def test_pickle_clone_and_state_dict():
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = filled(FrechetDistance(Features(), squared=False), x, y)
    copies = pickle.loads(pickle.dumps(metric)), metric.clone(), FrechetDistance(Features())
    metric.persistent(True)
    copies[2].load_state_dict(metric.state_dict())
    copies[2].squared = False
    for copy in copies:
        copy.update(x[:7] + 2, real=False)
    metric.update(x[:7] + 2, real=False)
    for copy in copies:
        assert torch.equal(copy.compute(), metric.compute())


@pytest.mark.parametrize("kept", [True, False])
def test_reset(kept):
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = filled(FrechetDistance(num_features=D, reset_real_features=not kept), x, y)
    metric.compute()
    metric.reset()
    assert metric.real_moments[0, 0] == (30 if kept else 0)
    assert not metric.fake_moments.any()
    metric.update(y[:9], real=False)
    if not kept:
        metric.update(x, real=True)
    assert_near(metric.compute(), truth(x, y[:9]), x, y)


# --- forward --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_forward_is_of_the_batch_and_adds_it(kept):
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = FrechetDistance(num_features=D, reset_real_features=not kept)
    metric.update(x, real=True)
    for batch in y.split(10):
        assert_near(metric(batch, real=False), truth(x, batch), x, y)
    assert_near(metric.compute(), truth(x, y), x, y)
    assert_near(metric(x[:8] + 1, real=True), truth(x[:8] + 1, y), x, y)
    assert metric.real_moments[0, 0] == 38
    both = torch.cat([x, x[:8] + 1])
    assert_near(metric.compute(), truth(both, y), both, y)
    assert metric.update_count == 4


def test_forward_of_torchmetrics_counts_kept_real_samples_twice():
    theirs = FrechetInceptionDistance(feature=Features(), reset_real_features=False)
    theirs.update(rows(30), real=True)
    theirs(rows(20), real=False)
    assert theirs.real_features_num_samples == 60


def test_a_forward_that_fails_adds_nothing():
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = filled(FrechetDistance(num_features=D), x, y)
    for batch in (x[:1], x[:, :2], x[:0]):
        with pytest.raises((RuntimeError, ValueError)):
            metric(batch, real=False)
    assert_near(metric.compute(), truth(x, y), x, y)
    assert metric.fake_moments[0, 0] == 20
    fresh = FrechetDistance(num_features=D)
    with pytest.raises(RuntimeError):
        fresh(x, real=True)
    assert fresh.update_count == 0


def test_forward_over_ranks_on_every_step():
    x, y = rows(40), rows(31, shift=2.0, seed=1)
    metric = ranks(split(x, y), dist_sync_on_step=True)
    metric.update(x[:3], real=True)
    everything = torch.cat([x, x[:3]]), torch.cat([y, y[:4] - 1])
    assert_near(metric(y[:4] - 1, real=False), truth(*everything), *everything)
    assert metric.fake_moments[0, 0] == 4


def test_it_is_not_merged_with_itself():
    metric = filled(FrechetDistance(num_features=D), rows(4), rows(3))
    with pytest.raises(ValueError, match="incoming_state must be of another metric; got this one"):
        metric.merge_state(metric)
    assert metric.real_moments[0, 0] == 4


@pytest.mark.parametrize("first", [0, 9], ids=["empty", "filled"])
def test_a_collection_does_not_share_unlike_moments(first):
    """Metrics that have the same moments so far, of which one keeps what the other forgets."""
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    far = lambda batch: torch.where(batch > 1.5, 10 * batch, batch)  # noqa: E731
    start = x[:first].clamp(max=1)
    metrics = {
        "plain": FrechetDistance(num_features=D),
        "far": FrechetDistance(far, D),
        "keeps": FrechetDistance(num_features=D, reset_real_features=False),
    }
    together = MetricCollection(metrics)
    together.update(start, real=True)
    filled(together, x, y)
    x = torch.cat([start, x])
    values = together.compute()
    assert_near(values["plain"], truth(x, y), x, y)
    assert_near(values["far"], truth(far(x), far(y)), far(x), far(y))
    together.reset()
    assert together["keeps"].real_moments[0, 0] == len(x)
    assert together["plain"].real_moments[0, 0] == together["far"].real_moments[0, 0] == 0


def test_in_a_collection_and_on_a_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    both = MetricCollection({"square": FrechetDistance(num_features=D)})
    filled(both, x, y)
    assert_near(both.compute()["square"], truth(x, y), x, y)
    figure, axes = both["square"].plot()
    assert axes.get_ylabel() == "FrechetDistance"
    assert axes.lines[0].get_ydata()[0] == both.compute()["square"]
    matplotlib.pyplot.close(figure)
    assert FrechetDistance.higher_is_better is False


# --- dtypes, devices, extractors ------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.set_dtype(torch.float16),
        lambda m: m.half(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.float(),
        lambda m: torch.nn.Sequential(m).half()[0],
    ],
)
def test_moments_stay_in_float64(convert):
    x, y = rows(30, shift=1000.0), rows(20, shift=1001.0, seed=1)
    metric = filled(FrechetDistance(num_features=D), x, y)
    value = metric.compute()
    metric = convert(metric)
    assert metric.real_moments.dtype == metric.fake_moments.dtype == torch.float64
    assert torch.equal(metric.compute(), value)
    metric.reset()
    assert torch.equal(filled(metric, x, y).compute(), value)


def test_another_device():
    metric = filled(FrechetDistance(Features()), rows(30), rows(20)).to("meta")
    assert {t.device.type for t in metric.metric_state.values()} == {"meta"}
    assert {t.device.type for t in metric._defaults.values()} == {"meta"}
    assert metric.feature.mix.is_meta
    metric = FrechetDistance(num_features=D)
    message = "features must be on the metric's device cpu; got meta"
    with pytest.raises(ValueError, match=message):
        metric.update(torch.empty(3, D, device="meta"), real=True)


def test_set_dtype_converts_the_extractor():
    metric = FrechetDistance(Features())
    assert metric.set_dtype(torch.float32).feature.mix.dtype == torch.float32


def test_autocast_changes_nothing():
    x, y = rows(30, dtype=torch.float32), rows(20, dtype=torch.float32, shift=1.0, seed=1)
    expected = filled(FrechetDistance(num_features=D), x, y).compute()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(filled(FrechetDistance(num_features=D), x, y).compute(), expected)


def test_no_graph_is_kept():
    feature = Features()
    metric = filled(FrechetDistance(feature), rows(30), rows(20, shift=1.0))
    value = metric(rows(9).requires_grad_(), real=False)
    held = [value, metric.compute(), *metric.metric_state.values()]
    assert not any(t.requires_grad for t in held)


def test_a_function_gives_the_features():
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = FrechetDistance(lambda batch: batch["rows"][:, :2], 2)
    metric.update({"rows": x}, real=True)
    metric.update({"rows": y}, real=False)
    assert_near(metric.compute(), truth(x[:, :2], y[:, :2]), x, y)


@pytest.mark.parametrize("impl", IMPLS)
def test_impl_is_used(impl, monkeypatch):
    used = []

    def spy(x, y, cutoff, impl, right=frechet.of_covariances):
        used.append(impl)
        return right(x, y, cutoff, impl)

    monkeypatch.setattr(frechet, "of_covariances", spy)
    filled(FrechetDistance(num_features=D, impl=impl), rows(9), rows(9)).compute()
    assert used == [impl]


def test_validation_in_inference_mode_leaves_a_metric_that_trains_on():
    x, y = rows(30), rows(20, shift=1.0, seed=1)
    metric = FrechetDistance(num_features=D)
    with torch.inference_mode():
        filled(metric, x, y).compute()
        metric.reset()
    assert_near(filled(metric, x, y).compute(), truth(x, y), x, y)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_features, or feature.num_features, must be an integer >= 1; got None"),
        ({"num_features": 0}, "num_features, or .*; got 0"),
        ({"num_features": 2.0}, "num_features, or .*; got 2.0"),
        ({"feature": torch.nn.Identity()}, "feature.num_features, must be .*; got None"),
        ({"feature": 64, "num_features": 3}, "feature must be a module, a function or None"),
        ({"num_features": 3, "impl": "numba"}, "impl must be one of 'torch', 'cpu', 'triton'"),
        ({"num_features": 3, "subsets": 3}, "Unexpected keyword arguments: `subsets`"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        FrechetDistance(**options)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.zeros(4, 5), ValueError, r"features must have shape \(N, 6\); got \(4, 5\)"),
        (torch.zeros(6), ValueError, r"features must have shape \(N, 6\); got \(6,\)"),
        (torch.zeros(2, 6, 1), ValueError, r"features must have shape .*; got \(2, 6, 1\)"),
        (torch.zeros(4, 6).long(), TypeError, "features must be float16, .*; got torch.int64"),
        ([0.0] * 6, TypeError, "features must be a torch.Tensor; got list"),
    ],
    ids=str,
)
def test_bad_features(features, error, message):
    with pytest.raises(error, match=message):
        FrechetDistance(num_features=D).update(features, real=True)


@pytest.mark.parametrize(("n", "m"), [(1, 9), (9, 1), (0, 9)])
def test_too_few_samples(n, m):
    metric = filled(FrechetDistance(num_features=D), rows(n), rows(m))
    message = f"samples must be two or more of each kind; got {n} real and {m} fake"
    with pytest.raises(RuntimeError, match=message):
        metric.compute()
