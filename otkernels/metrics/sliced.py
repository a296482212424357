"""Sliced Wasserstein distance between features of a stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _check
from .._types import Impl, Method
from ..projections import METHODS, sample_projections
from ..sliced import sliced_wasserstein
from ._reservoir import Reservoir


class SlicedWasserstein(Reservoir):
    """Sliced Wasserstein distance between features of real and of fake samples, batch by batch.

    :func:`otkernels.sliced_wasserstein` of all samples while there are at most ``capacity`` of a
    kind, whatever the batches and ranks. Of more, of a uniform draw of ``capacity``, which is the
    estimate that a data set of this size would give (docs/metrics.md). The directions are drawn
    once, from the seed: values are comparable between calls, epochs, runs and ranks.

    ``metric(inputs, real)`` adds a batch as ``update`` does, and returns the distance of this batch
    alone from all samples of the other kind so far.

    Args:
        feature: a module, or another function, that takes a batch and returns features (N, D),
            used in the mode, training or evaluation, in which it is. None: batches are features.
        num_features: D; None is ``feature.num_features``.
        reset_real_features: whether ``reset`` forgets the real samples too.
        n_projections: number of directions L.
        p: exponent, any number of at least 1.
        root: return the p-th root.
        method: how directions are drawn, see :func:`otkernels.sample_projections`.
        projections: (D, L) directions instead of drawn ones, the same on every rank.
        capacity: how many samples of each kind are held, of D numbers and a key of 8 bytes each.
        seed: of the directions and of the draw of samples, for which ranks use different streams.
            The same on every rank; another one for a metric that ``merge_state`` will add.
        dtype: of the held samples and of the value: float32 or float64.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: D is not known; features or directions of another shape; an option out of range.
        TypeError: features or directions that are no floating tensor.
        RuntimeError: a distance with no sample of a kind.

    >>> import torch
    >>> metric = SlicedWasserstein(num_features=2)
    >>> metric.update(torch.zeros(5, 2), real=True)
    >>> metric.update(torch.ones(3, 2), real=False)
    >>> metric.update(torch.ones(2, 2), real=False)
    >>> value = metric.compute()
    >>> theta = metric.projections  # all mass goes from (0, 0) to (1, 1)
    >>> torch.testing.assert_close(value, theta.sum(0).square().mean())
    """

    def __init__(
        self,
        feature: Callable[[Any], Tensor] | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        *,
        n_projections: int = 128,
        p: float = 2,
        root: bool = False,
        method: Method = "gaussian",
        projections: Tensor | None = None,
        capacity: int = 10_000,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        impl: Impl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature, num_features, reset_real_features, capacity, seed, dtype, impl, **kwargs
        )
        name = type(self).__name__
        _check.exponent(name, p)
        self.p = p
        self.root = root
        if projections is None:
            _check.positive_int(name, "n_projections", n_projections)
            _check.one_of(name, "method", method, METHODS)
            generator = torch.Generator("cpu").manual_seed(seed)
            options = {"method": method, "generator": generator, "device": "cpu"}
            projections = sample_projections(
                self.num_features, n_projections, dtype=torch.float64, **options
            )
        else:
            _check.floating(name, "projections", projections)
            shape = tuple(projections.shape)
            ok = len(shape) == 2 and shape[0] == self.num_features and shape[1] > 0
            _check.require(ok, name, "projections", f"have shape ({self.num_features}, L)", shape)
        kept = projections.detach().to(self.device, dtype, copy=True)
        self.register_buffer("projections", kept, persistent=False)

    def _between(self, real, fake):
        return sliced_wasserstein(
            real,
            fake,
            p=self.p,
            root=self.root,
            projections=self.projections,
            impl=self.impl,
        )
