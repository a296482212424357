"""MMD and energy distance of the global batch: each rank its points against those of all ranks.

The points of all ranks are gathered, without gradient: that of a pair within a cloud is the same
seen from both of its points, so a rank that takes each pair with one of its own points twice has
the whole gradient to them, and nothing is sent on the way back.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import _check, _ops, _transforms
from .. import bandwidth as bandwidths
from .._kernel_sums import diagonal_sum, pair_sums
from .._measures import Measures, nan_out_of_range, normalised
from .._results import nan_everywhere, root_and_reduce
from .._types import Bandwidth, Group, Impl, Kernel, Precision, Reduction
from ..mmd import check_options
from ._ranks import WORLD, Ranks
from ._shares import Shares, checked, described

__all__ = ["energy_distance", "mmd"]

WITHIN, BETWEEN = (True, False, False), (False, False, True)


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = "gaussian",
    bandwidth: Bandwidth = "median",
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    unbiased: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    precision: Precision = "full",
    validate: bool = False,
    impl: Impl | None = None,
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.mmd` of the points of all ranks, on each of them.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        y: (..., M, D) points of this rank, likewise.
        kernel: see :func:`otkernels.mmd`.
        bandwidth: see :func:`otkernels.mmd`; a tensor must be the same on all ranks. "median" is
            that of the points of all ranks.
        a: (..., N) weights of x on this rank; the total of all ranks is one.
        b: (..., M) the same for y.
        x_lengths: (...) how many points of each cloud of x count on this rank.
        y_lengths: (...) the same for y.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        reduction: "none", "mean" or "sum" over the leading axes.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        validate: check values too: points and weights finite, weights not negative.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Gradients: x, y, a and b, of the sum of the ranks' losses: R times those of the loss, on R
        ranks, which the mean over ranks of DistributedDataParallel makes right. First order only,
        with every impl: a second derivative raises.

    Raises:
        ValueError, TypeError, NotImplementedError: as :func:`otkernels.mmd`; no process group;
            arguments that differ between ranks.
        RuntimeError: another rank has refused its arguments.

    Cost: N_r points of N and M_r of M on a rank make N_r N + M_r M + N_r M pairs there, and M_r N
        more for a gradient to y or b. It receives (N + M) D numbers and waits for the GPU once, to
        learn how many points others have.
    """
    options = {"unbiased": unbiased, "squared": squared, "reduction": reduction}
    options |= {"precision": precision, "validate": validate, "impl": impl}
    weights, lengths = (a, b), (x_lengths, y_lengths)
    return answer(
        "distributed.mmd", x, y, weights, lengths, kernel, bandwidth, process_group, **options
    )


def energy_distance(
    x: Tensor,
    y: Tensor,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    unbiased: bool = False,
    squared: bool = True,
    reduction: Reduction = "none",
    precision: Precision = "full",
    validate: bool = False,
    impl: Impl | None = None,
    process_group: Group = WORLD,
) -> Tensor:
    """:func:`otkernels.energy_distance` of the points of all ranks, on each of them.

    ``mmd(x, y, kernel="energy")``; arguments, gradients, errors and cost as of :func:`mmd`.

    Args:
        x: (..., N, D) points of this rank. N may differ from rank to rank and be 0 on some.
        y: (..., M, D) points of this rank, likewise.
        a: (..., N) weights of x on this rank; the total of all ranks is one.
        b: (..., M) the same for y.
        x_lengths: (...) how many points of each cloud of x count on this rank.
        y_lengths: (...) the same for y.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        reduction: "none", "mean" or "sum" over the leading axes.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        validate: check values too: points and weights finite, weights not negative.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        process_group: "world" or a torch.distributed.ProcessGroup.

    Returns:
        (...) tensor, or () after a reduction: the same number on all ranks.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as :func:`mmd`.
    """
    options = {"unbiased": unbiased, "squared": squared, "reduction": reduction}
    options |= {"precision": precision, "validate": validate, "impl": impl}
    weights, lengths, function = (a, b), (x_lengths, y_lengths), "distributed.energy_distance"
    return answer(function, x, y, weights, lengths, "energy", "median", process_group, **options)


def answer(
    function,
    x,
    y,
    weights,
    lengths,
    kernel,
    bandwidth,
    process_group,
    *,
    unbiased,
    squared,
    reduction,
    precision,
    validate,
    impl,
    within_y=None,
):
    """A call of the public ``function``.

    With ``within_y (...)``, the term of y alone, y is the same on all ranks and has no gradient.
    """
    shared = 2 if within_y is None else 1  # how many of the sets the ranks have shares of

    def prepare():
        check_options(function, kernel, unbiased, squared, reduction, precision)
        _check.clouds(function, x, y, least=0)
        given = (x, y)[:shared], weights[:shared], lengths[:shared]
        measures = checked(function, *given, validate)
        options = {"kernel": kernel, "unbiased": unbiased, "precision": precision, "impl": impl}
        options["bandwidth"] = _alike(measures, kernel, bandwidth, validate)
        if within_y is not None:
            options["reference"] = described("y", y, weights[1], lengths[1], str(y.shape[-2]))
        return measures, options

    ranks = Ranks(function, process_group)
    shares = Shares(ranks, "xy"[:shared], getattr(x, "device", None), prepare)
    if validate:
        shares.require_points()
    for name, sizes in zip("xy", shares.sizes, strict=False):
        condition = "have at least two points with unbiased=True"
        _check.require(sum(sizes) > 1 or not unbiased, function, name, condition, sum(sizes))
    impl = _ops.choose_impl(function, impl, x.device)
    with _ops.without_autocast(x.device):
        sides = [_Side.of(shares, k) for k in range(shared)]
        whole = [side.whole for side in sides]
        if within_y is not None:
            whole.append(_Cloud.known(function, y, weights[1], lengths[1]))
        rates, batch = _rates(shares, whole, lengths[1], kernel, bandwidth, validate)
        sums = _Sums(ranks, batch, rates, kernel, unbiased, precision == "fast", impl)
        value = ranks.sum(sums.discrepancy(sides, whole))
        value = nan_everywhere(value if within_y is None else value + within_y)
        value = value.to(_ops.accumulation_dtype(x.dtype))
        return root_and_reduce(value, 2, not squared, reduction)


def _alike(measures, kernel, bandwidth, validate):
    """What must be alike on all ranks of a bandwidth, which is checked."""
    if isinstance(bandwidth, torch.Tensor):
        bandwidths.rates(measures, kernel, bandwidth, validate)
        return tuple(bandwidth.shape)
    numbers = bandwidths.check(measures.function, kernel, bandwidth)
    return tuple(map(float, numbers)) or bandwidth


def _rates(shares, whole, y_lengths, kernel, bandwidth, validate):
    """Rates of the kernel for the points of all ranks, and the batch including a bandwidth's."""
    given, lengths = [cloud.points for cloud in whole], [None, y_lengths]
    for k in range(len(shares.sizes)):
        given[k], _, lengths[k] = shares.packed(k, given[k])
    function, uniform = shares.measures.function, (None, None)
    measures = Measures(function, -2, ("x", "y"), given, uniform, lengths, validate=False)
    measures.include("x", shares.measures.batch)
    rates = bandwidths.rates(measures, kernel, bandwidth, validate)
    return rates, measures.batch


class _Cloud(NamedTuple):
    """Points (..., N, D) in the accumulation dtype and masses (..., N), float64."""

    points: Tensor
    masses: Tensor

    @classmethod
    def known(cls, function, points, weights, lengths):
        """The cloud that all ranks have, of total one."""
        weights, lengths = (weights, weights), (lengths, lengths)
        measures = Measures(function, -2, "yy", (points, points), weights, lengths, validate=False)
        masses = normalised(measures.own_weights(0))
        if lengths[0] is not None:
            masses = nan_out_of_range(masses, measures.sizes[0], lengths[0][..., None])
        return cls(measures.own_points(0).to(_ops.accumulation_dtype(points.dtype)), masses)

    def without(self, start, stop):
        """The cloud without points ``start`` to ``stop``."""
        points, masses = self
        points = torch.cat([points[..., :start, :], points[..., stop:, :]], -2)
        return _Cloud(points, torch.cat([masses[..., :start], masses[..., stop:]], -1))

    def on(self, batch):
        """Points and masses on the whole batch."""
        return self.points.expand(*batch, -1, -1), self.masses.expand(*batch, -1)


class _Side(NamedTuple):
    """One cloud: the points of this rank, with gradient, of all ranks, and of the others."""

    own: _Cloud
    whole: _Cloud
    others: _Cloud

    @classmethod
    def of(cls, shares, k):
        """Set k of the shares."""
        own = shares.measures.own_points(k), shares.masses(k)
        points = own[0].to(_ops.accumulation_dtype(own[0].dtype))
        with torch.no_grad():
            whole = _Cloud(shares.gather(points, k, -2), shares.all_masses(k, own[1]))
        start = sum(shares.sizes[k][: shares.ranks.rank])
        others = whole.without(start, start + points.shape[-2])
        own = _Cloud(_FirstOrderOnly.apply(points), _FirstOrderOnly.apply(own[1]))
        if not points.shape[-2]:  # a point of no mass: this rank, too, takes part in the exchanges
            own = _Cloud(pad(own.points, (0, 0, 0, 1)), pad(own.masses, (0, 1)))
        return cls(own, whole, others)


class _Sums:
    """This rank's part of the kernel sums, and of their gradients."""

    def __init__(self, ranks, batch, rates, kernel, unbiased, fast, impl):
        self.ranks = ranks
        self.batch = batch
        self.rates = rates
        self.unbiased = unbiased
        self.options = {"kernel": kernel, "fast": fast, "impl": impl}

    def discrepancy(self, sides, whole):
        """What this rank adds to the value: (*batch), float64, with the gradient to its points."""
        x, *rest = sides
        value = self._within(x) + self._pairs(x.own, whole[1], BETWEEN)
        for y in rest:
            value = value + self._within(y)
            if any(map(_transforms.needs_grad, y.own)):
                value = value + _Weighed.apply(self._pairs(y.own, whole[0], BETWEEN), 0.0, 1.0)
        return value

    def _within(self, side):
        value = self._pairs(side.own, side.own, WITHIN)
        if side.others.points.shape[-2]:
            # That is -2 times a sum of which the other ranks have the same terms.
            value = value + _Weighed.apply(self._pairs(side.own, side.others, BETWEEN), -0.5, -1.0)
        points, masses = side.own.on(self.batch)
        if self.unbiased:
            others = 1 - self.ranks.sum(masses.square().sum(-1))
            return value / torch.where(others > 0, others, torch.nan)
        return value + diagonal_sum(points, masses, self.rates, self.options["kernel"])

    def _pairs(self, x, y, terms):
        (x, a), (y, b) = x.on(self.batch), y.on(self.batch)
        return pair_sums(x, y, a, b, self.rates, terms=terms, **self.options)


class _Weighed(torch.autograd.Function):
    """A sum that counts so many times in the value, and so many in the gradient."""

    @staticmethod
    def forward(ctx, value, times, gradient_times):
        ctx.times = gradient_times
        return value * times

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.times, None, None


class _FirstOrderOnly(torch.autograd.Function):
    """The identity; its gradient refuses to be differentiated.

    Half of what a second derivative consists of is on other ranks.
    """

    @staticmethod
    def forward(ctx, tensor):
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return _ops.first_order(grad, *ctx.saved_tensors, refusal=_REFUSAL)


_REFUSAL = "distributed.mmd and distributed.energy_distance have first derivatives only."
