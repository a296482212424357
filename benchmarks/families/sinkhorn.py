"""What a Sinkhorn divergence costs on the clouds of a sliced loss: other losses as yardsticks.

None of them computes what ``sliced_wasserstein`` does, so each is checked against a reference of
its own. The divergence is that of half the squared distance, debiased, with one schedule for all:
temperatures from the square of DIAMETER down to that of BLUR, each a quarter of the one before, so
that nobody's time holds a search for a diameter or a test for convergence.
"""

import contextlib
import dataclasses
import functools
import io
import math

import torch

import otkernels

from ..case import Expected, Family, Provider, Shape
from . import mmd, sliced
from .cupy_eigh import without_gpu

# --- shapes and inputs --------------------------------------------------------------------------

SHAPES = {
    "cpu": (
        Shape(1, 100, 8, 50, "models/: default batch"),
        Shape(1, 500, 8, 50, "models/: the batch of the published SWAE code"),
        Shape(1, 1024, 64, 128, "one batch of 1024 codes"),
    ),
    # One D: FlashSinkhorn compiles some eighty variants of its kernels for each.
    "cuda": tuple(
        Shape(1, n, 64, 128, f"one batch of {n} codes") for n in (1024, 4096, 16384, 65536)
    ),
    "smoke": (
        Shape(1, 48, 8, 16, "smoke"),
        Shape(1, 33, 5, 7, "smoke, unequal sizes", 20),
    ),
}

# Of two standard normal clouds in D dimensions, in roots of D: hardly any two points are further
# apart; and a twentieth of it.
DIAMETER, BLUR = 4.0, 0.2


def lengths(d):
    """The diameter and the blur in D dimensions."""
    return DIAMETER * math.sqrt(d), BLUR * math.sqrt(d)


def temperatures(d):
    """Of the steps, in order: the first one twice, quarters of it above the last one, the last."""
    diameter, blur = lengths(d)
    quarters = math.ceil(math.log(diameter / blur, 2))
    return [diameter**2, *(diameter**2 / 4**k for k in range(quarters)), blur**2]


# --- reference ----------------------------------------------------------------------------------

BLOCK = 2**24  # pairs of points held at a time


@torch.no_grad()
def expect(x, y, projections=None):
    """The divergence and its gradient to x in float64, by the same steps in blocks of rows.

    Symmetric steps (Feydy 2020, "Geometric data analysis, beyond convolutions", algorithm 3.5): all
    potentials from those before, averaged with these, and a last step that is not averaged and is
    the only one that gradients pass.

    A cost is rounded at the size of the squared norms behind it. Steps average over costs and pass
    on errors of potentials at most as they are: errors of the value and, over the last temperature,
    relative ones of the plan.
    """
    clouds = {"x": x.double(), "y": y.double()}
    potentials = {pair: x.new_zeros((), dtype=torch.float64) for pair in ("xy", "yx", "xx", "yy")}
    steps = temperatures(x.shape[-1])
    potentials, _ = _step(steps[0], clouds, potentials)
    for temperature in steps:
        after, _ = _step(temperature, clouds, potentials)
        potentials = {pair: (potentials[pair] + after[pair]) / 2 for pair in after}
    potentials, centres = _step(steps[-1], clouds, potentials)
    means = {pair: potential.mean() for pair, potential in potentials.items()}
    value = means["xy"] - means["xx"] + means["yx"] - means["yy"]
    grad = (centres["xx"] - centres["xy"]) / x.shape[-2]
    cost = sum(t.square().sum(-1).max().item() for t in clouds.values())
    apart = max(c.abs().max().item() for c in centres.values()) / x.shape[-2]
    return Expected(
        value,
        (grad,),
        (torch.zeros_like(grad),),
        terms_value=x.shape[-1],
        terms_grad=x.shape[-1],
        condition_value=cost / value.abs().item(),
        condition_grad=cost / steps[-1] * apart / grad.abs().max().item(),
    )


def _step(temperature, clouds, potentials):
    """Of each pair of clouds, the new potentials of the first one and the means of its plan."""
    done = {
        pair: _soft_minimum(temperature, *(clouds[name] for name in pair), potentials[pair[::-1]])
        for pair in potentials
    }
    return tuple({pair: both[i] for pair, both in done.items()} for i in range(2))


def _soft_minimum(temperature, p, q, potential):
    """-t log mean_j exp((g_j - |p_i - q_j|^2 / 2) / t), and of q the mean under these weights."""
    values, centres = [], []
    for rows in p.split(max(1, BLOCK // len(q))):
        r2 = rows.square().sum(-1)[:, None] + q.square().sum(-1) - 2 * rows @ q.mT
        logits = (potential - r2 / 2) / temperature
        values.append(-temperature * (logits.logsumexp(-1) - math.log(len(q))))
        centres.append(logits.softmax(-1) @ q)
    return torch.cat(values), torch.cat(centres)


def _expect_sliced(*inputs):
    return _to_x(sliced.expect(*inputs))


def _expect_mmd(x, y, projections):
    return _to_x(mmd.FAMILY.expect(x, y))


def _to_x(expected):
    """The same without the gradient to y."""
    return dataclasses.replace(expected, grads=expected.grads[:1], slack=expected.slack[:1])


# --- providers ----------------------------------------------------------------------------------


def _ours(x, y, projections):
    return otkernels.sliced_wasserstein(x, y, projections=projections)


def _mmd(x, y, projections):
    return mmd.ours(x, y)


def geomloss(backend):
    """GeomLoss' divergence; ImportError without its package or KeOps."""
    loss = functools.partial(mmd.samples_loss(backend), "sinkhorn", p=2, backend=backend)

    def function(x, y, projections):
        diameter, blur = lengths(x.shape[-1])
        return loss(blur=blur, diameter=diameter, scaling=0.5)(x, y)

    return function


def flash():
    """FlashSinkhorn's divergence with the steps of GeomLoss; ImportError without its package."""
    with contextlib.redirect_stdout(io.StringIO()):
        from flash_sinkhorn import SamplesLoss

    def function(x, y, projections):
        diameter, blur = lengths(x.shape[-1])
        settings = {"blur": blur, "diameter": diameter, "scaling": 0.5}
        return SamplesLoss("sinkhorn", half_cost=True, debias=True, **settings)(x, y)

    return function


LARGEST_KEOPS = 1e12  # pairs times D times passes over them; ten times that takes many seconds


def _too_slow(shapes, shape):
    passes = 4 * (len(temperatures(shape.D)) + 2)
    if mmd.pairs(shape) * shape.D * passes <= LARGEST_KEOPS:
        return None
    return f"{passes} passes over all pairs, too slow"


def rounded_to_tf32(shape):
    """FlashSinkhorn keeps 11 bits of a coordinate; costs over the last temperature lose more."""
    return 2**-11, 2**-9


def _yardstick(name, what, make, **rest):
    return Provider(name, what, make, yardstick=True, **rest)


_divergence = functools.partial(_yardstick, expect=expect)

PROVIDERS = (
    Provider("otkernels", "sliced_wasserstein as users call it", lambda: _ours, ours=True),
    _yardstick(
        "mmd", "otkernels.mmd, Gaussian kernel", lambda: _mmd, ours=True, expect=_expect_mmd
    ),
    _divergence(
        "geomloss",
        "SamplesLoss('sinkhorn'), backend tensorized",
        lambda: geomloss("tensorized"),
    ),
    _divergence(
        "keops",
        "SamplesLoss('sinkhorn'), backend online, which is KeOps",
        lambda: geomloss("online"),
        left_out=_too_slow,
        uncapturable=mmd.OF_KEOPS,
    ),
    _divergence(
        "flash-sinkhorn",
        "FlashSinkhorn's SamplesLoss, TF32 as it is by default",
        flash,
        own_error=rounded_to_tf32,
        left_out=without_gpu,
    ),
)

FAMILY = Family(
    op="sliced_wasserstein-sinkhorn",
    p=2,
    shapes=SHAPES,
    providers=PROVIDERS,
    inputs=sliced.inputs,
    expect=_expect_sliced,
    bytes=sliced.moved_bytes,
    flops=sliced.flops,
    size=lambda shape: shape.B * shape.N,
    size_label="points of a cloud, B N",
    clouds=("x",),
    comparisons=sliced.comparisons,
    note="Other losses of the same clouds, as yardsticks: none computes what `otkernels` does, and "
    "each is checked against a reference of its own. `geomloss`, `keops` and `flash-sinkhorn` are "
    "one debiased Sinkhorn divergence on one schedule: from 4 √D down to a blur of √D / 5 in "
    "halves. `mmd` is otkernels' own, with a Gaussian kernel.",
)
