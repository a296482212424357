"""Losses of the global batch on ranks, and of the same points in one process."""

import functools

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import otkernels
from otkernels import distributed

# How many points of x and of y each rank has.
SIZES = {1: ([7], [9]), 2: ([5, 2], [3, 6]), 4: ([3, 0, 1, 3], [2, 4, 0, 3])}
AXES = {"x": -2, "y": -2, "a": -1, "b": -1}


def directions(d=3, n=5):
    generator = torch.Generator().manual_seed(3)
    return torch.nn.functional.normalize(torch.randn(d, n, generator=generator), dim=0)


def curved(points):
    """Slices that are no projections."""
    return torch.cat([points, points.square(), points.sin()], -1)


# --- problems -----------------------------------------------------------------------------------


def problem(size, *, names="xy", batch=(), weights=False, dtype=torch.float32, offset=2.0):
    """The points and weights of all ranks."""
    generator = torch.Generator().manual_seed(1)
    n, m = (sum(sizes) for sizes in SIZES[size])
    shapes = {"x": (*batch, n, 3), "y": (m, 3)}
    given = {
        name: torch.randn(shapes[name], generator=generator, dtype=torch.float64) for name in names
    }
    given["x"] = 0.7 * given["x"] + offset
    given = {name: points.to(dtype) for name, points in given.items()}
    if weights:
        for name, shape in zip("ab", [(n,), (*batch, m)], strict=True):
            if {"a": "x", "b": "y"}[name] in names:
                given[name] = torch.rand(shape, generator=generator)
    return given


def lengths(size, name):
    """How many of each rank's points count in either of two problems."""
    sizes = torch.tensor(SIZES[size]["xy".index(name)])
    return torch.stack([sizes, (sizes + 1) // 2], -1)


def sizes_of(size, name):
    return SIZES[size][name in "yb"]


def split(given, rank, size):
    """This rank's part."""
    return {
        name: whole.split(sizes_of(size, name), AXES[name])[rank].clone()
        for name, whole in given.items()
    }


def evaluate(function, given):
    """Value, and the gradients of its sum."""
    leaves = {name: t.detach().requires_grad_() for name, t in given.items()}
    value = function(**leaves)
    value.sum().backward()
    return {"value": value.detach(), **{name: t.grad for name, t in leaves.items()}}


# --- in one process -----------------------------------------------------------------------------


def alone(name, kind, options, size):
    return evaluate(functools.partial(getattr(otkernels, name), **options), problem(size, **kind))


def alone_ragged(name, kind, options, size):
    """Each problem for itself, without padding."""
    function = getattr(otkernels, name)

    def loss(**given):
        values = []
        for b in range(2):
            own = {}
            for side, whole in given.items():
                kept = zip(sizes_of(size, side), lengths(size, side)[:, b], strict=True)
                parts = zip(whole[b].split(sizes_of(size, side), -2), kept, strict=True)
                own[side] = torch.cat([part[:count] for part, (_, count) in parts], -2)
            values.append(function(**own, **options))
        return torch.stack(values)

    return evaluate(loss, both_batched(kind, size))


def both_batched(kind, size):
    given = problem(size, batch=(2,), **kind)
    return {name: t.expand(2, -1, -1).clone() for name, t in given.items()}


def alone_module(name, options, size):
    torch.manual_seed(0)
    loss, given = getattr(otkernels, name)(**options), problem(size, names=names_of(name))
    return evaluate(loss, given)


def names_of(name):
    return "x" if "Normal" in name or name == "mean_cov" else "xy"


# --- on ranks -----------------------------------------------------------------------------------


def shared(name, kind, options, rank, size):
    function = functools.partial(getattr(distributed, name), **options)
    return evaluate(function, split(problem(size, **kind), rank, size))


def shared_ragged(name, kind, options, rank, size):
    given = split(both_batched(kind, size), rank, size)
    counts = {f"{side}_lengths": lengths(size, side)[rank] for side in given}
    for side, points in given.items():  # what stands in the padding must not matter
        for b, count in enumerate(counts[f"{side}_lengths"]):
            points[b, count:] = torch.nan
    function = functools.partial(getattr(distributed, name), **options, **counts)
    return evaluate(function, given)


def shared_module(name, options, rank, size):
    torch.manual_seed(rank)  # only the first rank's directions count
    loss = getattr(otkernels, name)(**options, process_group="world")
    return evaluate(loss, split(problem(size, names=names_of(name)), rank, size))


def shared_reference(rank, size):
    """The reference is the whole one, on all ranks."""
    given = problem(size)
    loss = otkernels.MMDLoss("imq", process_group="world")
    loss.set_reference(given.pop("y"))
    return evaluate(loss, split(given, rank, size))


def alone_reference(size):
    given, loss = problem(size), otkernels.MMDLoss("imq")
    loss.set_reference(given.pop("y"))
    return evaluate(loss, given)


def shared_moments(rank, size):
    given = split(problem(size, names="x", weights=True), rank, size)
    return evaluate(functools.partial(_of_moments, distributed.mean_cov), given)


def alone_moments(size):
    given = problem(size, names="x", weights=True)
    return evaluate(functools.partial(_of_moments, otkernels.mean_cov), given)


def _of_moments(function, x, a):
    mean, cov = function(x, weights=a, correction=1)
    return torch.cat([mean.sin(), cov.sin().flatten(-2)], -1)


def own_directions(rank, size):
    """Each rank has its copy of the directions, as of a parameter."""
    theta = directions().requires_grad_()
    given = split(problem(size), rank, size)
    distributed.sliced_wasserstein(**given, projections=theta).backward()
    return theta.grad


def own_factors(rank, size):
    """Each rank weighs the loss in its own way."""
    given = split(problem(size), rank, size)

    def loss(x, y, name, options):
        return (rank + 1) * getattr(distributed, name)(x, y, **options)

    return {
        name: evaluate(functools.partial(loss, name=name, options=options), given)["x"]
        for name, options in FACTORS.items()
    }


FACTORS = {
    "sliced_wasserstein": {"projections": directions()},
    "energy_distance": {},
    "gaussian_wasserstein": {},
}


def encoder():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def data_parallel(name, options, rank, size):
    """Gradients of an encoder's parameters as DistributedDataParallel leaves them."""
    model, loss = encoder(), getattr(otkernels, name)(**options, process_group="world")
    return gradients(DistributedDataParallel(model), loss, split(problem(size), rank, size))


def not_parallel(name, options, size):
    return gradients(encoder(), getattr(otkernels, name)(**options), problem(size))


def gradients(model, loss, given):
    loss(model(given["x"]), given["y"][:, :2]).backward()
    return [p.grad for p in model.parameters()]


def subgroups(rank, size):
    """Two losses at once, of ranks 0 and 2 and of ranks 1 and 3."""
    groups = [dist.new_group(ranks) for ranks in ([0, 2], [1, 3])]
    given = split(problem(2), rank // 2, 2)
    given["x"] = given["x"] + rank % 2
    return distributed.energy_distance(**given, process_group=groups[rank % 2])
