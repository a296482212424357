"""Profiles of kernels on tiles of scaled distances, in place: the kernel and its slope.

A tile is read and written once for each of its operations, some 0.2 ns an element in cache, and
``exp2`` takes as long as four of them.

"polynomial" is a profile of <x, y>, which then stands in place of |x-y|^2.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

LOG2_E = 1 / math.log(2)


class Form(NamedTuple):
    """How a profile is evaluated.

    Attributes:
        evaluate: (t, spare, need) -> (kernel, slope), both in the memory of the two tiles given;
            without need of a slope it may be None. Where slope and kernel agree they are one.
        scale: t is scale(rate) |x-y|^2 + shift.
        slope: slope(rate) times the slope is the derivative of the kernel to |x-y|^2.
        shift: see scale.
        root: t is scale(rate) |x-y| instead.
    """

    evaluate: Callable
    scale: Callable
    slope: Callable
    shift: float = 0.0
    root: bool = False


def _gaussian(t, spare, need):
    t.exp2_()
    return t, t


def _laplacian(t, spare, need):
    kernel = torch.exp2(t, out=spare)
    return kernel, torch.div(kernel, _not_zero(t, t), out=t) if need else None


def _cauchy(t, spare, need):
    t.reciprocal_()
    return t, torch.mul(t, t, out=spare) if need else None


def _energy(t, spare, need):
    return t, _not_zero(t, spare).reciprocal_() if need else None


def _not_zero(t, out):
    """Distances t <= 0 kept off 0: only a finite slope is nothing times a difference of 0."""
    return torch.clamp_max(t, -(torch.finfo(t.dtype).tiny ** 0.5), out=out)


def _polynomial(t, spare, need):
    square = torch.mul(t, t, out=spare)
    return t.mul_(square), square


# exp2 and not exp: the latter is slow where torch's MKL does not know the processor.
FORMS = {
    "gaussian": Form(_gaussian, lambda rate: -LOG2_E * rate, lambda rate: -rate),
    "laplacian": Form(
        _laplacian, lambda rate: -LOG2_E * rate.sqrt(), lambda rate: LOG2_E / 2 * rate, root=True
    ),
    "cauchy": Form(_cauchy, lambda rate: rate, lambda rate: -rate, shift=1.0),
    "energy": Form(_energy, lambda rate: -rate.sqrt(), lambda rate: rate / 2, root=True),
    "polynomial": Form(_polynomial, lambda rate: rate, lambda rate: 3 * rate, shift=1.0),
}
