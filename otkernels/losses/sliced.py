"""Sliced losses as modules, with the directions that they keep."""

from typing import Any, get_args

import torch
from torch import Tensor

from .. import _check
from .._types import Group, Impl, Method, Reduction, Resample, Slices
from ..distributed._ranks import Ranks
from ..max_sliced import max_sliced_wasserstein
from ..projections import METHODS, sample_projections
from ..sliced import sliced_wasserstein
from ..sliced_to_normal import sliced_wasserstein_to_normal
from ._loss import Loss

__all__ = ["MaxSlicedWassersteinLoss", "SlicedWassersteinLoss", "SlicedWassersteinToNormalLoss"]

RESAMPLE = get_args(Resample)


class _Sliced(Loss):
    """Hyper-parameters of every sliced loss, and the directions that it keeps."""

    shown = ("n_projections", "p")

    n_projections: int
    method: Method
    resample: Resample
    dim: int | None
    generator: torch.Generator | None
    root: bool
    projections: Tensor | None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        name = type(self).__name__
        _check.positive_int(name, "n_projections", options["n_projections"])
        _check.one_of(name, "method", options["method"], METHODS)
        self.resample = options.get("resample", "step")
        _check.one_of(name, "resample", self.resample, RESAMPLE)
        if "p" in options:
            _check.exponent(name, options["p"])
        self.register_buffer("projections", None)
        if self.resample != "step":
            _check.positive_int(name, "dim", self.dim)
            self.projections = self._draw(self.generator.device if self.generator else None)

    def _draw(self, device):
        return sample_projections(
            self.dim,
            self.n_projections,
            method=self.method,
            generator=self.generator,
            device=device,
            dtype=torch.float32,
        )

    def _kept(self):
        """The directions that are kept: of ranks, those of the first."""
        if self.projections is None or self.process_group is None:
            return self.projections
        return Ranks(type(self).__name__, self.process_group).first(self.projections)

    def resample_projections(self) -> None:
        """Draw new directions; call it at the start of each epoch when ``resample="epoch"``."""
        ok = self.resample == "epoch"
        _check.require(ok, type(self).__name__, "resample", "be 'epoch'", repr(self.resample))
        self.projections.copy_(self._draw(self.projections.device))

    def _options(self, *names):
        """These attributes and the ones that all functions take, by keyword."""
        names += ("n_projections", "method", "generator", "root", "reduction", "validate", "impl")
        return {name: getattr(self, name) for name in names}


class SlicedWassersteinLoss(_Sliced):
    """Sliced Wasserstein distance to the power p between two batches of points, as a loss.

    See :func:`otkernels.sliced_wasserstein` for the definition, dtypes and gradients.

    Args:
        n_projections: number of directions.
        p: exponent, any number of at least 1.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        resample: "step" draws new directions in every call (an unbiased estimate of the loss over
            the whole sphere); "epoch" keeps them until :meth:`resample_projections` is called;
            "fixed" keeps the first draw for good, which matches clouds only along those lines.
        dim: number of features D; needed for "epoch" and "fixed", whose directions are a buffer
            (``projections``, float32) that moves with the module and is part of its state_dict.
        slices: a callable, such as a network, that returns slices (..., N, L) of points
            (..., N, D), instead of directions.
        generator: source of the draws, on the device of the points; None is torch's global stream.
        root: return the p-th root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: ``loss(x, y)`` takes (..., N, D) and (..., M, D) and, by keyword, weights ``a`` (..., N)
    and ``b`` (..., M) and lengths ``x_lengths`` and ``y_lengths`` (...).

    >>> import torch
    >>> loss = SlicedWassersteinLoss(64)
    >>> loss(torch.zeros(8, 3), torch.zeros(8, 3)).item()
    0.0
    """

    p: float
    slices: Slices | None

    def __init__(
        self,
        n_projections: int = 128,
        *,
        p: float = 2,
        method: Method = "gaussian",
        resample: Resample = "step",
        dim: int | None = None,
        slices: Slices | None = None,
        generator: torch.Generator | None = None,
        root: bool = False,
        reduction: Reduction = "mean",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            n_projections=n_projections,
            p=p,
            method=method,
            resample=resample,
            dim=dim,
            slices=slices,
            generator=generator,
            root=root,
            reduction=reduction,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )
        name = type(self).__name__
        known = slices is None or callable(slices)
        _check.require(known, name, "slices", "be a callable or None", type(slices).__name__)
        one = slices is None or resample == "step"
        _check.require(one, name, "slices", "be None with kept directions", type(slices).__name__)

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
        return self._call(
            sliced_wasserstein,
            x,
            y,
            projections=self._kept() if self.slices is None else self.slices,
            a=a,
            b=b,
            x_lengths=x_lengths,
            y_lengths=y_lengths,
            **self._options("p"),
        )


class SlicedWassersteinToNormalLoss(_Sliced):
    """Sliced Wasserstein distance, squared, from a batch of points to N(0, I), as a loss.

    See :func:`otkernels.sliced_wasserstein_to_normal`: no samples of the normal are needed.

    Args:
        n_projections: number of directions.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        resample: "step", "epoch" or "fixed", as in :class:`SlicedWassersteinLoss`.
        dim: number of features D; needed for "epoch" and "fixed".
        generator: source of the draws, on the device of the points; None is torch's global stream.
        root: return the square root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.
        process_group: "world" or a torch.distributed.ProcessGroup for the loss of the points of all
            its ranks, see :mod:`otkernels.distributed`; None is this process alone.

    Shape: ``loss(x)`` takes (..., N, D) and, by keyword, ``x_lengths`` (...).
    """

    def __init__(
        self,
        n_projections: int = 128,
        *,
        method: Method = "gaussian",
        resample: Resample = "step",
        dim: int | None = None,
        generator: torch.Generator | None = None,
        root: bool = False,
        reduction: Reduction = "mean",
        validate: bool = False,
        impl: Impl | None = None,
        process_group: Group | None = None,
    ) -> None:
        super().__init__(
            n_projections=n_projections,
            method=method,
            resample=resample,
            dim=dim,
            generator=generator,
            root=root,
            reduction=reduction,
            validate=validate,
            impl=impl,
            process_group=process_group,
        )

    def forward(self, x: Tensor, *, x_lengths: Tensor | None = None) -> Tensor:
        """The loss of x (..., N, D)."""
        options = self._options()
        return self._call(
            sliced_wasserstein_to_normal,
            x,
            projections=self._kept(),
            x_lengths=x_lengths,
            **options,
        )


class MaxSlicedWassersteinLoss(_Sliced):
    """Max-sliced Wasserstein distance to the power p between two batches of points, as a loss.

    See :func:`otkernels.max_sliced_wasserstein`. The direction found is kept (``direction``, a
    buffer that is not part of the state_dict) and is one more start in the next call, as long as
    the batch has the same leading axes: while clouds move little, few steps then suffice.

    Args:
        n_projections: number of drawn candidates.
        p: exponent, any number of at least 1.
        method: how candidates are drawn, see :func:`otkernels.sample_projections`.
        n_starts: how many candidates climb.
        n_steps: how many steps each of them takes.
        warm_start: start from the direction of the last call too.
        generator: source of the draws, on the device of the points; None is torch's global stream.
        root: return the p-th root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        validate: check values too, in every call; for a GPU that is a wait.
        impl: implementation; None picks the fastest.

    Shape: as :class:`SlicedWassersteinLoss`.
    """

    p: float
    n_starts: int
    n_steps: int
    warm_start: bool
    direction: Tensor | None

    def __init__(
        self,
        n_projections: int = 128,
        *,
        p: float = 2,
        method: Method = "gaussian",
        n_starts: int = 4,
        n_steps: int = 20,
        warm_start: bool = True,
        generator: torch.Generator | None = None,
        root: bool = False,
        reduction: Reduction = "mean",
        validate: bool = False,
        impl: Impl | None = None,
    ) -> None:
        super().__init__(
            n_projections=n_projections,
            p=p,
            method=method,
            n_starts=n_starts,
            n_steps=n_steps,
            warm_start=warm_start,
            generator=generator,
            root=root,
            reduction=reduction,
            validate=validate,
            impl=impl,
        )
        name = type(self).__name__
        _check.positive_int(name, "n_starts", n_starts)
        _check.not_negative_int(name, "n_steps", n_steps)
        self.register_buffer("direction", None, persistent=False)

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
        value, direction = max_sliced_wasserstein(
            x,
            y,
            start=self._start(x, y, a, b, x_lengths, y_lengths),
            a=a,
            b=b,
            x_lengths=x_lengths,
            y_lengths=y_lengths,
            return_direction=True,
            **self._options("p", "n_starts", "n_steps"),
        )
        # What torch.func wraps means nothing once its transform has ended.
        if torch.compiler.is_compiling() or not torch._C._functorch.is_functorch_wrapped_tensor(
            direction
        ):
            self.direction = direction
        return value

    def _start(self, x, y, a, b, x_lengths, y_lengths):
        """The kept direction, if it has the batch of this call; else None."""
        kept = self.direction
        if not self.warm_start or kept is None or kept.device != x.device:
            return None
        given = ((x, 2), (y, 2), (a, 1), (b, 1), (x_lengths, 0), (y_lengths, 0))
        shapes = (t.shape[: t.dim() - own] for t, own in given if t is not None)
        try:
            batch = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            return None  # the function says what does not fit
        return kept if kept.shape == (*batch, x.shape[-1]) else None
