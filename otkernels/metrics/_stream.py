"""What the streaming metrics share: features of batches, and what is held of real and of fake."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from .. import _check

KINDS = ("real", "fake")


class Stream(Metric):
    """A distance between the features of real and of fake samples, batch by batch.

    A subclass names in ``parts`` what it holds of a kind and adds a state ``real_<part>`` and a
    state ``fake_<part>`` for each. ``_added`` puts the features of a batch to what is held of a
    kind, and ``_distance`` is that between what is held of both, each a tuple in this order.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    parts = ()

    def __init__(self, feature, num_features, reset_real_features, impl, **kwargs):
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
        # MetricCollection makes metrics share states that are equal after one batch, as those of
        # unlike metrics may be: all empty ones are. NaN equals nothing.
        self.add_state("unshared", torch.tensor(torch.nan), dist_reduce_fx="sum")
        self.feature = feature
        self.num_features = num_features
        self.reset_real_features = reset_real_features
        self.impl = impl

    def update(self, inputs: Any, real: bool) -> None:
        """Add a batch of real or of fake samples."""
        self._require_unsynced()
        kind = _kind(real)
        self._hold(kind, self._added(kind, self._held(kind), self._features(inputs)))

    @torch.no_grad()
    def forward(self, inputs: Any, real: bool) -> Tensor:
        """Add a batch; its distance from all samples of the other kind so far: ().

        Where there are too few samples for a distance it raises and the batch is not added.
        """
        # Not torchmetrics' way: it resets, and counts again the real samples that reset keeps.
        self._require_unsynced()
        kind, features = _kind(real), self._features(inputs)
        kept = before = self._held(kind)
        empty = tuple(self._defaults[f"{kind}_{part}"] for part in self.parts)
        self._hold(kind, self._added(kind, empty, features))
        try:
            with self.sync_context(self.dist_sync_fn, should_sync=self.dist_sync_on_step):
                synced = self._held("real"), self._held("fake")
            value = self._distance(*synced)
            kept = self._added(kind, before, features)
        finally:
            self._hold(kind, kept)
        self._update_count += 1
        self._computed = None
        self._forward_cache = value
        return value

    def compute(self) -> Tensor:
        """The distance of all samples so far: ()."""
        try:
            return self._distance(self._held("real"), self._held("fake"))
        except Exception:
            # torchmetrics would go on with what all ranks hold as if it were this rank's alone.
            self.unsync(should_unsync=self._is_synced)
            raise

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the samples of another metric, or of its ``metric_state``, to these."""
        self._require_unsynced()
        other, name = incoming_state is not self, type(self).__name__
        _check.require(other, name, "incoming_state", "be of another metric", "this one")
        super().merge_state(incoming_state)
        # Which torchmetrics forgets: the cached value is an old one, and there is something to
        # compute though ``update`` may never have been called.
        self._computed = None
        self._update_count += 1

    def reset(self) -> None:
        """Forget the fake samples, and the real ones unless ``reset_real_features=False``."""
        self.unsync(should_unsync=self._is_synced)  # what is kept is this rank's own
        real = self._held("real")
        super().reset()
        if not self.reset_real_features:
            self._hold("real", real)

    def plot(self, val: Any = None, ax: Any = None) -> tuple[Any, Any]:
        """Plot ``val``, a distance or a sequence of them, or else what ``compute`` returns."""
        return self._plot(val, ax)

    def _held(self, kind):
        return tuple(getattr(self, f"{kind}_{part}") for part in self.parts)

    def _hold(self, kind, held):
        for part, tensor in zip(self.parts, held, strict=True):
            setattr(self, f"{kind}_{part}", tensor)

    def _apply(self, fn, exclude_state=()):
        """Move to another device, but keep the dtype of all that is held."""
        self._computed = None  # which would be rounded
        buffers = dict(self._buffers)
        super()._apply(fn, (*exclude_state, *self._defaults))
        for name, buffer in buffers.items():
            self._buffers[name] = _moved(fn, buffer)
        for state, empty in self._defaults.items():
            self._defaults[state] = _moved(fn, empty)
            setattr(self, state, _moved(fn, getattr(self, state)))
        return self

    def _features(self, inputs):
        """Checked features (N, D) of a batch."""
        name, device = type(self).__name__, self._defaults[f"real_{self.parts[0]}"].device
        features = inputs if self.feature is None else self.feature(inputs)
        _check.floating(name, "features", features)
        condition = f"have shape (N, {self.num_features})"
        ok, shape = features.shape[1:] == (self.num_features,), tuple(features.shape)
        _check.require(ok, name, "features", condition, shape)
        ok, condition = features.device == device, f"be on the metric's device {device}"
        _check.require(ok, name, "features", condition, features.device)
        return features

    def _require_unsynced(self):
        """An error where samples of all ranks would be added to, or lost with ``unsync``."""
        if self._is_synced:
            message = _check.message(
                type(self).__name__, "the metric", "hold samples of this rank", "those of all ranks"
            )
            raise TorchMetricsUserError(f"{message}: call unsync first")

    def _require_samples(self, least, counts):
        """RuntimeError unless there are ``least`` samples of each kind."""
        if min(counts) < least:
            condition = f"be {('one', 'two')[least - 1]} or more of each kind"
            got = "{:.0f} real and {:.0f} fake".format(*counts)
            raise RuntimeError(_check.message(type(self).__name__, "samples", condition, got))


def _kind(real):
    return "real" if real else "fake"


def _moved(fn, tensor):
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
