"""What a rank brings to a loss over the global batch, and what the ranks have together."""

import torch

from .. import _check, _ops, _transforms
from .._measures import Measures, normalised, present


def checked(function, given, weights, lengths, validate):
    """The :class:`Measures` of this rank's sets of points: (x, y), or (x,) for both of them.

    A rank may have no points at all, as long as another one has some.
    """
    if len(given) == 1:
        _check.cloud(function, "x", given[0], least=0)
        names, given, weights, lengths = ("x", "x"), given * 2, weights * 2, lengths * 2
    else:
        _check.clouds(function, *given, least=0)
        names = ("x", "y")
    measures = Measures(function, -2, names, given, weights, lengths, validate=False, least=0)
    if validate:
        _check_values(measures, names)
    return measures


def _check_values(measures, names):
    """Whatever counts must be finite, weights not negative; those of a rank may all be 0."""
    for k, (argument, name) in enumerate(zip("ab", names, strict=True)):
        _check.finite(measures.function, name, measures.own_points(k))
        weights = measures.own_weights(k)
        _check.finite(measures.function, argument, weights)
        least = weights.min().item() if weights.numel() else 0.0
        _check.require(least >= 0, measures.function, argument, "not be negative", least)


class Shares:
    """The checked points of this rank, and how many each rank has.

    Args:
        ranks: the :class:`Ranks`.
        names: names of the sets, one or two.
        device: that of the points.
        prepare: called without arguments, checks whatever there is to check and returns the
            :class:`Measures` of this rank, and a dict of what else must be the same on all ranks.

    Attributes:
        measures: those of this rank.
        options: those that are the same on all ranks.
        sizes: for each set how many points each rank has.
    """

    def __init__(self, ranks, names, device, prepare):
        self.ranks = ranks
        self.names = names

        def describe():
            self.measures, self.options = measures, options = prepare()
            texts = [_described(name, measures, k) for k, name in enumerate(names)]
            texts += [f"{name}={value!r}" for name, value in options.items()]
            return measures.sizes[: len(names)], ", ".join(texts)

        self.sizes = list(zip(*ranks.agree(device, describe), strict=True))
        for name, sizes in zip(names, self.sizes, strict=True):
            condition = "have at least one point on some rank"
            _check.require(sum(sizes) > 0, ranks.function, name, condition, "none")

    def require_points(self, more_than=0):
        """ValueError on all ranks unless more points than that count, in every problem."""
        for k, name in enumerate(self.names):
            counts = self.ranks.sum((self.measures.own_weights(k) != 0).sum(-1))
            least = counts.min().item() if counts.numel() else more_than + 1
            condition = f"have more than {more_than} points that count, on all ranks together"
            _check.require(least > more_than, self.ranks.function, name, condition, least)

    def points(self, k):
        """Set k of all ranks: (..., N, D).

        In the accumulation dtype, so that gradients of half types are summed in it.
        """
        points = self.measures.own_points(k)
        return self.gather(points.to(_ops.accumulation_dtype(points.dtype)), k, -2)

    def gather(self, tensor, k, axis):
        """A tensor whose ``axis`` numbers the points of set k, of all ranks."""
        return self.ranks.gather(tensor, self.sizes[k], axis)

    def masses(self, k):
        """Masses (..., N) of this rank's points of set k; those of all ranks have total one."""
        weights = self.measures.own_weights(k).double()
        if self._uniform(k):
            return weights / sum(self.sizes[k])
        total = self.ranks.sum(weights.sum(-1, keepdim=True))
        return normalised(weights, total)

    def all_masses(self, k, masses):
        """Masses (..., N) of all ranks, from those of this rank."""
        if self._uniform(k):
            n = sum(self.sizes[k])
            return masses.new_full((n,), 1 / n)
        return self.gather(masses, k, -1)

    def _uniform(self, k):
        return self.measures.weights[k] is None and self.measures.lengths[k] is None

    def whole(self, k):
        """Set k of all ranks: points (..., N, D), weights (..., N) or None, lengths (...) or None.

        As a function takes them.
        """
        weights = self.measures.weights[k]
        if weights is not None:
            weights = self.gather(weights.double(), k, -1)
        return self.packed(k, self.points(k), weights)

    def packed(self, k, points, weights=None):
        """Points and weights of all ranks with those that count first, and how many these are.

        As they come, the padding of each rank's points stands between them.
        """
        lengths = self.measures.lengths[k]
        if lengths is None:
            return points, weights, None
        counts = self.gather(present(lengths, self.measures.sizes[k]).byte(), k, -1)
        order = (1 - counts).argsort(dim=-1, stable=True)
        if weights is not None:
            weights = _ordered(weights, order)
        points = _ordered(points.mT, order[..., None, :]).mT
        return points, weights, counts.sum(-1, dtype=order.dtype)


def _ordered(tensor, order):
    shape = *torch.broadcast_shapes(tensor.shape[:-1], order.shape[:-1]), tensor.shape[-1]
    return tensor.expand(shape).gather(-1, order.expand(shape))


def _described(name, measures, k):
    """All of set k but the number of its points, as a text."""
    return described(name, measures.given[k], measures.weights[k], measures.lengths[k], "N")


def described(name, points, weights, lengths, n):
    """A set of points as a text, which calls the number of points ``n``."""
    *batch, _, d = points.shape
    text = f"{name} ({', '.join([*map(str, batch), n, str(d)])}) {points.dtype}"
    text += " with gradient" * _transforms.needs_grad(points)
    if weights is not None:
        text += f" with weights ({', '.join([*map(str, weights.shape[:-1]), n])})"
        text += " and their gradient" * _transforms.needs_grad(weights)
    if lengths is not None:
        text += f" with lengths {tuple(lengths.shape)}"
    return text
