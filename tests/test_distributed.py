"""Losses of the global batch are those of one process, value and gradient, on 1, 2 and 4 ranks."""

import functools

import distributed_cases as on
import pytest
import torch
from impls import INTERPRETED
from ranks import everywhere

THETA = on.directions()

# Names of functions and their options.
FUNCTIONS = {
    "sliced": ("sliced_wasserstein", {"projections": THETA}),
    "sliced p=1": ("sliced_wasserstein", {"projections": THETA, "p": 1, "root": True}),
    "sliced curved": ("sliced_wasserstein", {"projections": on.curved}),
    "sliced few": ("sliced_wasserstein", {"projections": THETA[:, :2], "impl": "torch"}),
    "mmd": ("mmd", {}),
    "mmd unbiased": ("mmd", {"kernel": "imq", "bandwidth": (1.0, 2.0), "unbiased": True}),
    "mmd polynomial": ("mmd", {"kernel": "polynomial"}),
    "mmd torch": ("mmd", {"kernel": "laplacian", "impl": "torch", "reduction": "sum"}),
    "energy": ("energy_distance", {"squared": False}),
    "gaussian": ("gaussian_wasserstein", {}),
    "gaussian unbiased": ("gaussian_wasserstein", {"correction": 1, "eps": 0.1}),
    "gaussian diagonal": ("gaussian_wasserstein", {"diagonal": True, "reduction": "mean"}),
    "gaussian torch": ("gaussian_wasserstein", {"squared": False, "impl": "torch"}),
}
TO_NORMAL = {
    "sliced to normal": ("sliced_wasserstein_to_normal", {"projections": THETA, "root": True}),
    "gaussian to normal": ("gaussian_wasserstein_to_normal", {"correction": 1}),
    "gaussian to normal, diagonal": ("gaussian_wasserstein_to_normal", {"diagonal": True}),
}
TRITON = {
    "sliced triton": ("sliced_wasserstein", {"projections": THETA, "impl": "triton"}),
    "energy triton": ("energy_distance", {"impl": "triton"}),
}
KINDS = {
    "plain": {},
    "batch": {"batch": (2,)},
    "weights": {"batch": (2,), "weights": True},
    "double": {"dtype": torch.float64},
    "half": {"dtype": torch.bfloat16},
    "far": {"offset": 1e6, "dtype": torch.float64},
}
IN_FULL = {"sliced", "mmd", "gaussian"}
MODULES = {
    "SlicedWassersteinLoss": {"n_projections": 6, "resample": "fixed", "dim": 3},
    "SlicedWassersteinToNormalLoss": {"n_projections": 6},
    "MMDLoss": {"bandwidth": 1.5},
    "EnergyDistanceLoss": {},
    "GaussianWassersteinLoss": {},
    "GaussianWassersteinToNormalLoss": {"validate": True},
}


PARALLEL = {
    "SlicedWassersteinLoss": {"n_projections": 6},
    "EnergyDistanceLoss": {},
    "GaussianWassersteinLoss": {},
}


def _cases():
    """Everything that runs in one group of processes: what the ranks do, and one process."""
    cases = {}

    def add(label, there, here, *given):
        cases[label] = functools.partial(there, *given), functools.partial(here, *given)

    for label, (name, options) in FUNCTIONS.items():
        for kind, given in KINDS.items() if label in IN_FULL else [("weights", KINDS["weights"])]:
            add(f"{label}, {kind}", on.shared, on.alone, name, given, options)
        each = {k: v for k, v in options.items() if k != "reduction"}
        add(f"{label}, ragged", on.shared_ragged, on.alone_ragged, name, {}, each)
    for label, (name, options) in TO_NORMAL.items():
        add(label, on.shared, on.alone, name, {"names": "x"}, options)
        add(f"{label}, ragged", on.shared_ragged, on.alone_ragged, name, {"names": "x"}, options)
    if INTERPRETED:
        for label, (name, options) in TRITON.items():
            add(label, on.shared, on.alone, name, {}, options)
    for name, options in MODULES.items():
        add(name, on.shared_module, on.alone_module, name, options)
    add("reference", on.shared_reference, on.alone_reference)
    add("moments", on.shared_moments, on.alone_moments)
    return cases


CASES = _cases()
OTHERS = {
    "own directions": on.own_directions,
    "own factors": on.own_factors,
    **{
        f"data parallel {name}": functools.partial(on.data_parallel, name, options)
        for name, options in PARALLEL.items()
    },
}
WORK = tuple((label, there) for label, (there, _) in CASES.items()) + tuple(OTHERS.items())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks(size, subtests):
    """One test for each number of ranks, for starting the processes takes longer than all cases."""
    results = everywhere(size, WORK)
    for result in results:
        assert "failed" not in result, result["failed"]
    for label in CASES:
        with subtests.test(label):
            check_equals_one_process(size, label, [result[label] for result in results])
    for label in OTHERS:
        check, *options = label.rsplit(" ", 1) if label.startswith("data") else (label,)
        with subtests.test(label):
            CHECKS[check](size, [result[label] for result in results], *options)


def check_equals_one_process(size, label, results):
    reference = CASES[label][1](size=size)
    value = reference.pop("value")
    assert value.isfinite().all()
    # Squares that are not centred would be off by 1e-4 there.
    eps = 1e-8 if label.endswith("far") else None
    for rank, out in enumerate(results):
        assert_close(out["value"], value, eps=eps)
        assert torch.equal(out["value"], results[0]["value"])
        for name, whole in reference.items():
            assert whole.abs().max() > 0
            own = whole.split(on.sizes_of(size, name), on.AXES[name])[rank]
            # Of the sum of the ranks' losses: as many times as there are ranks.
            assert_close(out[name], own, times=size, largest=whole.abs().max(), eps=eps)


def check_directions(size, results):
    """The mean over ranks, which DistributedDataParallel takes, is the gradient of one process."""
    theta = on.directions().requires_grad_()
    on.otkernels.sliced_wasserstein(**on.problem(size), projections=theta).backward()
    assert_close(torch.stack(results).mean(0), theta.grad)


def check_factors(size, results):
    """Gradients are those of the sum of the ranks' losses, whatever each weighs."""
    for name, options in on.FACTORS.items():
        reference = on.alone(name, {}, options, size)["x"]
        own = torch.cat([result[name] for result in results])
        assert_close(own, reference, times=sum(rank + 1 for rank in range(size)))


def check_data_parallel(size, results, name):
    """DistributedDataParallel leaves the gradient of one process on each rank."""
    reference = on.not_parallel(name, PARALLEL[name], size)
    for result in results:
        for out, whole in zip(result, reference, strict=True):
            assert_close(out, whole)


CHECKS = {
    "own directions": check_directions,
    "own factors": check_factors,
    "data parallel": check_data_parallel,
}


def assert_close(out, reference, times=1, largest=None, eps=None):
    """Off by no more than 1e-6 of the largest number, or by the rounding of the type."""
    usual = {torch.float64: 1e-13, torch.float32: 1e-6}
    eps = eps or usual.get(out.dtype, 2 * torch.finfo(out.dtype).eps)
    assert out.shape == reference.shape
    assert out.dtype == reference.dtype
    largest = reference.abs().max() if largest is None else largest
    assert ((out / times - reference).abs() <= eps * largest).all()


def test_groups_of_some_ranks():
    results = [r["subgroups"] for r in everywhere(4, (("subgroups", on.subgroups),))]
    for parity in (0, 1):
        given = on.problem(2)
        reference = on.otkernels.energy_distance(given["x"] + parity, given["y"])
        for out in results[parity::2]:
            assert_close(out, reference)
