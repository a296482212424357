"""Maximum mean discrepancy and energy distance between features of a stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _check
from .._types import Bandwidth, Impl, Kernel, Precision
from ..bandwidth import check as check_bandwidth
from ..mmd import check_options, mmd
from ._reservoir import Reservoir


class _Discrepancy(Reservoir):
    """An MMD of the held samples. ``compute`` needs two of each kind if it is to be unbiased."""

    plot_lower_bound = None  # an unbiased estimate may be negative

    def __init__(self, kernel, bandwidth, unbiased, squared, precision, **options):
        super().__init__(**options)
        name = type(self).__name__
        check_options(name, kernel, unbiased, squared, "none", precision)
        check_bandwidth(name, kernel, bandwidth)
        if isinstance(bandwidth, torch.Tensor):  # so that it moves with the metric
            _check.floating(name, "bandwidth", bandwidth)
            shape = tuple(bandwidth.shape)
            _check.require(len(shape) < 2, name, "bandwidth", "have shape () or (K,)", shape)
            ok, got = bool((bandwidth > 0).all()), bandwidth.tolist()
            _check.require(ok, name, "bandwidth", "be positive everywhere", got)
            kept = bandwidth.detach().to(self.device, copy=True)
            self.register_buffer("bandwidth", kept, persistent=False)
        else:
            self.bandwidth = bandwidth
        self.kernel = kernel
        self.unbiased = unbiased
        self.squared = squared
        self.precision = precision
        self.least = 2 if unbiased else 1

    def _between(self, real, fake):
        return mmd(
            real,
            fake,
            kernel=self.kernel,
            bandwidth=self.bandwidth,
            unbiased=self.unbiased,
            squared=self.squared,
            precision=self.precision,
            impl=self.impl,
        )


class MaximumMeanDiscrepancy(_Discrepancy):
    """Squared MMD between features of real and of fake samples, batch by batch.

    :func:`otkernels.mmd` of all samples while there are at most ``capacity`` of a kind, whatever
    the batches and ranks. Of more, of a uniform draw of ``capacity``: with ``unbiased=True`` and a
    given bandwidth its expectation is the value of all samples (docs/metrics.md).

    ``metric(inputs, real)`` adds a batch as ``update`` does, and returns the MMD of this batch
    alone from all samples of the other kind so far.

    Args:
        feature: a module, or another function, that takes a batch and returns features (N, D),
            used in the mode, training or evaluation, in which it is. None: batches are features.
        num_features: D; None is ``feature.num_features``.
        reset_real_features: whether ``reset`` forgets the real samples too.
        kernel: "gaussian", "laplacian", "imq", "rational_quadratic", "polynomial" or "energy".
        bandwidth: a number, a sequence of numbers whose kernels are summed, a tensor () or (K,), or
            "median": :func:`otkernels.median_bandwidth` of the held samples, the real ones first.
            It looks at 128 of them in their order and changes with the fake samples; values are
            comparable between epochs with a given bandwidth only.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        capacity: how many samples of each kind are held, of D numbers and a key of 8 bytes each.
        seed: of the draw of samples, for which ranks use different streams. Another one for a
            metric that ``merge_state`` will add.
        dtype: of the held samples and of the value: float32 or float64.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: D is not known; features of another shape; an option out of range.
        TypeError: features that are no floating tensor.
        RuntimeError: a value with no sample of a kind, or one sample with ``unbiased``.

    >>> import torch
    >>> metric = MaximumMeanDiscrepancy(num_features=2, bandwidth=1.0)
    >>> metric.update(torch.zeros(3, 2), real=True)
    >>> metric.update(torch.ones(4, 2), real=False)
    >>> round(metric.compute().item(), 4)  # 2 - 2 / e
    1.2642
    """

    def __init__(
        self,
        feature: Callable[[Any], Tensor] | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        *,
        kernel: Kernel = "gaussian",
        bandwidth: Bandwidth = "median",
        unbiased: bool = False,
        squared: bool = True,
        precision: Precision = "full",
        capacity: int = 10_000,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        impl: Impl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel,
            bandwidth,
            unbiased,
            squared,
            precision,
            feature=feature,
            num_features=num_features,
            reset_real_features=reset_real_features,
            capacity=capacity,
            seed=seed,
            dtype=dtype,
            impl=impl,
            **kwargs,
        )


class EnergyDistance(_Discrepancy):
    """Energy distance between features of real and of fake samples, batch by batch.

    :func:`otkernels.energy_distance`, with all that is said of :class:`MaximumMeanDiscrepancy`, but
    there is no bandwidth to choose.

    Args:
        feature: a module, or another function, that takes a batch and returns features (N, D),
            used in the mode, training or evaluation, in which it is. None: batches are features.
        num_features: D; None is ``feature.num_features``.
        reset_real_features: whether ``reset`` forgets the real samples too.
        unbiased: the U-statistic; it may be negative.
        squared: False returns the root. Only with ``unbiased=False``.
        precision: "full" or "fast", see :func:`otkernels.mmd`.
        capacity: how many samples of each kind are held, of D numbers and a key of 8 bytes each.
        seed: of the draw of samples, see :class:`MaximumMeanDiscrepancy`.
        dtype: of the held samples and of the value: float32 or float64.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError, TypeError, RuntimeError: as :class:`MaximumMeanDiscrepancy`.

    >>> import torch
    >>> metric = EnergyDistance(num_features=2)
    >>> metric.update(torch.zeros(1, 2), real=True)
    >>> metric(torch.tensor([[3.0, 4.0]]), real=False).item()
    10.0
    """

    def __init__(
        self,
        feature: Callable[[Any], Tensor] | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        *,
        unbiased: bool = False,
        squared: bool = True,
        precision: Precision = "full",
        capacity: int = 10_000,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        impl: Impl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            "energy",
            "median",
            unbiased,
            squared,
            precision,
            feature=feature,
            num_features=num_features,
            reset_real_features=reset_real_features,
            capacity=capacity,
            seed=seed,
            dtype=dtype,
            impl=impl,
            **kwargs,
        )
