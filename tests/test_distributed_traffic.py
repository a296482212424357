"""What ranks hand to torch.distributed is what the formulas of studies/traffic.py say."""

import functools

import pytest
import torch
from ranks import everywhere
from torch import distributed as dist

from benchmarks.studies import traffic
from otkernels import distributed

D, L, MOST = 3, 8, 5  # points of the rank with the most; others have fewer
CALLS = ("all_gather", "all_reduce", "broadcast", "reduce_scatter")
KINDS = {
    "plain": {},
    "both": {"to_y": True},
    "batch": {"B": 2},
    "double": {"itemsize": 8, "to_y": True},
}


def problem(loss, kind):
    return traffic.Problem(loss, MOST, MOST + 1, D, L, **KINDS[kind])


def counted(loss, kind, rank, size):
    """Pairs of a call and bytes that this rank hands over, forward and backward."""
    given, calls = problem(loss, kind), []
    shape = (given.B,) if given.B > 1 else ()
    dtype = {4: torch.float32, 8: torch.float64}[given.itemsize]
    x, y = (torch.randn(*shape, n - rank, D, dtype=dtype) for n in (given.N, given.M))
    clouds = [x] if loss.endswith("to_normal") else [x, y.requires_grad_(given.to_y)]
    x.requires_grad_()
    options = {"n_projections": L} if loss.startswith("sliced") else {}
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(dist, name, functools.partial(_noted, calls, name, getattr(dist, name)))
        value = getattr(distributed, loss)(*clouds, **options)
        forward = len(calls)
        value.sum().backward()
    return calls[:forward], calls[forward:]


def _noted(calls, name, call, first, *rest, **options):
    """Call, and note the bytes of this rank's tensor: that which comes in is second in a list."""
    own = first if isinstance(first, torch.Tensor) else rest[0] if name == "all_gather" else first
    own = own if isinstance(own, torch.Tensor) else own[0]
    calls.append((name, own.numel() * own.element_size()))
    return call(first, *rest, **options)


CASES = tuple(
    (f"{loss}, {kind}", functools.partial(counted, loss, kind))
    for loss in traffic.LOSSES
    for kind in KINDS
    if not (loss.endswith("to_normal") and KINDS[kind].get("to_y"))
)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("case", dict(CASES))
def test_exchanges_are_those_of_the_formula(size, case):
    loss, _, kind = case.partition(", ")
    forward, backward = traffic.exchanges(problem(loss, kind))
    for result in everywhere(size, CASES):
        assert result[case] == (forward, backward)


@pytest.mark.parametrize("loss", traffic.LOSSES)
def test_model_of_one_rank_and_of_many(loss):
    """One rank sends nothing; only of a Gaussian all ranks together do not send all points."""
    given = problem(loss, "plain")
    assert traffic.per_rank(given, 1) == 0
    points = given.N * given.D * given.itemsize
    more = traffic.per_rank(given, 65) - traffic.per_rank(given, 64)
    assert (more > points) == (not loss.startswith("gaussian"))


def test_work_is_shared():
    for loss, share in (
        ("sliced_wasserstein", 0.25),
        ("mmd", 0.25),
        ("gaussian_wasserstein", 0.25),
    ):
        alone = traffic.work(traffic.Problem(loss, 64, 64, D, L), 1)
        of_four = traffic.work(traffic.Problem(loss, 16, 16, D, L), 4)
        assert of_four == share * alone
