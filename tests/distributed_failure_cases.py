"""What ranks return that were given what does not fit: cases for ``ranks.everywhere``."""

import copy
import functools
import pickle

import torch
from torch import distributed as dist
from torch.autograd import forward_ad

import otkernels
from otkernels import distributed

SIZE, ODD = 3, 1  # ranks, and which of them is unlike the others
FAMILIES = {
    "sliced_wasserstein": {"n_projections": 8},
    "mmd": {"bandwidth": 1.0},
    "gaussian_wasserstein": {"validate": True},
}
OPTION = {
    "sliced_wasserstein": {"p": 3},
    "mmd": {"kernel": "laplacian"},
    "gaussian_wasserstein": {"correction": 1},
}
# What the odd rank has, and what the message says of the others and of it.
CHANGES = {
    "dimension": ("x (N, 3) torch", "x (N, 4) torch"),
    "batch": ("x (N, 3) torch", "x (2, N, 3) torch"),
    "dtype": ("torch.float32", "torch.float64"),
    "gradient": ("float32, y", "float32 with gradient, y"),
    "weights": ("float32, y", "float32 with weights (N), y"),
    "option": ("", ""),
}
LONG = tuple(1 + k / 7 for k in range(150))  # bandwidths; as a text longer than what is sent


def outcome(call, *given, **options):
    """What is raised, as a text, or else what is returned."""
    try:
        return call(*given, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def points(batch=(), dtype=torch.float64):
    """Both clouds of all ranks, four points of each on every rank."""
    generator = torch.Generator().manual_seed(3)
    draws = (torch.randn(*batch, 4 * SIZE, 3, generator=generator, dtype=dtype) for _ in "xy")
    return tuple(draws)


def mine(rank, whole):
    return tuple(t[..., 4 * rank : 4 * rank + 4, :].clone() for t in whole)


# --- arguments that differ ----------------------------------------------------------------------


def differing(name, change, rank, size):
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    options = dict(FAMILIES[name])
    if rank == ODD:
        if change == "dimension":
            x, y = torch.randn(4, 4), torch.randn(5, 4)
        elif change == "batch":
            x = torch.randn(2, 4, 3)
        elif change == "dtype":
            x, y = x.double(), y.double()
        elif change == "gradient":
            x.requires_grad_()
        elif change == "weights":
            options["a"] = torch.ones(4)
        else:
            options |= OPTION[name]
    return outcome(getattr(distributed, name), x, y, **options)


def refused(name, rank, size):
    y = torch.randn(5, 2 if rank == ODD else 3)
    return outcome(getattr(distributed, name), torch.randn(4, 3), y, **FAMILIES[name])


def long_text(rank, size):
    return outcome(distributed.mmd, *mine(rank, points()), bandwidth=LONG)


def long_texts_that_differ(rank, size):
    bandwidth = (*LONG[:-1], 2.0) if rank == ODD else LONG
    return outcome(distributed.mmd, *mine(rank, points()), bandwidth=bandwidth)


def unlike(what, rank, size):
    """Arguments that only the odd rank has, in places that are easily forgotten."""
    x, y = mine(rank, points())
    odd = rank == ODD
    if what == "gradient to directions":
        theta = torch.ones(3, 2, dtype=torch.float64, requires_grad=odd)
        return outcome(distributed.sliced_wasserstein, x, y, projections=theta)
    if what == "bandwidths":
        bandwidth = torch.tensor([-1.0 if odd else 1.0])
        return outcome(distributed.mmd, x, y, bandwidth=bandwidth)
    loss = otkernels.MMDLoss(bandwidth=1.0, process_group="world")
    loss.set_reference(points()[1][: 5 if odd else 4])
    return outcome(loss, x, *([y] if odd and what == "reference" else []))


def same(rank, size):
    """Numbers that are equal, written in different ways."""
    p, bandwidth = (2.0, [1]) if rank == ODD else (2, 1.0)
    x, y = mine(rank, points())
    sliced = outcome(distributed.sliced_wasserstein, x, y, p=p)
    return sliced, outcome(distributed.mmd, x, y, bandwidth=bandwidth)


def nothing_counts(name, rank, size):
    given = mine(rank, points())
    if name == "mean_cov":
        options = {"correction": 4 * SIZE}
        return outcome(distributed.mean_cov, given[0], **options, validate=True)
    return outcome(getattr(distributed, name), *given, a=torch.zeros(4), validate=True)


# --- process groups -----------------------------------------------------------------------------


def outsider(rank, size):
    group = dist.new_group([r for r in range(size) if r != ODD])
    return outcome(distributed.mmd, *mine(rank, points()), process_group=group)


def alone(name, rank, size):
    """In a group of this rank only: value and gradient, there and without a group."""
    own, _ = dist.new_subgroups(1)
    x, y = mine(rank, points())
    x.requires_grad_()
    there = _smooth(distributed, name)(x, y, process_group=own)
    here = _smooth(otkernels, name)(x, y)
    return [there, here, *(torch.autograd.grad(value, x)[0] for value in (there, here))]


def copies(name, rank, size):
    """A loss, its copy, and what comes back from a pickle: that of the same points."""
    loss = getattr(otkernels, name)(process_group="world")
    given = mine(rank, points())
    values = []
    for module in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.manual_seed(0)
        values.append(module(*given))
    return values


# --- values and derivatives ---------------------------------------------------------------------


def spoilt(name, rank, size):
    """Value and gradients of two problems, a NaN in a point of the second on one rank."""
    x, y = mine(rank, points((2,)))
    if rank == ODD:
        x[1, 0, 0] = torch.nan
    x.requires_grad_()
    value = getattr(distributed, name)(x, y)
    value.sum().backward()
    return value.detach(), x.grad


def _twice(function, x, y, direction):
    """The gradient to x of the gradient along a direction."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x, y), x, create_graph=True)
    return torch.autograd.grad((gradient * direction).sum(), x)[0]


def _smooth(module, name):
    options = {"p": 3, "projections": torch.eye(3).double()} if name == "sliced_wasserstein" else {}
    return functools.partial(getattr(module, name), impl="torch", **options)


def second(name, rank, size):
    x, y = points()
    given = *mine(rank, (x, y)), *mine(rank, (x.sin(),))
    return outcome(_twice, _smooth(distributed, name), *given)


def second_in_one_process(name):
    x, y = points()
    return _twice(_smooth(otkernels, name), x, y, x.sin())


def forward_mode(name, rank, size):
    x, y = mine(rank, points())
    with forward_ad.dual_level():
        return outcome(_smooth(distributed, name), forward_ad.make_dual(x, x), y)


def _cases():
    cases = {}
    for name in FAMILIES:
        for change in CHANGES:
            cases[f"{change}, {name}"] = functools.partial(differing, name, change)
        for case in (refused, alone, spoilt, second, forward_mode):
            cases[f"{case.__name__}, {name}"] = functools.partial(case, name)
    for name in ("SlicedWassersteinLoss", "MMDLoss", "GaussianWassersteinLoss"):
        cases[f"copies, {name}"] = functools.partial(copies, name)
    for what in ("gradient to directions", "bandwidths", "reference", "size of the reference"):
        cases[what] = functools.partial(unlike, what)
    for name in ("sliced_wasserstein", "mmd", "gaussian_wasserstein", "mean_cov"):
        cases[f"nothing counts, {name}"] = functools.partial(nothing_counts, name)
    for case in (long_text, long_texts_that_differ, outsider, same):
        cases[case.__name__] = case
    return tuple(cases.items())


CASES = _cases()
