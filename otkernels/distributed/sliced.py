"""Sliced Wasserstein distances of the global batch: each rank takes its share of the directions.

A sort needs the points of all ranks, so they are gathered, and each rank averages the cost over
L / R of the L directions. It sorts 1/R of what one process would; it receives all points, and sends
a gradient of that size on the way back.
"""

from torch import Generator, Tensor

from .. import _check, _transforms
from .._results import nan_everywhere, root_and_reduce
from .._slicing import directions
from .._types import Group, Impl, Method, Reduction, Slices
from ..sliced import sliced_wasserstein as of_points
from ..sliced_to_normal import sliced_wasserstein_to_normal as of_points_to_normal
from ._ranks import WORLD, Ranks
from ._shares import Shares, checked

__all__ = ["sliced_wasserstein", "sliced_wasserstein_to_normal"]


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2,
    n_projections: int = 128,
    projections: Tensor | Slices | None = None,
    method: Method = "gaussian",
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    generator: Generator | None = None,
    root: bool = False,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.sliced_wasserstein` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        y: (..., M, D) points of this rank, likewise.
        p: exponent, any number of at least 1.
        n_projections: number L of directions of all ranks together.
        projections: (D, L) or (..., D, L) directions, the same on all ranks, or a callable that
            returns slices (..., N, L) of this rank's points. None: drawn by each rank, and those of
            the first rank are used.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        a: (..., N) weights of x on this rank; the total of all ranks is one.
        b: (..., M) the same for y.
        x_lengths: (...) how many points of each cloud of x count on this rank.
        y_lengths: (...) the same for y.
        generator: source of the drawn directions.
        root: return the p-th root.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too: points and weights finite, weights not negative.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Gradients: x, y, a, b and given projections, of the sum of the ranks' losses: R times those of
        the loss, on R ranks, which the mean over ranks of DistributedDataParallel makes right.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`otkernels.sliced_wasserstein`; no
            process group; arguments that differ between ranks.
        RuntimeError: another rank has refused its arguments.

    Cost: 1/R of the work of one process. Each rank receives (N + M) D numbers, and sends as many
        for the gradient; it waits for the GPU once, to learn how many points others have.
    """
    function = "distributed.sliced_wasserstein"
    weights, lengths = (a, b), (x_lengths, y_lengths)
    ranks = Ranks(function, process_group)
    lines = _Lines(ranks, projections, n_projections, method, generator)

    def prepare():
        _check.one_of(function, "reduction", reduction, _check.REDUCTIONS)
        _check.exponent(function, p)
        measures = checked(function, (x, y), weights, lengths, validate)
        if callable(projections):
            slices = tuple(projections(measures.own_points(k)) for k in (0, 1))
            measures = checked(function, slices, weights, lengths, validate)
        else:
            lines.check(x, validate)
        return measures, {"p": float(p), "impl": impl, **lines.described()}

    shares = Shares(ranks, ("x", "y"), _device(x), prepare)
    if validate:
        shares.require_points()
    (x, a, x_lengths), (y, b, y_lengths) = shares.whole(0), shares.whole(1)
    theta, part = lines.share(x)
    given = {"a": a, "b": b, "x_lengths": x_lengths, "y_lengths": y_lengths}
    value = of_points(x, y, p=p, projections=theta, impl=impl, **given)
    return root_and_reduce(nan_everywhere(ranks.sum(value * part)), p, root, reduction)


def sliced_wasserstein_to_normal(
    x: Tensor,
    *,
    n_projections: int = 128,
    projections: Tensor | None = None,
    method: Method = "gaussian",
    x_lengths: Tensor | None = None,
    generator: Generator | None = None,
    root: bool = False,
    reduction: Reduction = "none",
    validate: bool = False,
    impl: Impl | None = None,
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.sliced_wasserstein_to_normal` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        n_projections: number L of directions of all ranks together.
        projections: (D, L) or (..., D, L) directions, the same on all ranks. None: drawn by each
            rank, and those of the first rank are used.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        x_lengths: (...) how many points of each cloud count on this rank.
        generator: source of the drawn directions.
        root: return the square root of the mean.
        reduction: "none", "mean" or "sum" over the leading axes.
        validate: check values too: points finite.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Gradients, errors, cost: as :func:`sliced_wasserstein`.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as :func:`sliced_wasserstein`.
    """
    function = "distributed.sliced_wasserstein_to_normal"
    ranks = Ranks(function, process_group)
    lines = _Lines(ranks, projections, n_projections, method, generator)

    def prepare():
        _check.one_of(function, "reduction", reduction, _check.REDUCTIONS)
        measures = checked(function, (x,), (None,), (x_lengths,), validate)
        lines.check(x, validate)
        return measures, {"impl": impl, **lines.described()}

    shares = Shares(ranks, ("x",), _device(x), prepare)
    if validate:
        shares.require_points()
    x, _, x_lengths = shares.whole(0)
    theta, part = lines.share(x)
    value = of_points_to_normal(x, projections=theta, x_lengths=x_lengths, impl=impl)
    return root_and_reduce(nan_everywhere(ranks.sum(value * part)), 2, root, reduction)


class _Lines:
    """The directions of a call, or the slices, and which of them are this rank's."""

    def __init__(self, ranks, given, n_projections, method, generator):
        self.ranks = ranks
        self.given = given
        self.drawn = n_projections, method, generator
        self.theta = None

    def check(self, x, validate):
        """Check, and draw, directions for points x."""
        self.theta = directions(self.ranks.function, x, self.given, *self.drawn, validate)

    def described(self):
        """What must be the same on all ranks."""
        if self.given is None:
            return {"n_projections": self.drawn[0], "method": self.drawn[1]}
        if callable(self.given):
            return {"projections": "callable"}
        gradient = " with gradient" * _transforms.needs_grad(self.given)
        return {"projections": f"{tuple(self.given.shape)}{gradient}"}

    def share(self, points):
        """Projections of the gathered points for this rank, and what they count in the mean."""
        n = points.shape[-1] if self.theta is None else self.theta.shape[-1]
        mine = self.ranks.share(n)
        part = (mine.stop - mine.start) / n
        if not part:  # it must take part in the gradient's exchange all the same
            mine = slice(0, 1)
        if self.theta is None:
            return (lambda slices: slices[..., mine]), part
        theta = self.ranks.first(self.theta) if self.given is None else self.theta
        return theta[..., mine], part


def _device(x):
    """The device of what should be a tensor."""
    return getattr(x, "device", None)
