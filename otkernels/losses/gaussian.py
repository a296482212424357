"""Gaussian Wasserstein distances as modules."""

from typing import Any

from torch import Tensor

from .. import _check
from .._types import Group, Impl, Reduction
from ..gaussian import check_options, gaussian_wasserstein, gaussian_wasserstein_to_normal
from ._loss import Loss

__all__ = ["GaussianWassersteinLoss", "GaussianWassersteinToNormalLoss"]


class _Gaussian(Loss):
    """Hyper-parameters of a distance between fitted Gaussians."""

    correction: int
    eps: float
    diagonal: bool
    squared: bool

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        name = type(self).__name__
        check_options(name, self.correction, self.eps, self.reduction)
        for flag in ("diagonal", "squared"):
            value = getattr(self, flag)
            _check.require(isinstance(value, bool), name, flag, "be True or False", repr(value))

    def _options(self):
        names = ("correction", "eps", "diagonal", "squared", "reduction", "validate", "impl")
        return {name: getattr(self, name) for name in names}


class GaussianWassersteinLoss(_Gaussian):
    """Wasserstein-2 distance between the Gaussians fitted to two batches of points, as a loss.

    See :func:`otkernels.gaussian_wasserstein` for the definition, dtypes and gradients.

    Args:
        correction: covariances are divided by n - correction.
        eps: added to the diagonal of both covariances.
        diagonal: keep only the diagonals of the covariances.
        squared: False returns the root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: ``loss(x, y)`` takes (..., N, D) and (..., M, D) and, by keyword, weights ``a`` (..., N)
    and ``b`` (..., M) and lengths ``x_lengths`` and ``y_lengths`` (...).

    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> GaussianWassersteinLoss()(x, x + 3).item()
    9.0
    """

    def __init__(
        self,
        *,
        correction: int = 0,
        eps: float = 0.0,
        diagonal: bool = False,
        squared: bool = True,
        reduction: Reduction = "mean",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            correction=correction,
            eps=eps,
            diagonal=diagonal,
            squared=squared,
            reduction=reduction,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        x_lengths: Tensor | None = None,
        y_lengths: Tensor | None = None,
    ) -> Tensor:
        """The loss between x (..., N, D) and y (..., M, D)."""
        given = {"a": a, "b": b, "x_lengths": x_lengths, "y_lengths": y_lengths}
        return self._call(gaussian_wasserstein, x, y, **given, **self._options())


class GaussianWassersteinToNormalLoss(_Gaussian):
    """Wasserstein-2 distance of the Gaussian fitted to points from the standard normal, as a loss.

    See :func:`otkernels.gaussian_wasserstein_to_normal`. As a penalty on the codes of an
    autoencoder it needs no draws of the prior.

    Args:
        correction: the covariance is divided by n - correction.
        eps: added to its diagonal.
        diagonal: keep only its diagonal.
        squared: False returns the root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: ``loss(x)`` takes (..., N, D) and, by keyword, weights ``a`` (..., N) and ``x_lengths``.

    >>> import torch
    >>> GaussianWassersteinToNormalLoss()(torch.tensor([[-1.0], [1.0]])).item()
    0.0
    """

    def __init__(
        self,
        *,
        correction: int = 0,
        eps: float = 0.0,
        diagonal: bool = False,
        squared: bool = True,
        reduction: Reduction = "mean",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            correction=correction,
            eps=eps,
            diagonal=diagonal,
            squared=squared,
            reduction=reduction,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )

    def forward(
        self, x: Tensor, *, a: Tensor | None = None, x_lengths: Tensor | None = None
    ) -> Tensor:
        """The loss of x (..., N, D)."""
        return self._call(
            gaussian_wasserstein_to_normal, x, a=a, x_lengths=x_lengths, **self._options()
        )
