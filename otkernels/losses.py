"""The losses as nn.Module: they hold hyper-parameters and directions, the functions do the work."""

import torch
from torch import nn

from . import _check
from .projections import sample_projections
from .sliced import sliced_wasserstein

__all__ = ["SlicedWassersteinLoss"]

RESAMPLE = ("step", "epoch", "fixed")


class SlicedWassersteinLoss(nn.Module):
    """Sliced Wasserstein distance to the power p between two batches of points, as a loss.

    See :func:`otkernels.sliced_wasserstein` for the definition, dtypes and gradients.

    Args:
        n_projections: number of directions.
        p: exponent, any number of at least 1.
        resample: "step" draws new directions in every call (an unbiased estimate of the loss over
            the whole sphere); "epoch" keeps them until :meth:`resample_projections` is called;
            "fixed" keeps the first draw for good, which matches clouds only along those lines.
        dim: number of features D; needed for "epoch" and "fixed", whose directions are a buffer
            (``projections``, float32) that moves with the module and is part of its state_dict.
        generator: source of the draws, on the device of the points; None is torch's global stream.
        root: return the p-th root.
        reduction: "mean" (default), "sum" or "none" over the leading axes.
        impl: implementation; None picks the fastest that covers the call.

    Shape: ``loss(x, y)`` takes (..., N, D) and (..., M, D) and, by keyword, weights ``a`` (..., N)
    and ``b`` (..., M).

    >>> import torch
    >>> loss = SlicedWassersteinLoss(64)
    >>> loss(torch.zeros(8, 3), torch.zeros(8, 3)).item()
    0.0
    """

    def __init__(
        self,
        n_projections=128,
        *,
        p=2,
        resample="step",
        dim=None,
        generator=None,
        root=False,
        reduction="mean",
        impl=None,
    ):
        super().__init__()
        name = type(self).__name__
        _check.positive_int(name, "n_projections", n_projections)
        _check.exponent(name, p)
        _check.one_of(name, "resample", resample, RESAMPLE)
        _check.one_of(name, "reduction", reduction, _check.REDUCTIONS)
        if impl is not None:
            _check.one_of(name, "impl", impl, _check.IMPLS)
        self.n_projections = n_projections
        self.p = p
        self.resample = resample
        self.dim = dim
        self.generator = generator
        self.root = root
        self.reduction = reduction
        self.impl = impl
        self.register_buffer("projections", None)
        if resample != "step":
            _check.positive_int(name, "dim", dim)
            device = None if generator is None else generator.device
            self.projections = self._draw(device)

    def _draw(self, device):
        size = self.dim, self.n_projections
        return sample_projections(
            *size, generator=self.generator, device=device, dtype=torch.float32
        )

    def _apply(self, fn, recurse=True):
        """Move the directions with the module but leave their dtype: ``half()`` would bend them."""
        kept = self.projections
        super()._apply(fn, recurse)
        if kept is not None:
            self.projections = kept.to(self.projections.device)
        return self

    def resample_projections(self):
        """Draw new directions; call it at the start of each epoch when ``resample="epoch"``."""
        ok = self.resample == "epoch"
        _check.require(ok, type(self).__name__, "resample", "be 'epoch'", repr(self.resample))
        self.projections.copy_(self._draw(self.projections.device))

    def forward(self, x, y, *, a=None, b=None):
        """The loss between x (..., N, D) and y (..., M, D)."""
        return sliced_wasserstein(
            x,
            y,
            p=self.p,
            n_projections=self.n_projections,
            projections=self.projections,
            a=a,
            b=b,
            generator=self.generator,
            root=self.root,
            reduction=self.reduction,
            impl=self.impl,
        )

    def extra_repr(self):
        """Hyper-parameters that differ from their defaults, after the two that always matter."""
        parts = [f"n_projections={self.n_projections}", f"p={self.p}"]
        defaults = {
            "resample": "step",
            "dim": None,
            "root": False,
            "reduction": "mean",
            "impl": None,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)
