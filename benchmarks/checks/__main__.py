"""Checks of a device that are no measurement: ``python -m benchmarks.checks NAME [DEVICE]``.

facts   name, driver, versions and copy bandwidth, as JSON
repeat  loss and gradient have the same bits on every call
small   one small call of every family, for compute-sanitizer to watch
graph   a CUDA graph's replay gives the eager call's bits, also on new inputs
"""

import json
import sys

import torch

from .. import cases, clocks, records
from ..measure import Call


def facts(device):
    """Print what the device is and how fast it copies."""
    found = records.environment(device)
    if device == "cuda":
        found |= {"copy_gb_per_s": _copy_bandwidth(2**30)}
        found |= {"l2_bytes": torch.cuda.get_device_properties(0).L2_cache_size}
    print(json.dumps(found, indent=1))
    return True


def _copy_bandwidth(size):
    """Bytes read and written a second by a copy of ``size`` bytes, best of 20."""
    source, target = (torch.zeros(size, dtype=torch.int8, device="cuda") for _ in range(2))
    clock = clocks.Cuda()
    times = [clock.eager(lambda: target.copy_(source))["events"] for _ in range(20)]
    return 2 * size / min(times) / 1e6


def repeat(device):
    """Every case of a size of at most 16 million, twice, bit by bit."""
    return all([_same(case.name, _bits(call), _bits(call)) for case, call in _calls(device, 2**24)])


def small(device):
    """Every smoke case once."""
    for case, call in _calls(device, 0):
        call()
        print(f"{case.name}: done")
    return True


def graph(device):
    """Replay after new inputs were copied in, against an eager call on them."""
    good = True
    for case, call in _calls(device, 2**24):
        captured = clocks.Captured(call)
        with torch.no_grad():
            for cloud in call.clouds:
                cloud.add_(case.family.noise(cloud))
        replayed = [captured().clone(), *(leaf.grad.clone() for leaf in call.leaves)]
        good &= _same(case.name, replayed, _bits(call))
    return good


def _calls(device, largest):
    """Calls of otkernels on the smoke cases and the device's cases up to a size."""
    for case in [*cases.select("smoke"), *cases.select(device)]:
        if case.shape.reason.startswith("smoke") or case.family.size(case.shape) <= largest:
            provider = case.family.providers[0]
            inputs = tuple(t.to(device) for t in case.family.inputs(case.shape))
            yield case, Call(provider.make(), inputs, case.mode, case.family.clouds)


def _bits(call):
    """Value and gradients of one eager call."""
    call.reset()
    return [call().clone(), *(leaf.grad.clone() for leaf in call.leaves)]


def _same(name, first, second):
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    print(f"{name}: {'same bits' if same else 'DIFFERENT BITS'}")
    return same


if __name__ == "__main__":
    check = {"facts": facts, "repeat": repeat, "small": small, "graph": graph}[sys.argv[1]]
    sys.exit(0 if check(sys.argv[2] if len(sys.argv) > 2 else "cuda") else 1)
