import pickle
from copy import deepcopy

import pytest
import torch
from scipy import stats

pytest.importorskip("torchmetrics")

from torchmetrics import MetricCollection

import otkernels
from otkernels.metrics import EnergyDistance, MaximumMeanDiscrepancy, SlicedWasserstein
from otkernels.metrics import _reservoir as reservoir

D = 3
CLASSES = [SlicedWasserstein, MaximumMeanDiscrepancy, EnergyDistance]
every_metric = pytest.mark.parametrize("cls", CLASSES)


def rows(n, seed=0, shift=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, D, generator=generator, dtype=torch.float64) + shift).to(dtype)


def numbered(n):
    """Rows that say which they are."""
    return torch.arange(n, dtype=torch.float32)[:, None]


def make(cls=EnergyDistance, **options):
    return cls(**{"num_features": D, "dtype": torch.float64} | options)


def filled(metric, real, fake, parts=1):
    for points, kind in ((real, True), (fake, False)):
        for part in points.tensor_split(parts):
            metric.update(part, real=kind)
    return metric


def numbers_held(metric):
    return metric.real_samples[:, 0].long()


# --- all samples, while there is room -------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("parts", [1, 3, 40])  # of 40: batches of one sample, and empty ones
def test_any_batches_give_all_samples(cls, parts):
    x, y = rows(31, shift=3.0), rows(20, seed=1)
    metric = filled(make(cls, capacity=31), x, y, parts)
    assert torch.equal(metric.real_samples, x)
    assert torch.equal(metric.fake_samples, y)
    assert torch.equal(metric.compute(), filled(make(cls), x, y).compute())


def test_the_order_of_batches_does_not_matter():
    x, y = rows(31, shift=3.0), rows(20, seed=1)
    options = {"capacity": 31}
    ours = filled(make(**options), x, y).compute()
    metric = make(**options)
    for part in reversed(x.split(7)):
        metric.update(part, real=True)
        metric.update(y[:0], real=False)
    metric.update(y.flip(0), real=False)
    size = otkernels.energy_distance(x, -x).item()
    bound = 51 * torch.finfo(torch.float64).eps * size
    torch.testing.assert_close(metric.compute(), ours, rtol=0, atol=bound)


# --- a uniform draw of them, when there is not ----------------------------------------------------


def test_memory_is_bounded_and_all_samples_are_counted():
    metric = make(capacity=12)
    empty = sum(t.nbytes for t in metric._defaults.values())
    for seed in range(20):
        metric.update(rows(7, seed), real=True)
        assert len(metric.real_keys) == len(metric.real_samples) == min(12, 7 * (seed + 1))
    assert metric.real_count == 140
    held = [metric.real_keys, metric.real_samples]
    assert sum(t.untyped_storage().nbytes() for t in held) == 12 * (8 + 8 * D)
    assert empty == 2 * 8 + 4  # two counts and a mark: room is taken as it is needed


def assert_uniform(counts, draws, held):
    """Of each of n samples, in how many of ``draws`` draws of ``held`` it was: chi-squared."""
    n = len(counts)
    assert counts.sum() == draws * held
    share = held / n
    statistic = ((counts - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (n - 1) / n
    assert stats.chi2.sf(statistic.item(), n - 1) > 1e-3


@pytest.mark.parametrize("sizes", [[60], [40, 5, 15]], ids=["one", "three"])
def test_every_sample_has_the_same_chance(sizes):
    counts = torch.zeros(60)
    for seed in range(200):
        metric = make(num_features=1, capacity=12, seed=seed, dtype=torch.float32)
        for part in numbered(60).split(sizes):
            metric.update(part, real=True)
        counts[numbers_held(metric)] += 1
    assert_uniform(counts, 200, 12)


def test_every_sample_has_the_same_chance_after_merges():
    counts = torch.zeros(60)
    for seed in range(200):
        first, second = (
            make(num_features=1, capacity=12, seed=s, dtype=torch.float32)
            for s in (seed, 1000 + seed)
        )
        first.update(numbered(60)[:45], real=True)
        second.update(numbered(60)[45:55], real=True)  # with room left
        first.merge_state(second)
        first.update(numbered(60)[55:], real=True)
        assert first.real_count == 60
        counts[numbers_held(first)] += 1
    assert_uniform(counts, 200, 12)


def test_kinds_and_ranks_draw_apart(monkeypatch):
    """Streams of the same seed have no more samples in common than independent ones."""
    together = torch.zeros(2)
    for seed in range(100):
        metric = make(num_features=1, capacity=12, seed=seed, dtype=torch.float32)
        filled(metric, numbered(60), numbered(60))
        with monkeypatch.context() as patch:
            patch.setattr(reservoir, "_rank", lambda: 1)
            other = make(num_features=1, capacity=12, seed=seed, dtype=torch.float32)
            other.update(numbered(60), real=True)
        for i, held in enumerate((metric.fake_samples, other.real_samples)):
            together[i] += torch.isin(metric.real_samples, held).sum()
    # Hypergeometric: of 12 marked among 60, how many are in a draw of 12.
    law = stats.hypergeom(60, 12, 12)
    assert ((together - 100 * law.mean()).abs() < 4 * (100 * law.var()) ** 0.5).all()


def test_the_same_seed_holds_the_same_samples_whatever_the_batches():
    x = rows(100)
    one, two = (filled(make(capacity=9, seed=4), x, x, parts) for parts in (1, 13))
    assert torch.equal(one.real_samples, two.real_samples)
    assert torch.equal(one.compute(), two.compute())
    other = filled(make(capacity=9, seed=5), x, x)
    assert not torch.equal(one.real_samples, other.real_samples)


def test_samples_held_stay_in_order():
    metric = make(num_features=1, capacity=12)
    for part in numbered(60).split(7):
        metric.update(part, real=True)
    held = numbers_held(metric)
    assert torch.equal(held, held.sort().values)


def test_the_unbiased_mmd_of_a_draw_has_the_mean_of_all_samples():
    x, y = rows(60, shift=0.3), rows(50, seed=1)
    options = {"bandwidth": 1.0, "unbiased": True}
    values = torch.stack(
        [
            filled(make(MaximumMeanDiscrepancy, capacity=15, seed=s, **options), x, y).compute()
            for s in range(200)
        ]
    )
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - otkernels.mmd(x, y, **options)) < 4 * error


def test_keys_are_splitmix():
    """The first words that the generator gives from seed 0."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    keys = reservoir._mixed(torch.arange(3))
    assert [key % 2**64 for key in keys.tolist()] == words


# --- merging --------------------------------------------------------------------------------------


@every_metric
def test_merged_states(cls):
    x, y = rows(31), rows(20, seed=1, shift=1.0)
    one, two, three = (make(cls) for _ in range(3))
    filled(one, x[:5], y[:10])
    filled(two, x[5:6], y[10:])
    filled(three, x[6:], y[:0])
    one.compute()
    one.merge_state(two)
    one.merge_state(three.metric_state)
    assert torch.equal(one.compute(), filled(make(cls), x, y).compute())
    empty = make(cls)
    empty.merge_state(one)
    assert torch.equal(empty.compute(), one.compute())


@pytest.mark.parametrize("left_out", ["neither", "ours", "theirs"])
def test_merging_equal_seeds_leaves_every_sample_and_pair_the_same_chance(left_out):
    """Samples that had the same number in their streams are held together no more often."""
    ours, theirs = {"neither": (6, 6), "ours": (24, 6), "theirs": (6, 24)}[left_out]
    counts, together, pairs = torch.zeros(60), 0, min(ours, theirs)
    for seed in range(200):
        first, second = (
            make(num_features=1, capacity=12, seed=seed, dtype=torch.float32) for _ in range(2)
        )
        first.update(numbered(60)[:ours], real=True)
        second.update(numbered(60)[ours : ours + theirs], real=True)
        first.merge_state(second)
        assert len(first.real_keys.unique()) == 12
        first.update(numbered(60)[ours + theirs :], real=True)
        held = torch.zeros(60).index_fill(0, numbers_held(first), 1)
        counts += held
        together += (held[:pairs] * held[ours : ours + pairs]).sum()
    assert_uniform(counts, 200, 12)
    share = 12 / 60 * 11 / 59
    # Disjoint pairs: draws without replacement make them a little less than independent.
    assert abs(together - 200 * pairs * share) < 4 * (200 * pairs * share * (1 - share)) ** 0.5


def test_merging_what_both_have_left_out_wants_another_seed():
    x = rows(12)
    first, same, other = (filled(make(capacity=10, seed=s), x, x) for s in (1, 1, 2))
    message = "incoming_state must be of another seed or rank where both have left out samples"
    with pytest.raises(ValueError, match=message):
        first.merge_state(same)
    assert first.real_count == 12
    first.merge_state(other)
    assert first.real_count == 24
    assert len(first.real_samples) == 10


def test_a_metric_is_not_merged_with_itself():
    metric = filled(make(), rows(3), rows(3))
    with pytest.raises(ValueError, match="incoming_state must be of another metric; got this one"):
        metric.merge_state(metric)
    assert metric.real_count == len(metric.real_samples) == 3


def test_merging_what_has_thrown_away_too_much():
    x = rows(30)
    small, large = filled(make(capacity=10), x, x), filled(make(capacity=20, seed=1), x, x)
    message = "incoming_state must have held up to 20 samples of a kind, as this metric; got 10 of"
    with pytest.raises(ValueError, match=message):
        large.merge_state(small)
    small.merge_state(large)
    assert small.real_count == 60


def test_merging_half_a_state():
    metric, other = filled(make(), rows(3), rows(3)), filled(make(), rows(3), rows(3))
    half = {state: t for state, t in other.metric_state.items() if state.startswith("real")}
    with pytest.raises(ValueError, match="got one without fake_keys, fake_samples, fake_count"):
        metric.merge_state(half)
    assert metric.real_count == 3


# --- what a metric goes through -------------------------------------------------------------------


@every_metric
def test_what_it_says_of_itself(cls):
    metric = cls(num_features=D)
    assert metric.higher_is_better is False
    assert metric.is_differentiable is False
    assert metric.full_state_update is False
    assert metric.capacity == 10_000
    assert metric.real_samples.dtype == torch.float32
    assert filled(metric, rows(3), rows(4)).compute().dtype == torch.float32


@every_metric
def test_copies_go_on_as_the_metric_does(cls):
    x, y = rows(30), rows(20, seed=1, shift=1.0)
    metric = filled(make(cls, capacity=15), x, y)
    copies = pickle.loads(pickle.dumps(metric)), deepcopy(metric), make(cls, capacity=15)
    assert metric.state_dict() == {}
    metric.persistent(True)
    copies[2].load_state_dict(metric.state_dict())
    for copy in (*copies, metric):
        copy.update(x[:7] + 2, real=False)
    for copy in copies:
        assert torch.equal(copy.fake_samples, metric.fake_samples)
        assert torch.equal(copy.compute(), metric.compute())


@pytest.mark.parametrize("kept", [True, False])
def test_reset(kept):
    x, y = rows(30), rows(20, seed=1, shift=1.0)
    metric = filled(make(capacity=25, reset_real_features=not kept), x, y)
    value = metric.compute()
    metric.reset()
    assert metric.real_count == (30 if kept else 0)
    assert len(metric.real_samples) == (25 if kept else 0)
    assert metric.fake_count == len(metric.fake_samples) == 0
    metric.update(y, real=False)
    if not kept:
        metric.update(x, real=True)
    assert torch.equal(metric.compute(), value)


def test_forward_is_of_the_batch_and_adds_it():
    x, y = rows(30), rows(20, seed=1, shift=1.0)
    metric, plain = make(capacity=15), filled(make(capacity=15), x, y, parts=2)
    metric.update(x[:15], real=True)
    metric.update(x[15:], real=True)
    for batch in y.split(10):
        value = metric(batch, real=False)
        assert torch.equal(value, otkernels.energy_distance(metric.real_samples, batch))
    assert metric.update_count == 4
    for kind in ("real", "fake"):
        assert all(map(torch.equal, metric._held(kind), plain._held(kind)))
    assert torch.equal(metric.compute(), plain.compute())


def test_a_forward_that_fails_adds_nothing():
    x = rows(30)
    metric = make()
    with pytest.raises(RuntimeError, match="samples must be one or more of each kind; got 30 real"):
        metric(x, real=True)
    assert metric.update_count == metric.real_count == 0
    assert len(metric.real_keys) == len(metric.real_samples) == 0


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.set_dtype(torch.float16),
        lambda m: m.half(),
        lambda m: torch.nn.Sequential(m).half()[0],
        lambda m: torch.nn.Sequential(m).to(torch.bfloat16)[0],
    ],
)
@every_metric
def test_what_is_held_keeps_its_dtype(cls, convert):
    x, y = rows(30, shift=1000.0), rows(20, seed=1, shift=1001.0)
    options = {"bandwidth": torch.tensor(1.1)} if cls is MaximumMeanDiscrepancy else {}
    metric = filled(make(cls, **options), x, y)
    value = metric.compute()
    metric = convert(metric)
    assert metric.real_samples.dtype == torch.float64
    assert metric.real_keys.dtype == metric.real_count.dtype == torch.int64
    assert torch.equal(metric.compute(), value)
    metric.reset()
    assert torch.equal(filled(metric, x, y).compute(), value)


def test_another_device():
    metric = filled(make(SlicedWasserstein), rows(3), rows(2)).to("meta")
    held = *metric.metric_state.values(), *metric._defaults.values(), metric.projections
    assert {t.device.type for t in held} == {"meta"}
    metric.reset()
    metric.update(torch.empty(4, D, device="meta"), real=True)
    assert metric.real_samples.shape == (4, D)
    with pytest.raises(ValueError, match="features must be on the metric's device meta; got cpu"):
        metric.update(rows(3), real=True)


@every_metric
def test_no_graph_is_kept_and_autocast_changes_nothing(cls):
    x, y = (t.requires_grad_() for t in (rows(30), rows(20, seed=1)))
    expected = filled(make(cls), x, y).compute()
    with torch.autocast("cpu", torch.bfloat16):
        metric = filled(make(cls), x, y)
        value = metric(y[:5], real=False)
        metric = filled(make(cls), x, y)
        assert torch.equal(metric.compute(), expected)
    held = [value, metric.compute(), *metric.metric_state.values()]
    assert not any(t.requires_grad for t in held)


@every_metric
def test_validation_in_inference_mode_leaves_a_metric_that_trains_on(cls):
    x, y = rows(30), rows(20, seed=1, shift=1.0)
    metric = make(cls, capacity=25)
    with torch.inference_mode():
        filled(metric, x[:9], y[:9]).compute()
        metric(y[:3], real=False)
    metric.update(x[9:], real=True)
    metric.compute()
    metric.reset()
    value = filled(metric, x, y).compute()
    assert torch.equal(value, filled(make(cls, capacity=25), x, y).compute())


def twice(batch):
    return 2 * batch


UNLIKE = {
    "energy": (EnergyDistance, {"capacity": 20}),
    "larger": (EnergyDistance, {"capacity": 100}),
    "single": (EnergyDistance, {"capacity": 20, "dtype": torch.float32}),
    "seed": (EnergyDistance, {"capacity": 20, "seed": 3}),
    "feature": (SlicedWasserstein, {"capacity": 100, "feature": twice}),
    "keeps": (EnergyDistance, {"capacity": 20, "reset_real_features": False}),
}


@pytest.mark.parametrize("first", [0, 10])  # samples in the batch after which groups are formed
def test_a_collection_does_not_share_what_is_unlike(first):
    x, y = rows(40), rows(31, seed=1, shift=2.0)
    together = MetricCollection({name: make(cls, **its) for name, (cls, its) in UNLIKE.items()})
    together.update(x[:first], real=True)
    filled(together, x[first:], y)
    values = together.compute()
    for name, (cls, its) in UNLIKE.items():
        assert torch.equal(values[name], filled(make(cls, **its), x, y).compute()), name
    together(x[:5], real=True)
    together.reset()
    counts = {name: metric.real_count.item() for name, metric in together.items()}
    assert counts == dict.fromkeys(UNLIKE, 0) | {"keeps": 45}


def test_a_collection_shares_what_it_is_told_to():
    x, y = rows(40), rows(31, seed=1, shift=2.0)
    seen = []
    options = {"capacity": 20, "feature": lambda batch: seen.append(len(batch)) or batch}
    metrics = {cls.__name__: make(cls, **options) for cls in (EnergyDistance, SlicedWasserstein)}
    together = MetricCollection(metrics, compute_groups=[list(metrics)])
    filled(together, x, y)
    assert seen == [40, 31]
    values = together.compute()
    for cls in (EnergyDistance, SlicedWasserstein):
        alone = filled(make(cls, capacity=20), x, y)
        assert torch.equal(values[cls.__name__], alone.compute())
    one, two = together.values(copy_state=False)
    assert one.real_samples is two.real_samples


@every_metric
def test_on_a_plot(cls):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    metric = filled(make(cls), rows(9), rows(8))
    figure, axes = metric.plot()
    assert axes.get_ylabel() == cls.__name__
    assert axes.lines[0].get_ydata()[0] == metric.compute()
    pyplot.close(figure)
    values = [metric(rows(8, seed), real=False) for seed in range(3)]
    figure, axes = metric.plot(values)
    assert list(axes.lines[0].get_ydata()) == [v.item() for v in values]
    pyplot.close(figure)


# --- refusals -------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": None}, "num_features, or feature.num_features, must be .*; got None"),
        ({"feature": 64}, "feature must be a module, a function or None; got int"),
        ({"capacity": 0}, "capacity must be an integer >= 1; got 0"),
        ({"seed": -1}, "seed must be an integer >= 0; got -1"),
        ({"seed": 2**63}, r"seed must be below 2\^63"),
        ({"dtype": torch.float16}, "dtype must be float32 or float64; got torch.float16"),
        ({"impl": "numba"}, "impl must be one of 'torch', 'cpu', 'triton'; got 'numba'"),
        ({"subsets": 3}, "Unexpected keyword arguments: `subsets`"),
    ],
    ids=str,
)
def test_bad_arguments(cls, options, message):
    with pytest.raises(ValueError, match=message):
        make(cls, **options)


@every_metric
def test_bad_features(cls):
    for features, error in ((torch.zeros(4, 5), ValueError), (torch.zeros(4, D).int(), TypeError)):
        with pytest.raises(error, match=f"{cls.__name__}: features must"):
            make(cls).update(features, real=True)


@every_metric
@pytest.mark.parametrize(("n", "m"), [(0, 9), (9, 0)])
def test_too_few_samples(cls, n, m):
    metric = filled(make(cls), rows(n), rows(m))
    message = f"samples must be one or more of each kind; got {n} real and {m} fake"
    with pytest.raises(RuntimeError, match=message):
        metric.compute()
