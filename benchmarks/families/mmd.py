"""Maximum mean discrepancy of a Gaussian kernel against its peers.

The bandwidth is fixed by D, so that nobody's time holds a search for one.
"""

import contextlib
import dataclasses
import functools
import io
import math

import torch

import otkernels

from ..case import Family, Goal, Provider, Shape
from . import kernel_reference, sliced

# --- shapes and inputs --------------------------------------------------------------------------


def one(n, d, reason):
    """The shape of one problem of n points on each side."""
    return Shape(1, n, d, None, reason)


WAE_BATCHES = tuple(one(n, 8, f"a batch of {n} codes of a WAE") for n in (100, 500))
MANY = Shape(64, 128, 16, None, "many small problems")
SMOKE = (
    one(32, 6, "smoke"),
    Shape(2, 21, 5, None, "smoke, a batch of unequal sizes", 13),
)
SHAPES = {
    "cpu": (
        *(one(n, d, "goal: one batch") for n, d in ((1024, 16), (4096, 64), (10000, 64))),
        *WAE_BATCHES,
        MANY,
        one(40000, 64, "goal: linear memory"),
    ),
    "cuda": (
        one(1024, 64, "goal M1: launches"),
        one(4096, 64, "goal M2: one batch"),
        one(16384, 64, "goal M3: one large batch"),
        *(one(65536, d, "goal M4: matrices of 17 GB") for d in (8, 64, 512)),
        *(one(1_000_000, d, "goal M5: a point cloud") for d in (8, 64)),
        *WAE_BATCHES,
        MANY,
    ),
    "memory": tuple(one(40000 // 2**k, 64, "growth with N") for k in range(6, -1, -1)),
    "smoke": SMOKE,
}


def inputs(shape):
    """The clouds of the sliced losses."""
    return sliced.inputs(dataclasses.replace(shape, L=1))[:2]


def scale(x):
    """A bandwidth: the root of half the mean squared distance of two standard normal points."""
    return math.sqrt(x.shape[-1])


# --- providers ----------------------------------------------------------------------------------


def ours(x, y, impl=None):
    """The loss of the library."""
    return otkernels.mmd(x, y, bandwidth=scale(x), impl=impl)


def careful(x, y):
    """What someone who knows torch writes: centred, one product a matrix, the rest in place."""
    centre = torch.cat([x.detach(), y.detach()], dim=-2).mean(-2, keepdim=True)
    x, y = ((t - centre) / scale(t) for t in (x, y))

    def mean(p, q):
        p2, q2 = (t.square().sum(-1) / 2 for t in (p, q))
        exponent = (p @ q.mT).sub_(p2[..., :, None]).sub_(q2[..., None, :])
        return exponent.exp_().mean((-2, -1))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _compiled():
    # A graph of an earlier shape would count towards the limit of recompilations.
    torch.compiler.reset()
    return torch.compile(careful, fullgraph=True, dynamic=False)


def with_cdist(x, y):
    """The shortest code: exp of squared torch.cdist."""

    def mean(p, q):
        return torch.exp(torch.cdist(p, q).square() / (-2 * scale(x) ** 2)).mean((-2, -1))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def samples_loss(backend):
    """GeomLoss' class; ImportError without its package or, for "online", KeOps."""
    # KeOps prints about CUDA when it is imported.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if backend == "online":
            import pykeops

            pykeops.set_verbose(False)
        from geomloss import SamplesLoss
    return SamplesLoss


def geomloss(name, backend):
    """GeomLoss' loss, twice for its factor 1/2; ImportError without its package or KeOps."""
    loss = samples_loss(backend)
    return lambda x, y: 2 * loss(name, blur=scale(x), backend=backend)(x, y)


# --- where a provider is left out ---------------------------------------------------------------

LARGEST_ARRAY = 5e8  # bytes of one array of a provider that holds several; a GPU just refuses
LARGEST_OF_OURS = 5e9  # the same of ours on a GPU, where to be refused would be a failure
LARGEST_KEOPS = {"cpu": 1e10, "memory": 3e10, "cuda": 1e13}  # pairs times D
OF_KEOPS = "not tried: KeOps launches on the default stream and waits for it"


def pairs(shape):
    """How many pairs of a point x and a point y there are."""
    return shape.B * shape.N * (shape.M or shape.N)


def _holds(numbers, on_gpu=math.inf):
    """A rule for a provider that holds arrays of so many float32 numbers a pair."""

    def left_out(shapes, shape):
        size = 4 * pairs(shape) * numbers(shape)
        if size <= (on_gpu if shapes == "cuda" else LARGEST_ARRAY):
            return None
        return f"would hold several arrays of {size / 1e9:.2g} GB"

    return left_out


def _too_slow(shapes, shape):
    largest = LARGEST_KEOPS.get(shapes, math.inf)
    return (
        f"over {largest:.0e} pairs times D, too slow" if pairs(shape) * shape.D > largest else None
    )


def definition(function):
    """The provider of a function with impl="torch"."""
    return Provider(
        "definition",
        "the same with impl='torch', which holds all differences of points",
        lambda: functools.partial(function, impl="torch"),
        ours=True,
        left_out=_holds(lambda shape: shape.D, on_gpu=LARGEST_OF_OURS),
    )


dense = functools.partial(Provider, left_out=_holds(lambda shape: 1))


def geomloss_providers(name):
    """Both of GeomLoss' exact backends for a kernel."""
    what = f"2 SamplesLoss({name!r}), backend"
    return (
        dense("geomloss", f"{what} tensorized", lambda: geomloss(name, "tensorized")),
        Provider(
            "keops",
            f"{what} online, which is KeOps",
            lambda: geomloss(name, "online"),
            left_out=_too_slow,
            uncapturable=OF_KEOPS,
        ),
    )


PROVIDERS = (
    Provider("otkernels", "mmd as users call it", lambda: ours, ours=True),
    definition(ours),
    dense("torch", "centred, x @ y.T, the rest in place", lambda: careful),
    dense("torch.compile", "the same, compiled for the shape", _compiled, per_shape=True),
    dense("torch.cdist", "exp of squared torch.cdist", lambda: with_cdist),
    *geomloss_providers("gaussian"),
)

# --- costs and goals ----------------------------------------------------------------------------


def moved_bytes(shape, n_grads, itemsize):
    """Both clouds read once, each gradient written once."""
    sizes = shape.N, shape.M or shape.N
    return itemsize * shape.B * shape.D * (sum(sizes) + sum(sizes[:n_grads]))


def distances(shape):
    """Pairs of two points of either cloud, each once: those within a cloud are symmetric."""
    n, m = shape.N, shape.M or shape.N
    return shape.B * (n * (n - 1) // 2 + m * (m - 1) // 2 + n * m)


def flops(shape, n_grads):
    """A product for each distance, and for a gradient one for each point and each other point."""
    n, m = shape.N, shape.M or shape.N
    pairs_of_gradients = shape.B * (n + m - 1) * sum((n, m)[:n_grads])
    return 2 * shape.D * (distances(shape) + pairs_of_gradients)


def exponentials(shape, n_grads):
    """One for each distance: those of bandwidths in ratio 2 can be had from one by squaring."""
    return distances(shape)


def _cuda_goals(n, d, ms, tensorized=None, keops=None):
    shape = one(n, d, "").name
    peers = {"geomloss": tensorized, "keops": keops}
    return (
        Goal("cuda", shape, "graph", "ms", ms),
        *(Goal("cuda", shape, "wall", "speedup", t, p) for p, t in peers.items() if t),
    )


BOUND = "float32 products and exponentials fill the time"

GOALS = (
    Goal("cpu", "B1-N1024-D16", "wall", "speedup", 9, "geomloss", BOUND),
    Goal("cpu", "B1-N4096-D64", "wall", "speedup", 15, "geomloss", BOUND),
    Goal("cpu", "B1-N10000-D64", "wall", "speedup", 23, "geomloss", BOUND),
    *_cuda_goals(1024, 64, 0.025, 6, 12),
    Goal("cuda", "B1-N1024-D64", "wall", "ms", 0.130),
    *_cuda_goals(4096, 64, 0.070, 10, 12),
    *_cuda_goals(16384, 64, 1.0, 20, 25),
    *_cuda_goals(65536, 8, 5, keops=10),
    *_cuda_goals(65536, 64, 15, keops=25),
    *_cuda_goals(65536, 512, 95, keops=50),
    *_cuda_goals(1_000_000, 8, 1200, keops=10),
    *_cuda_goals(1_000_000, 64, 3500),  # KeOps would take minutes a call, see LARGEST_KEOPS
)

# --- families -----------------------------------------------------------------------------------


def reference(kernel, bandwidths=lambda x: (None,), **options):
    """A family's ``expect`` for a kernel of ``kernel_reference``."""
    return lambda x, y: kernel_reference.expect(x, y, kernel, bandwidths(x), **options)


def scales(x):
    """The one bandwidth."""
    return (scale(x),)


family = functools.partial(
    Family,
    p=None,
    inputs=inputs,
    bytes=moved_bytes,
    flops=flops,
    size=pairs,
    size_label="pairs of points, B N M",
)

FAMILY = family(
    op="mmd",
    shapes=SHAPES,
    providers=PROVIDERS,
    expect=reference(kernel_reference.gaussian, scales),
    goals=GOALS,
    exponentials=exponentials,
    note="Gaussian kernel of one bandwidth, the root of D.",
)
