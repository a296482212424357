"""Frechet distance between features: Gaussian Wasserstein distance of moments of a stream."""

import torch
from torchmetrics import Metric

from .. import _check, _ops
from .._results import root_and_reduce
from .._roots import EPS
from ..bures import of_covariances


class FrechetDistance(Metric):
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

    >>> metric = FrechetDistance(num_features=1)
    >>> metric.update(torch.tensor([[0.0], [1.0], [2.0]]), real=True)  # mean 1, deviation 1
    >>> metric.update(torch.tensor([[4.0], [7.0]]), real=False)
    >>> metric.update(torch.tensor([[1.0]]), real=False)  # mean 4, deviation 3
    >>> metric.compute().item()
    13.0
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        feature=None,
        num_features=None,
        reset_real_features=True,
        *,
        squared=True,
        impl=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        if num_features is None:
            num_features = getattr(feature, "num_features", None)
        # Before the first batch, because a rank may get none and must still take part in a merge.
        _check.positive_int(name, "num_features, or feature.num_features,", num_features)
        ok, got = feature is None or callable(feature), type(feature).__name__
        _check.require(ok, name, "feature", "be a module, a function or None", got)
        if impl is not None:
            _check.one_of(name, "impl", impl, _check.IMPLS)
        self.feature = feature
        self.num_features = num_features
        self.reset_real_features = reset_real_features
        self.squared = squared
        self.impl = impl
        for kind in ("real", "fake"):
            empty = torch.zeros(num_features + 1, num_features + 1, dtype=torch.float64)
            self.add_state(f"{kind}_moments", empty, dist_reduce_fx=_merged)

    def update(self, inputs, real):
        """Add a batch of real or of fake samples."""
        kind = "real_moments" if real else "fake_moments"
        setattr(self, kind, _with_rows(getattr(self, kind), self._features(inputs)))

    def forward(self, inputs, real):
        """Add a batch; its distance from all samples of the other kind so far: ().

        Where there are too few samples for a distance it raises and the batch is not added.
        """
        # Not torchmetrics' way: it resets, and counts again the real samples that reset keeps.
        kind = "real_moments" if real else "fake_moments"
        before = after = getattr(self, kind)
        setattr(self, kind, torch.zeros_like(before))
        count = self._update_count
        try:
            self.update(inputs, real)
            with self.sync_context(self.dist_sync_fn, should_sync=self.dist_sync_on_step):
                synced = self.real_moments, self.fake_moments
            self._forward_cache = self._distance(*synced)
            after, count = _merged(torch.stack([before, getattr(self, kind)])), self._update_count
        finally:
            setattr(self, kind, after)
            self._update_count = count
        return self._forward_cache

    def compute(self):
        """The distance of all samples so far: (), float64."""
        return self._distance(self.real_moments, self.fake_moments)

    def reset(self):
        """Forget the fake samples, and the real ones unless ``reset_real_features=False``."""
        real = self.real_moments
        super().reset()
        if not self.reset_real_features:
            self.real_moments = real

    def plot(self, val=None, ax=None):
        """Plot ``val``, a distance or a sequence of them, or else what ``compute`` returns."""
        return self._plot(val, ax)

    def _apply(self, fn, exclude_state=()):
        """Move to another device, but keep the moments in float64."""
        self._computed = None  # which would be rounded
        super()._apply(fn, (*exclude_state, *self._defaults))
        for kind, empty in self._defaults.items():
            self._defaults[kind] = _moved(fn, empty)
            setattr(self, kind, _moved(fn, getattr(self, kind)))
        return self

    def _features(self, inputs):
        """Features (N, D) of a batch, float64."""
        name, device = type(self).__name__, self.real_moments.device
        features = inputs if self.feature is None else self.feature(inputs)
        _check.floating(name, "features", features)
        condition = f"have shape (N, {self.num_features})"
        ok, shape = features.shape[1:] == (self.num_features,), tuple(features.shape)
        _check.require(ok, name, "features", condition, shape)
        ok, condition = features.device == device, f"be on the metric's device {device}"
        _check.require(ok, name, "features", condition, features.device)
        return features.double()

    def _distance(self, *states):
        name = type(self).__name__
        counts = [state[0, 0] for state in states]
        if min(counts) < 2:
            got = "{:.0f} real and {:.0f} fake".format(*(n.item() for n in counts))
            condition = "be two or more of each kind"
            raise RuntimeError(_check.message(name, "samples", condition, got))
        means = [state[0, 1:] for state in states]
        covs = [state[1:, 1:] / (n - 1) for state, n in zip(states, counts, strict=True)]
        impl = _ops.choose_impl(name, self.impl, means[0].device)
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


def _moved(fn, tensor):
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
