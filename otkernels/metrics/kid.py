"""Kernel Inception Distance by the unbiased MMD."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics.image import kid
from torchmetrics.utilities.data import dim_zero_cat

from .. import _check
from .._types import Impl
from ..mmd import mmd

# Features of so many numbers are copied at a time, of the real and of the fake images each.
CHUNK = 2**23


class KernelInceptionDistance(kid.KernelInceptionDistance):
    """torchmetrics' Kernel Inception Distance, with all subsets in a few calls of ``mmd``.

    The mean and the standard deviation over random subsets of the unbiased MMD^2 of the kernel
    (gamma <x, y> + coef)^3 between features of real and of fake images (Binkowski, Sutherland,
    Arbel, Gretton 2018, "Demystifying MMD GANs", section 4). With the same seed the subsets are
    those of :class:`torchmetrics.image.kid.KernelInceptionDistance`, so both numbers are equal up
    to rounding. No subset_size x subset_size matrix is kept with ``impl`` "cpu" and "triton".

    Args:
        feature: as in torchmetrics: a layer of the Inception network, or a module that returns
            features (N, D).
        subsets: number of subsets.
        subset_size: number of images of each kind in a subset, at least 2.
        degree: 3; another one is torchmetrics' alone.
        gamma: factor of the inner product; None is 1 / D.
        coef: what is added to it.
        reset_real_features: whether ``reset`` forgets the real images too.
        normalize: whether images are floating numbers in [0, 1], not bytes.
        impl: of :func:`otkernels.mmd`: "torch", "cpu", "triton" or None.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: what torchmetrics refuses; subset_size = 1.
        NotImplementedError: a degree other than 3.
    """

    def __init__(
        self,
        feature: int | Module = 2048,
        subsets: int = 100,
        subset_size: int = 1000,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        reset_real_features: bool = True,
        normalize: bool = False,
        *,
        impl: Impl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature,
            subsets,
            subset_size,
            degree,
            gamma,
            coef,
            reset_real_features,
            normalize,
            **kwargs,
        )
        name = type(self).__name__
        if degree != 3:
            instead = "torchmetrics.image.kid.KernelInceptionDistance"
            raise _check.unsupported(name, "degree", "be 3", degree, instead)
        _check.require(subset_size > 1, name, "subset_size", "be at least 2", subset_size)
        if impl is not None:
            _check.one_of(name, "impl", impl, _check.IMPLS)
        self.impl = impl

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of MMD^2 over the subsets: () and ()."""
        features = [dim_zero_cat(held) for held in (self.real_features, self.fake_features)]
        for name, points in zip(("real", "fake"), features, strict=True):
            condition = f"be at most the number of {name} images, {len(points)}"
            enough = len(points) >= self.subset_size
            _check.require(enough, type(self).__name__, "subset_size", condition, self.subset_size)
        d = features[0].shape[-1]
        at_once = max(1, CHUNK // (self.subset_size * d))
        chunks = [
            self._of_subsets(features, min(at_once, self.subsets - first))
            for first in range(0, self.subsets, at_once)
        ]
        values = torch.cat(chunks)
        return values.mean(), values.std(unbiased=False)

    def _of_subsets(self, features, count):
        """MMD^2 of the next ``count`` subsets: (count,)."""
        # One subset of each kind after the other, as torchmetrics draws them.
        taken = [
            [torch.randperm(len(points))[: self.subset_size] for points in features]
            for _ in range(count)
        ]
        subsets = [
            points[torch.stack(index).to(points.device)]
            for points, index in zip(features, zip(*taken, strict=True), strict=True)
        ]
        if self.gamma is None and self.coef == 1:
            return self._mmd(*subsets)
        # (gamma <x, y> + coef)^3 = coef^3 (<cx, cy> / D + 1)^3
        d = features[0].shape[-1]
        scale = ((1 / d if self.gamma is None else self.gamma) * d / self.coef) ** 0.5
        return self.coef**3 * self._mmd(*(points * scale for points in subsets))

    def _mmd(self, x, y):
        return mmd(x, y, kernel="polynomial", unbiased=True, impl=self.impl)
