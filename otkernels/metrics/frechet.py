"""Frechet distance between features: Gaussian Wasserstein distance of moments of a stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _ops
from .._results import root_and_reduce
from .._roots import EPS
from .._types import Impl
from ..bures import of_covariances
from ._stream import KINDS, Stream


class FrechetDistance(Stream):
    """Frechet distance between features of real and of fake samples, batch by batch.

    |m_r - m_f|^2 + tr S_r + tr S_f - 2 tr (S_r^1/2 S_f S_r^1/2)^1/2 with means m and covariances S
    divided by n - 1 (Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017, "GANs trained by a
    two time-scale update rule", equation 6): the FID if the features are those of the Inception
    network, and equal to :class:`torchmetrics.image.fid.FrechetInceptionDistance` on the same
    features. The last trace is one of singular values, so the distance is real also with fewer
    samples than features. Moments are centred, held in float64 and merged without loss (Chan,
    Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances"): over batches, over ranks and by ``merge_state``.

    ``metric(inputs, real)`` adds a batch as ``update`` does, and returns the distance of this batch
    alone from all samples of the other kind so far.

    Args:
        feature: a module, or another function, that takes a batch and returns features (N, D),
            used in the mode, training or evaluation, in which it is. None: batches are features.
        num_features: D; None is ``feature.num_features``.
        reset_real_features: whether ``reset`` forgets the real samples too.
        squared: False returns the root.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: D is not known; features of another shape; an unknown impl.
        TypeError: features that are no floating tensor.
        RuntimeError: a distance with fewer than two samples of a kind.

    >>> import torch
    >>> metric = FrechetDistance(num_features=1)
    >>> metric.update(torch.tensor([[0.0], [1.0], [2.0]]), real=True)  # mean 1, deviation 1
    >>> metric.update(torch.tensor([[4.0], [7.0]]), real=False)
    >>> metric.update(torch.tensor([[1.0]]), real=False)  # mean 4, deviation 3
    >>> metric.compute().item()
    13.0
    """

    parts = ("moments",)

    def __init__(
        self,
        feature: Callable[[Any], Tensor] | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        *,
        squared: bool = True,
        impl: Impl | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, num_features, reset_real_features, impl, **kwargs)
        self.squared = squared
        size = self.num_features + 1
        for kind in KINDS:
            empty = torch.zeros(size, size, dtype=torch.float64)
            self.add_state(f"{kind}_moments", empty, dist_reduce_fx=_merged)

    def _added(self, kind, held, features):
        return (_with_rows(*held, features.double()),)

    def _distance(self, real, fake):
        states = *real, *fake
        counts = [state[0, 0] for state in states]
        self._require_samples(2, counts)
        means = [state[0, 1:] for state in states]
        covs = [state[1:, 1:] / (n - 1) for state, n in zip(states, counts, strict=True)]
        impl = _ops.choose_impl(type(self).__name__, self.impl, means[0].device)
        # Of a covariance of fewer samples than features rounding leaves eigenvalues of this size.
        cutoff = self.num_features * EPS
        with _ops.without_autocast(means[0].device):
            value, _, _ = of_covariances(*covs, cutoff, impl)
            value = value + (means[0] - means[1]).square().sum()
            return root_and_reduce(value, 2, not self.squared, "none")


# A state is (1 + D, 1 + D), [[n, mean], [0, sum (x - mean)(x - mean)^T]]: one tensor, because
# torchmetrics merges each tensor on its own, and moments can only be merged together.


def _with_rows(state, x):
    """The state with rows x (N, D) added."""
    if len(x) == 0:  # a loader's last batch may be empty on some rank
        return state
    state = state.clone()  # not in place: it may have been made in inference mode
    count, mean, scatter = state[0, :1], state[0, 1:], state[1:, 1:]
    center = x.mean(0)
    apart = center - mean
    share = len(x) / (count + len(x))
    # Both terms of the update, within the batch and between it and the state, in one product.
    rows = torch.cat([x - center, (apart * (count * share).sqrt())[None]])
    scatter.addmm_(rows.mT, rows)
    mean += share * apart
    count += len(x)
    return state


def _merged(states):
    """The state of all samples behind the states (K, 1 + D, 1 + D)."""
    counts, means, scatters = states[:, 0, :1], states[:, 0, 1:], states[:, 1:, 1:]
    n = counts.sum()
    mean = (counts / n.clamp(min=1) * means).sum(0)
    apart = means - mean
    merged = torch.zeros_like(states[0])
    merged[0, 0], merged[0, 1:] = n, mean
    merged[1:, 1:] = scatters.sum(0) + (counts * apart).mT @ apart
    return merged
