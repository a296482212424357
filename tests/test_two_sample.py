import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otkernels import bandwidth as bandwidths
from otkernels import median_bandwidth, mmd, two_sample
from otkernels._kernels import KERNELS, PROFILES
from otkernels.two_sample import mmd_test

P = 99


@pytest.fixture
def seen(monkeypatch):
    """What the statistics were computed of: (points, labels) of each problem."""
    calls = []
    sums = two_sample._sums

    def spy(points, labels, *rest):
        calls.append((points, labels))
        return sums(points, labels, *rest)

    monkeypatch.setattr(two_sample, "_sums", spy)
    return calls


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(two_sample, "TILE", 16)
    monkeypatch.setattr(two_sample, "DRAWN", 200)  # and few relabellings drawn at once


def two_clouds(n, m, d=2, *, batch=(), shift=0.0, dtype=torch.float64):
    x, y = torch.randn(*batch, n, d), torch.randn(*batch, m, d) + shift
    return x.to(dtype), y.to(dtype)


def close(out, reference, size, terms):
    """Within the rounding of sums whose terms have the mean ``size``, in the reference's dtype."""
    eps = torch.finfo(reference.dtype).eps
    error = (out - reference.double()).abs().max().item()
    assert error <= (1 + terms**0.5) * eps * size, (error, size)


# --- the statistics -----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n", "m"), [(20, 33), (16, 16)])
def test_statistics_are_those_of_mmd_on_relabelled_samples(n, m, kernel, unbiased, seen):
    x, y = two_clouds(n, m, shift=1.0)
    options = {"kernel": kernel, "unbiased": unbiased}
    if KERNELS[kernel].factor is not None:
        options["bandwidth"] = (0.7, 2.0)
    found = mmd_test(x, y, n_permutations=7, **options)
    ((points, labels),) = seen
    naive = [mmd(points[own], points[~own], impl="torch", **options) for own in labels]
    alone = {"polynomial": (points @ points.T / 2 + 1) ** 3, "energy": torch.cdist(points, points)}
    size = 4 * alone[kernel].abs().mean() if kernel in alone else 8.0
    close(found.permuted, torch.stack(naive[1:]), size, n * m)
    close(found.statistic, mmd(x, y, impl="torch", **options), size, n * m)


@pytest.mark.usefixtures("small_tiles")
def test_the_first_labelling_is_the_given_one_and_the_others_keep_its_sizes(seen):
    x, y = two_clouds(20, 31)
    mmd_test(x, y, n_permutations=50)
    ((points, labels),) = seen
    assert labels.shape == (51, 51)
    assert (labels.sum(1) == 20).all()
    torch.testing.assert_close(points[labels[0]].sort(0).values, x.sort(0).values)
    torch.testing.assert_close(points[~labels[0]].sort(0).values, y.sort(0).values)


@pytest.mark.usefixtures("small_tiles")
def test_all_relabellings_are_equally_likely(seen):
    x, y = two_clouds(2, 3)
    draws = 4000
    mmd_test(x, y, n_permutations=draws)
    ((_, labels),) = seen
    _, counts = labels[1:].unique(dim=0, return_counts=True)
    assert len(counts) == 10
    deviation = (counts - draws / 10) / (draws * 0.1 * 0.9) ** 0.5
    assert deviation.abs().max() < 4.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    x, y = two_clouds(30, 20, 3, shift=0.5, dtype=dtype)
    found = mmd_test(x, y, bandwidth=1.5, n_permutations=P)
    assert {t.dtype for t in found} == {torch.float64}
    reference = mmd(x.double(), y.double(), bandwidth=1.5, unbiased=True, impl="torch")
    close(found.statistic, reference.float(), 4.0, 3)


def test_median_of_few_points_is_that_of_median_bandwidth():
    n, m = 30, bandwidths.MAX_POINTS - 30
    x, y = two_clouds(n, m, shift=1.0)
    reference = mmd(x, y, bandwidth=median_bandwidth(x, y), unbiased=True, impl="torch")
    close(mmd_test(x, y, n_permutations=1).statistic, reference, 4.0, n * m)


def test_points_of_a_median_are_chosen_whatever_their_labels(monkeypatch):
    chosen, calls = torch.zeros(320), 150
    distances = bandwidths._distances

    def spy(points, taken):
        chosen[points.flatten().long()] += 1
        return distances(points, taken)

    monkeypatch.setattr(bandwidths, "_distances", spy)
    x, y = torch.arange(320.0)[:, None].split((20, 300))
    for _ in range(calls):
        mmd_test(x, y, n_permutations=1)
    share = bandwidths.MAX_POINTS / 320
    deviation = (chosen - calls * share) / (calls * share * (1 - share)) ** 0.5
    assert deviation.abs().max() < 4.5


# --- the p-value --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_count_as_no_smaller(kernel, dtype, seen):
    """Well apart, only the given labelling and its mirror image reach the observed value."""
    x = torch.tensor([[0.0], [1.1], [2.3]], dtype=dtype)
    p = mmd_test(x, x + 97.3, kernel=kernel, n_permutations=500).p_value
    ((_, labels),) = seen
    same = (labels == labels[0]).all(1) | (labels != labels[0]).all(1)
    assert same.sum() > 20
    assert p == same.sum().double() / 501  # the given labelling is one of them


@pytest.mark.usefixtures("small_tiles")
def test_sums_in_another_order_tie_too(seen):
    """Of points at three places only the numbers of labels matter, not which points have them."""
    places = torch.tensor([[0.0], [0.7], [1.9]]).double()
    where = torch.tensor([0, 1, 2]).repeat(20)
    p = mmd_test(*places[where].split((25, 35)), bandwidth=1.1, n_permutations=500).p_value
    ((points, labels),) = seen
    counts = torch.stack([(labels & (points == place).T).sum(1) for place in places], -1).double()
    kernel = torch.exp(-(places - places.T).square() / (2 * 1.1**2))
    xx, xy, yy = (
        torch.einsum("pi,ij,pj->p", one, kernel, other)
        for one, other in ((counts, counts), (counts, 20 - counts), (20 - counts, 20 - counts))
    )
    u = (xx - 25) / (25 * 24) + (yy - 35) / (35 * 34) - 2 * xy / (25 * 35)
    tied = (counts == counts[0]).all(1)
    assert tied.sum() > 5
    assert p == ((u > u[0]) | tied).sum().double() / 501


def test_coincident_points_tie_everywhere():
    found = mmd_test(torch.ones(5, 2), torch.ones(7, 2), n_permutations=P)
    assert found.p_value == 1
    assert found.statistic.abs() < 1e-15


def test_p_is_never_0_and_small_where_samples_are_far_apart():
    x, y = two_clouds(30, 30, shift=20.0)
    assert mmd_test(x, y, n_permutations=P).p_value == 1 / (1 + P)


@pytest.mark.parametrize(
    ("kernel", "bandwidth", "n", "m", "tests", "unbiased"),
    [
        ("gaussian", "median", 12, 12, 400, True),
        ("gaussian", "median", 8, 260, 200, False),  # a median of a part of the points
        ("energy", "median", 15, 6, 400, True),
        ("polynomial", "median", 9, 12, 400, False),
        ("imq", (0.3, 3.0), 10, 14, 400, True),
        ("imq", (0.3, 3.0), 10, 14, 400, False),
    ],
)
def test_level(kernel, bandwidth, n, m, tests, unbiased):
    """Under the null hypothesis p is uniform on k / 100."""
    options = {"kernel": kernel, "bandwidth": bandwidth, "unbiased": unbiased}
    p = mmd_test(*two_clouds(n, m, batch=(tests,)), n_permutations=P, **options).p_value
    for alpha in (0.05, 0.2, 0.5):
        spread = (alpha * (1 - alpha) / tests) ** 0.5
        assert abs((p <= alpha).double().mean() - alpha) < 4 * spread, alpha
    assert (100 * p - (100 * p).round()).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "energy"])
def test_power_rises_with_the_shift(kernel):
    power = []
    for shift in (0.0, 0.5, 1.0):
        x, y = two_clouds(20, 25, batch=(80,), shift=shift)
        p = mmd_test(x, y, kernel=kernel, n_permutations=P).p_value
        power.append((p <= 0.05).double().mean().item())
    assert power[0] < 0.15 < power[1] < power[2]
    assert power[2] > 0.9


def test_both_statistics_give_one_p_for_equal_sizes():
    x, y = two_clouds(15, 15, shift=0.3)
    ps = []
    for unbiased in (True, False):
        generator = torch.Generator().manual_seed(3)
        ps.append(mmd_test(x, y, unbiased=unbiased, generator=generator).p_value)
    assert ps[0] == ps[1] != 1


# --- randomness, batches, cost ------------------------------------------------------------------


def test_generator_and_global_seed_repeat_the_test():
    x, y = two_clouds(200, 100, shift=0.1)

    def run(seed):
        return mmd_test(x, y, n_permutations=P, generator=torch.Generator().manual_seed(seed))

    for one, same in zip(run(5), run(5), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(run(5).permuted, run(6).permuted)
    torch.manual_seed(7)
    first = mmd_test(x, y, n_permutations=P)
    torch.manual_seed(7)
    assert torch.equal(first.permuted, mmd_test(x, y, n_permutations=P).permuted)


def test_batches_broadcast_and_bandwidths_may_have_axes(seen):
    x, y = torch.randn(3, 1, 10, 2), torch.randn(2, 12, 2)
    bandwidth = torch.rand(4, 3, 2, 1) + 0.5
    found = mmd_test(x, y, bandwidth=bandwidth, n_permutations=9)
    reference = mmd(x.double(), y.double(), bandwidth=bandwidth, unbiased=True, impl="torch")
    assert found.p_value.shape == (4, 3, 2)
    assert found.permuted.shape == (4, 3, 2, 9)
    close(found.statistic, reference.float(), 4.0, 2)
    assert not torch.equal(seen[0][1], seen[1][1])  # relabellings of their own
    assert mmd_test(x[:0, 0], y[:1], n_permutations=9).permuted.shape == (0, 9)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_spoils_its_own_problem_only(bad):
    x, y = two_clouds(5, 6, batch=(3,))
    x[1, 2, 0] = bad
    found = mmd_test(x, y, bandwidth=1.0, n_permutations=9)
    for t in found:
        assert t[1].isnan().all()
        assert t[[0, 2]].isfinite().all()
    with pytest.raises(ValueError, match=r"mmd_test: x must be finite everywhere; got"):
        mmd_test(x, y, bandwidth=1.0, validate=True)


def test_result_has_no_gradient():
    x, y = two_clouds(5, 6)
    assert not any(t.requires_grad for t in mmd_test(x.requires_grad_(), y, n_permutations=9))


class Largest(TorchDispatchMode):
    """The largest number of elements that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return out


def test_kernel_is_evaluated_once_and_never_kept(monkeypatch):
    monkeypatch.setattr(two_sample, "TILE", 64)
    evaluated = []
    gaussian = PROFILES["gaussian"]

    def counting(u):
        evaluated.append(u.numel())
        return gaussian(u)

    monkeypatch.setitem(PROFILES, "gaussian", counting)
    n, m, permutations = 700, 500, 40
    x, y = two_clouds(n, m)
    with Largest() as largest:
        mmd_test(x, y, bandwidth=1.0, n_permutations=permutations)
    total = n + m
    assert largest.numel <= max((1 + permutations) * total, 64**2)
    assert sum(evaluated) <= total * (total + 64) / 2


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"kernel": "rbf"}, ValueError, "kernel must be one of 'gaussian', .*; got 'rbf'"),
        ({"n_permutations": 0}, ValueError, "n_permutations must be an integer >= 1; got 0"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be a positive number; got -1.0"),
        ({"bandwidth": "mean"}, ValueError, "bandwidth must be 'median', .*; got 'mean'"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or None; got int"),
        ({"y": torch.zeros(1, 2)}, ValueError, "y must have at least two points with unbiased"),
        ({"y": torch.zeros(4, 3)}, ValueError, "y must have x's 2 features"),
        ({"y": torch.zeros(4, 2).int()}, TypeError, "y must be float16, bfloat16, float32"),
    ],
)
def test_errors(options, error, text):
    arguments = {"x": torch.zeros(4, 2), "y": torch.zeros(4, 2)} | options
    with pytest.raises(error, match=f"^mmd_test: {text}"):
        mmd_test(**arguments)


def test_one_point_is_enough_for_the_v_statistic():
    found = mmd_test(torch.zeros(1, 2), torch.ones(1, 2), unbiased=False, bandwidth=1.0)
    assert found.p_value == 1
