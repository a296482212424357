"""The cases through pytest-benchmark: ``pytest benchmarks --benchmark-enable``.

Without --benchmark-enable every case is checked against float64 once and not timed. ``-k`` chooses
among them; pytest-benchmark's own options save, compare and sort. Times are wall times, on a GPU
until the device has finished; ``python -m benchmarks run`` is what published records come from.
"""

import functools

import pytest
import torch

from . import cases, measure

# Peers and compilers may warn: that is no error of a case.
pytestmark = pytest.mark.filterwarnings("default")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = {case.name: case for case in [*cases.select("smoke"), *cases.select(DEVICE)]}
PROVIDERS = [
    pytest.param(name, provider, id=f"{name}/{provider.name}")
    for name, case in CASES.items()
    for provider in case.family.providers
]


@functools.lru_cache(maxsize=1)  # tests of one shape follow each other
def _inputs(op, shape):
    inputs = tuple(t.to(DEVICE) for t in cases.family(op).inputs(shape))
    return inputs, functools.cache(lambda expect: expect(*inputs))


@pytest.mark.parametrize(("name", "provider"), PROVIDERS)
def test_case(benchmark, name, provider):
    """One provider on one case: within its error bound, then timed."""
    case = CASES[name]
    benchmark.group = name
    inputs, expected = _inputs(case.family.op, case.shape)
    try:
        call = measure.Call(provider.make(), inputs, case.mode, case.family.clouds)
    except ImportError as error:
        pytest.skip(f"{provider.name}: {error}")
    reference = expected(provider.expect or case.family.expect)
    errors = measure.check(call, reference, provider.own_error(case.shape))
    assert errors.ok, errors
    measure.warm_up(call)

    def timed():
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info["errors"] = vars(errors)
    benchmark.pedantic(timed, setup=call.reset, rounds=measure.MIN_ROUNDS)
