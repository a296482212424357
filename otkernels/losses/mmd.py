"""MMD and energy distance as modules, with the reference whose own term they keep."""

from typing import Any

import torch
from torch import Tensor

from .. import _check
from .._kernels import KERNELS
from .._types import Bandwidth, Group, Impl, Kernel, Precision, Reduction
from ..bandwidth import check as check_bandwidth
from ..bandwidth import median_bandwidth
from ..distributed.mmd import answer as answer_of_ranks
from ..mmd import answer, check_options, within
from ._loss import Loss

__all__ = ["EnergyDistanceLoss", "MMDLoss"]

_KEPT = (
    "reference",
    "reference_weights",
    "reference_lengths",
    "reference_bandwidth",
    "reference_term",
)


class _Discrepancy(Loss):
    """Hyper-parameters of an MMD and, where one was set, a reference."""

    kernel: Kernel
    bandwidth: Bandwidth
    unbiased: bool
    squared: bool
    precision: Precision
    reference: Tensor | None
    reference_weights: Tensor | None
    reference_lengths: Tensor | None
    reference_bandwidth: Tensor | None
    reference_term: Tensor | None

    def __init__(self, bandwidth: Bandwidth = "median", **options: Any) -> None:
        super().__init__(**options)
        if isinstance(bandwidth, torch.Tensor):  # so that it moves with the module
            self.register_buffer("bandwidth", bandwidth, persistent=False)
        else:
            self.bandwidth = bandwidth
        name = type(self).__name__
        shared = (options[o] for o in ("unbiased", "squared", "reduction", "precision"))
        check_options(name, self.kernel, *shared)
        check_bandwidth(name, self.kernel, bandwidth)
        for kept in _KEPT:
            self.register_buffer(kept, None, persistent=False)
        self._term_of = None

    def set_reference(
        self, y: Tensor | None, *, b: Tensor | None = None, y_lengths: Tensor | None = None
    ) -> None:
        """Keep a copy of y for calls without one, and its own term E k(y, y'), computed once.

        A call then costs the pairs within x and those between x and y. No gradient flows to the
        reference. The bandwidth "median" becomes that of the reference alone, for all calls. What
        is kept moves with the module, keeps its dtype and is not part of its state_dict. Call this
        again after the kernel, the bandwidth or ``unbiased`` was changed.

        With a process group the reference is the whole one, the same on all ranks, not a share.

        Args:
            y: (..., M, D) points of the dtype and device of the x to come; None forgets them.
            b: (..., M) weights.
            y_lengths: (...) how many points count.

        Raises:
            ValueError, TypeError: as the function does for y, b and y_lengths.
        """
        kept = dict.fromkeys(_KEPT)
        if y is not None:
            name = f"{type(self).__name__}.set_reference"
            _check.cloud(name, "y", y)
            if b is not None:
                _check.weights(name, "b", b, y.shape[-2], y, "y")
            y, b, y_lengths = (None if t is None else t.detach().clone() for t in (y, b, y_lengths))
            bandwidth = self._bandwidth_of(y, y_lengths)
            options = {o: getattr(self, o) for o in ("unbiased", "precision", "validate", "impl")}
            term = within(name, y, b, y_lengths, self.kernel, bandwidth, **options)
            tensor = bandwidth if isinstance(bandwidth, torch.Tensor) else None
            kept = dict(zip(_KEPT, (y, b, y_lengths, tensor, term), strict=True))
        for name, value in kept.items():
            setattr(self, name, value)
        self._term_of = self._settings()

    def _bandwidth_of(self, y, y_lengths):
        """The bandwidth for a reference y, which stays as it is now."""
        given = self.bandwidth
        if isinstance(given, torch.Tensor):
            return given.clone()
        median = isinstance(given, str) and KERNELS[self.kernel].factor is not None
        return median_bandwidth(y, x_lengths=y_lengths)[..., None] if median else given

    def _settings(self):
        """What the term of a reference depends on."""
        given, name = self.bandwidth, type(self).__name__
        numbers = check_bandwidth(name, self.kernel, given)
        return self.kernel, self.unbiased, isinstance(given, str), numbers

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        x_lengths: Tensor | None = None,
        y_lengths: Tensor | None = None,
    ) -> Tensor:
        """The loss between x (..., N, D) and y (..., M, D), or the reference without y."""
        name, bandwidth, term = type(self).__name__, self.bandwidth, None
        if y is None:
            self._check_reference(name, b, y_lengths)
            y, b, y_lengths = self.reference, self.reference_weights, self.reference_lengths
            term = self.reference_term
            if self.reference_bandwidth is not None:
                bandwidth = self.reference_bandwidth
        given = name, x, y, (a, b), (x_lengths, y_lengths), self.kernel, bandwidth
        names = "unbiased", "squared", "reduction", "precision", "validate", "impl"
        options = {name: getattr(self, name) for name in names} | {"within_y": term}
        if self.process_group is None:
            return answer(*given, **options)
        return answer_of_ranks(*given, self.process_group, **options)

    def _check_reference(self, name, b, y_lengths):
        known = self.reference is not None
        _check.require(known, name, "y", "be given where no reference is set", None)
        for argument, value in (("b", b), ("y_lengths", y_lengths)):
            alone = value is None
            _check.require(alone, name, argument, "be left out with the reference", "a tensor")
        same = self._term_of == self._settings()
        condition = "be set again after kernel, bandwidth or unbiased was changed"
        _check.require(same, name, "the reference", condition, "its old term")


class MMDLoss(_Discrepancy):
    """Maximum mean discrepancy between two batches of points, as a loss.

    See :func:`otkernels.mmd` for the definition, dtypes and gradients.

    Args:
        kernel: "gaussian", "laplacian", "imq", "rational_quadratic", "polynomial" or "energy".
        bandwidth: a number, a sequence of numbers whose kernels are summed, a tensor, or "median":
            of x and y, anew in every call.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: ``loss(x, y)`` takes (..., N, D) and (..., M, D) and, by keyword, weights ``a`` (..., N)
    and ``b`` (..., M) and lengths ``x_lengths`` and ``y_lengths`` (...). After
    ``loss.set_reference(y)`` also ``loss(x)``.

    >>> import torch
    >>> loss = MMDLoss("imq", bandwidth=1.0)
    >>> loss.set_reference(torch.zeros(8, 3))
    >>> loss(torch.zeros(4, 3)).item()
    0.0
    """

    shown = ("kernel", "bandwidth")

    def __init__(
        self,
        kernel: Kernel = "gaussian",
        bandwidth: Bandwidth = "median",
        *,
        unbiased: bool = False,
        squared: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "full",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            kernel=kernel,
            bandwidth=bandwidth,
            unbiased=unbiased,
            squared=squared,
            reduction=reduction,
            precision=precision,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )


class EnergyDistanceLoss(_Discrepancy):
    """Energy distance between two batches of points, as a loss.

    See :func:`otkernels.energy_distance` for the definition, dtypes and gradients.

    Args:
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: as :class:`MMDLoss`.
    """

    kernel = "energy"

    def __init__(
        self,
        *,
        unbiased: bool = False,
        squared: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "full",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            unbiased=unbiased,
            squared=squared,
            reduction=reduction,
            precision=precision,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )
