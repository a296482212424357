"""One provider on one case: call it, check it against float64, time it beside its peers."""

import gc
import itertools
import math
import random
import time
from dataclasses import dataclass

import torch

from .case import MODES

MIN_ROUNDS = 5
MAX_ROUNDS = 2000
WARM_UP_CALLS = 20
WARM_UP_SECONDS = 0.2
NO_GRADIENT = "no gradient"  # why a peer that only measures is missing in the other modes
SEED = 0  # of torch's global stream before a call is checked


class Call:
    """A provider's function with its own leaves for the inputs, to be called again and again."""

    def __init__(self, function, inputs, mode, clouds=("x", "y")):
        self.function = function
        self.constants = inputs[len(clouds) :]
        self.clouds = [
            cloud.clone().requires_grad_(name in MODES[mode])
            for name, cloud in zip(clouds, inputs, strict=False)
        ]
        self.leaves = [c for c in self.clouds if c.requires_grad]

    def reset(self):
        """Drop the gradients of the last call."""
        for leaf in self.leaves:
            leaf.grad = None

    def __call__(self):
        """Value of each problem; gradients land in ``leaves``."""
        with torch.set_grad_enabled(bool(self.leaves)):
            value = self.function(*self.clouds, *self.constants)
        if self.leaves:
            if not value.requires_grad:
                raise NotImplementedError(NO_GRADIENT)
            value.backward(cotangent(value, self.clouds[0]))
        return value.detach()


def cotangent(value, cloud):
    """What is handed to backward: ones; for a matrix a problem, a weight of its own each entry."""
    matrix = value.shape[cloud.dim() - 2 :]
    if not matrix:
        return torch.ones_like(value)
    weights = torch.linspace(0.5, 1.5, matrix.numel(), dtype=value.dtype, device=value.device)
    return weights.view(matrix).expand_as(value).contiguous()


@dataclass(frozen=True)
class Errors:
    """Deviations from float64 relative to the largest reference entry, and their bounds.

    ``grad`` is the plain deviation; ``grad_excess`` is what is left of it where the slack of
    ``case.Expected`` does not explain it, and is what the bound holds for.
    """

    value: float
    bound_value: float
    grad: float | None = None
    grad_excess: float | None = None
    bound_grad: float | None = None

    @property
    def ok(self):
        """True if every deviation is within its bound; a NaN is not."""
        return self.value <= self.bound_value and (
            self.grad is None or self.grad_excess <= self.bound_grad
        )

    def with_gradient(self, grad, excess, bound):
        """The same with one more gradient; the worse one counts, and NaN is worst."""
        if self.grad is not None and not (excess > self.grad_excess or math.isnan(excess)):
            return self
        return Errors(self.value, self.bound_value, grad, excess, bound)


def bound(terms, dtype):
    """eps_out + sqrt(n) eps_acc: rounding of the result and of a chain of n additions."""
    return torch.finfo(dtype).eps * (1 + math.sqrt(terms))


def check(call, expected, own_error=(0.0, 0.0)):
    """Run ``call`` once and compare its value and gradients with ``expected``.

    ``own_error`` is added to the bounds of value and gradients (``case.Provider``). A provider that
    draws from torch's global stream does so from ``SEED``.
    """
    own_value, own_grad = own_error
    call.reset()
    torch.manual_seed(SEED)
    value = call()
    bound_value = own_value + bound(expected.terms_value, value.dtype)
    errors = Errors(_relative(value, expected.value), expected.condition_value * bound_value)
    for cloud, grad, slack in zip(call.clouds, expected.grads, expected.slack, strict=True):
        if cloud.requires_grad:
            errors = errors.with_gradient(
                _relative(cloud.grad, grad),
                _relative(cloud.grad, grad, slack),
                expected.condition_grad * (own_grad + bound(expected.terms_grad, cloud.dtype)),
            )
    return errors


def _relative(got, reference, slack=0.0):
    excess = ((got.double() - reference).abs() - slack).clamp(min=0)
    return (excess.max() / reference.abs().max()).item()


def warm_up(call):
    """Call until caches, thread pools and allocators have settled, at least twice."""
    start = time.perf_counter()
    for count in itertools.count(1):
        call.reset()
        call()
        if count >= 2 and (count >= WARM_UP_CALLS or time.perf_counter() - start > WARM_UP_SECONDS):
            return


def interleave(calls, read, seconds, rounds=MIN_ROUNDS):
    """Time all calls in turn, in a new order each round, for about ``seconds``.

    Args:
        calls: name -> object with reset() and __call__().
        read: function of such an object that calls it once; returns clock -> ms.
        seconds: budget for all rounds.
        rounds: so many are made at least.

    Returns:
        name -> clock -> list of ms.
    """
    readings = {name: {} for name in calls}
    names, order = list(calls), random.Random(0)
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(MAX_ROUNDS):
            if done >= rounds and time.perf_counter() - start > seconds:
                break
            order.shuffle(names)
            for name in names:
                calls[name].reset()
                for clock, ms in read(calls[name]).items():
                    readings[name].setdefault(clock, []).append(ms)
    finally:
        gc.enable()
    return readings
