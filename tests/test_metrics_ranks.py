"""What two processes give together. One start of both serves all tests."""

import warnings

import pytest
import torch

pytest.importorskip("torchmetrics")

from ranks import everywhere
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from otkernels import energy_distance, gaussian_wasserstein, mmd, sliced_wasserstein
from otkernels.metrics import (
    EnergyDistance,
    FrechetDistance,
    MaximumMeanDiscrepancy,
    SlicedWasserstein,
)

D = 3
RANKS = 2
REAL, FAKE = 40, 31
METRICS = {
    "frechet": FrechetDistance,
    "sliced": SlicedWasserstein,
    "mmd": MaximumMeanDiscrepancy,
    "energy": EnergyDistance,
}
# What each rank gets of both kinds. Loaders pad and cut as they like; ranks need not be equal.
SHARES = {
    "uneven": [(slice(25), slice(10)), (slice(25, None), slice(10, None))],
    "one_kind": [(slice(None), slice(0)), (slice(0), slice(None))],
    "nothing": [(slice(0), slice(0)), (slice(None), slice(None))],
}


def data():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (REAL, FAKE))
    return x, y + 1


def make(name, **options):
    if name != "frechet":
        options = {"dtype": torch.float64} | options
    return METRICS[name](num_features=D, **options)


def fed(metric, share):
    """The metric with this rank's share, in two batches of each kind or, of nothing, none."""
    for points, part, real in zip(data(), share, (True, False), strict=True):
        for batch in points[part].tensor_split(2):
            if len(batch):
                metric.update(batch, real=real)
    return metric


def of_all_data(rank, _):
    """Values of every metric for every share, and once more after another batch."""
    warnings.filterwarnings("ignore", "The ``compute`` method of metric")  # where nothing came in
    answers = {}
    for name in METRICS:
        for share, parts in SHARES.items():
            metric = fed(make(name), parts[rank])
            value = metric.compute()
            if rank == 1:
                metric.update(data()[0][:5] + 2, real=False)
            else:
                metric._computed = None  # take part in a merge for which it has nothing new
            answers[name, share] = value, metric.compute()
    return answers


def of_every_step(rank, _):
    """What forward gives with a merge in every step, and what is held afterwards."""
    answers = {}
    for name in METRICS:
        metric = make(name, dist_sync_on_step=True)
        x, y = (points[rank::RANKS] for points in data())
        metric.update(x, real=True)
        answers[name] = [metric(part, real=False) for part in y.split(8)], metric.compute()
    return answers


def of_too_few(rank, _):
    """A merge without a fake sample raises on both, who then go on."""
    answers = {}
    for name in METRICS:
        metric, (x, y) = make(name), data()
        metric.update(x[rank::RANKS], real=True)
        with pytest.raises(RuntimeError, match="got 40 real and 0 fake"):
            metric.compute()
        metric.update(y[rank::RANKS], real=False)
        answers[name] = metric.compute()
    return answers


def of_more_than_capacity(rank, _):
    """What is held after a merge, of rows that say which they are, and what was sent for it."""
    sent = []

    def gather(tensor, group):
        sent.append(tuple(tensor.shape))
        return gather_all_tensors(tensor, group)

    options = {"num_features": 1, "capacity": 12, "dist_sync_fn": gather}
    metric = EnergyDistance(**options)
    numbers = torch.arange(60, dtype=torch.float32)[:, None]
    metric.update(numbers[:45] if rank == 0 else numbers[45:], real=True)
    metric.update(numbers, real=False)  # the same on both ranks
    alone = metric.fake_samples.clone()
    with metric.sync_context(gather):
        held = metric._held("real"), metric._held("fake")
    return held, alone, metric.compute(), sent[:6], len(metric.real_samples)


def of_one_checkpoint(rank, _):
    """One state loaded on both ranks raises on both, who hold what they held."""
    metric = EnergyDistance(num_features=D, capacity=12)
    samples, count = torch.ones(6, D), torch.tensor(6)
    metric._hold("real", (torch.arange(6) + 6 * rank, samples, count))
    metric._hold("fake", (torch.arange(6), samples, count))
    with pytest.raises(ValueError, match="samples must differ between ranks; got equal keys"):
        metric.compute()
    return len(metric.real_samples), len(metric.fake_samples), metric._is_synced


def of_what_is_synced(rank, _):
    """What each rank holds after forward, update, merge_state and reset of what is synced."""
    answers = {}
    for name in METRICS:
        metric, other = make(name, reset_real_features=False), make(name)
        metric.update(data()[0][: 3 + rank], real=True)
        metric.update(data()[1][: 2 + rank], real=False)
        other.update(data()[1], real=False)
        before = metric._held("real"), metric._held("fake")
        more = {"inputs": data()[1], "real": False}
        calls = (
            (metric, more),
            (metric.update, more),
            (metric.merge_state, {"incoming_state": other}),
        )
        for call, options in calls:
            metric.sync()
            with pytest.raises(TorchMetricsUserError, match="call unsync first"):
                call(**options)
            metric.unsync()
        after = metric._held("real"), metric._held("fake")
        metric.sync()
        metric.reset()
        answers[name] = before, after, metric._held("real")
    return answers


CASES = (
    of_all_data,
    of_every_step,
    of_too_few,
    of_more_than_capacity,
    of_one_checkpoint,
    of_what_is_synced,
)


@pytest.fixture(scope="module")
def answers():
    results = everywhere(RANKS, tuple((case.__name__, case) for case in CASES))
    failed = [result for rank in results for result in rank.values() if isinstance(result, str)]
    assert not failed, "\n".join(failed)
    return results


def functional(name, x, y):
    if name == "frechet":
        return gaussian_wasserstein(x, y, correction=1)
    if name == "sliced":
        return sliced_wasserstein(x, y, projections=make(name).projections)
    return {"mmd": mmd, "energy": energy_distance}[name](x, y)


def assert_equal(value, expected, name):
    """To the rounding of means over all samples, which Frechet's moments take in parts."""
    terms = {"frechet": REAL + FAKE + D * D}.get(name, REAL + FAKE)
    size = 10.0  # of squares of these points, or their distances
    bound = terms**0.5 * torch.finfo(torch.float64).eps * size
    torch.testing.assert_close(value, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("share", SHARES)
def test_ranks_give_the_functional_of_all_data(answers, share, name):
    x, y = data()
    more = torch.cat([y, x[:5] + 2])
    for rank in range(RANKS):
        first, second = answers[rank]["of_all_data"][name, share]
        assert_equal(first, functional(name, x, y), name)
        assert_equal(second, functional(name, x, more), name)


@pytest.mark.parametrize("name", METRICS)
def test_forward_over_ranks_on_every_step(answers, name):
    x, y = (torch.cat([t[rank::RANKS] for rank in range(RANKS)]) for t in data())
    parts = [data()[1][rank::RANKS].split(8) for rank in range(RANKS)]
    for rank in range(RANKS):
        steps, whole = answers[rank]["of_every_step"][name]
        assert_equal(whole, functional(name, x, y), name)
        for step, batches in zip(steps, zip(*parts, strict=True), strict=True):
            assert_equal(step, functional(name, x, torch.cat(batches)), name)


@pytest.mark.parametrize("name", METRICS)
def test_a_merge_that_fails_leaves_each_rank_its_own(answers, name):
    x, y = (torch.cat([t[rank::RANKS] for rank in range(RANKS)]) for t in data())
    for rank in range(RANKS):
        assert_equal(answers[rank]["of_too_few"][name], functional(name, x, y), name)


def test_more_than_capacity(answers):
    (ours, alone, value, sent, own), (theirs, others, same, _, _) = (
        rank["of_more_than_capacity"] for rank in answers
    )
    assert own == 12  # again, after the merge
    for one, other, count in zip(ours, theirs, (60, 120), strict=True):
        assert all(map(torch.equal, one, other))
        keys, samples, seen = one
        assert keys.shape == (12,)
        assert samples.shape == (12, 1)
        assert seen == count
    # Both ranks saw the same fake samples, and did not draw the same ones.
    assert not torch.equal(alone, others)
    assert value == same == energy_distance(ours[0][1], ours[1][1])
    assert sent[0] == (12,)  # keys
    rows = [rank["of_more_than_capacity"][3][2][0] for rank in answers]
    assert sum(rows) == 12  # samples: those that are held and no others


def test_one_checkpoint_on_two_ranks_is_refused(answers):
    for rank in answers:
        assert rank["of_one_checkpoint"] == (6, 6, False)


@pytest.mark.parametrize("name", METRICS)
def test_synced_it_takes_nothing_more_and_keeps_its_own(answers, name):
    for rank in answers:
        before, after, kept = rank["of_what_is_synced"][name]
        for one, other in zip((*before, before[0]), (*after, kept), strict=True):
            assert all(map(torch.equal, one, other))
