"""MMD and energy distance as modules, with the reference whose own term they keep."""

from .. import _check
from .._kernels import KERNELS
from ..bandwidth import median_bandwidth
from ..mmd import answer, check_options, within
from ._loss import Loss

__all__ = ["EnergyDistanceLoss", "MMDLoss"]

_KEPT = ("reference", "reference_weights", "reference_lengths", "reference_term", "median")


class _Discrepancy(Loss):
    """Hyper-parameters of an MMD and, where one was set, a reference."""

    kernel = "energy"
    bandwidth = "median"

    def __init__(self, **options):
        super().__init__(**options)
        shared = (options[o] for o in ("unbiased", "squared", "reduction", "precision"))
        check_options(type(self).__name__, self.kernel, *shared)
        for name in _KEPT:
            self.register_buffer(name, None, persistent=False)

    def set_reference(self, y, *, b=None, y_lengths=None):
        """Keep y for calls without one, and its own term E k(y, y'), which is computed once.

        A call then costs the pairs within x and those between x and y. No gradient flows to the
        reference. The bandwidth "median" becomes that of the reference alone, for all calls. What
        is kept moves with the module, keeps its dtype and is not part of its state_dict.

        Args:
            y: (..., M, D) points of the dtype and device of the x to come; None forgets them.
            b: (..., M) weights.
            y_lengths: (...) how many points count.

        Raises:
            ValueError, TypeError: as the function does for y, b and y_lengths.
        """
        for name in _KEPT:
            setattr(self, name, None)
        if y is None:
            return
        name = f"{type(self).__name__}.set_reference"
        _check.cloud(name, "y", y)
        y, b = y.detach(), None if b is None else b.detach()
        if KERNELS[self.kernel].factor is not None and self.bandwidth == "median":
            self.median = median_bandwidth(y, x_lengths=y_lengths)[..., None]
        options = {o: getattr(self, o) for o in ("unbiased", "precision", "validate", "impl")}
        self.reference_term = within(
            name, y, b, y_lengths, self.kernel, self._bandwidth(), **options
        )
        self.reference, self.reference_weights, self.reference_lengths = y, b, y_lengths

    def _bandwidth(self):
        return self.bandwidth if self.median is None else self.median

    def forward(self, x, y=None, *, a=None, b=None, x_lengths=None, y_lengths=None):
        """The loss between x (..., N, D) and y (..., M, D), or the reference without y."""
        name, bandwidth, term = type(self).__name__, self.bandwidth, None
        if y is None:
            known = self.reference is not None
            _check.require(known, name, "y", "be given where no reference is set", None)
            for argument, value in (("b", b), ("y_lengths", y_lengths)):
                alone = value is None
                _check.require(alone, name, argument, "be left out with the reference", "a tensor")
            y, b, y_lengths = self.reference, self.reference_weights, self.reference_lengths
            bandwidth, term = self._bandwidth(), self.reference_term
        return answer(
            name,
            x,
            y,
            (a, b),
            (x_lengths, y_lengths),
            self.kernel,
            bandwidth,
            unbiased=self.unbiased,
            squared=self.squared,
            reduction=self.reduction,
            precision=self.precision,
            validate=self.validate,
            impl=self.impl,
            within_y=term,
        )


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
        kernel="gaussian",
        bandwidth="median",
        *,
        unbiased=False,
        squared=True,
        reduction="mean",
        precision="full",
        validate=False,
        impl=None,
    ):
        super().__init__(
            kernel=kernel,
            bandwidth=bandwidth,
            unbiased=unbiased,
            squared=squared,
            reduction=reduction,
            precision=precision,
            validate=validate,
            impl=impl,
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

    Shape: as :class:`MMDLoss`.
    """

    def __init__(
        self,
        *,
        unbiased=False,
        squared=True,
        reduction="mean",
        precision="full",
        validate=False,
        impl=None,
    ):
        super().__init__(
            unbiased=unbiased,
            squared=squared,
            reduction=reduction,
            precision=precision,
            validate=validate,
            impl=impl,
        )
