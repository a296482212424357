"""Two measures as a caller gives them: points, weights, lengths, checked and brought together."""

import torch

from . import _check


class Measures:
    """Two checked sets of points on one batch, with what each point weighs.

    Args:
        function: name of the public function, for messages.
        points: axis of the points in both sets: -1 for numbers (..., N), -2 for (..., N, D).
        names: what the function calls the sets.
        given: the two sets.
        weights: two tensors (..., N), (..., M), or None each.
        lengths: two integer tensors (...), or None each.
        validate: check values too.
        least: how many points each set must have, and its lengths say.
    """

    def __init__(self, function, points, names, given, weights, lengths, validate, least=1):
        self.function = function
        self.points = points
        self.given = given
        self.weights = weights
        self.lengths = lengths
        self.least = least
        self.sizes = tuple(t.shape[points] for t in given)
        self.of = " and ".join(dict.fromkeys(f"{name}'s" for name in names))
        self.batch = given[0].shape[:points]
        self.include(names[1], given[1].shape[:points], f"{names[0]}'s")
        for k, (argument, name) in enumerate(zip("ab", names, strict=True)):
            self._check_lengths(f"{name}_lengths", k, validate)
            self._check_weights(argument, name, k, validate)
            if validate:
                _check.finite(function, name, self._counting(given[k], k, points))

    def _check_lengths(self, argument, k, validate):
        lengths = self.lengths[k]
        if lengths is not None:
            of = self.given[k]
            n, least = self.sizes[k], self.least
            _check.lengths(self.function, argument, lengths, n, of, validate, least)
            self.include(argument, lengths.shape)

    def _check_weights(self, argument, name, k, validate):
        weights = self.weights[k]
        if weights is not None:
            _check.weights(self.function, argument, weights, self.sizes[k], self.given[k], name)
            self.include(argument, weights.shape[:-1])
            if validate:
                _check.masses(self.function, argument, self._counting(weights, k, -1))

    def _counting(self, tensor, k, axis):
        """The tensor with 0 for whatever its padding holds; ``axis`` numbers the points."""
        lengths = self.lengths[k]
        return tensor if lengths is None else without_padding(tensor, lengths, axis)

    def include(self, argument, shape, of=None):
        """Let the batch broadcast with the leading axes ``shape`` of one more argument."""
        of = self.of if of is None else of
        self.batch = _check.broadcastable(self.function, argument, shape, self.batch, of)

    def point_sets(self):
        """Both sets with the whole batch, and 0 for whatever the padding holds."""
        for k, points in enumerate(self.given):
            yield self.own_points(k).expand(*self.batch, *points.shape[self.points :])

    def own_points(self, k):
        """Set k on its own batch, with 0 for whatever the padding holds."""
        return self._counting(self.given[k], k, self.points)

    def own_weights(self, k):
        """Weights (..., N) of set k, not normalised, 0 for the padding; 1 each where not given."""
        weights = self.weights[k]
        if weights is None:
            weights = torch.ones(self.sizes[k], dtype=torch.float64, device=self.given[k].device)
        return self._counting(weights, k, -1)

    def masses(self):
        """Masses (*batch, N) and (*batch, M), float64 and of total one; None and None if uniform.

        Padding has mass 0.
        """
        if not _any(*self.weights, *self.lengths):
            return None, None
        return self._mass(0), self._mass(1)

    def _mass(self, k):
        return normalised(self.own_weights(k)).expand(*self.batch, self.sizes[k])

    def weighed(self):
        """Points, float64, and masses of both sides."""
        for points, n, mass in zip(self.point_sets(), self.sizes, self.masses(), strict=True):
            points = points.double()
            yield points, points.new_full((n,), 1 / n) if mass is None else mass

    def counts(self, weighed=False):
        """How many points count, (*batch) each; None and None if that is all of them.

        Fast forms take these, if they can, instead of masses of 0. So they are None also where
        masses say it, unless asked for with ``weighed``.
        """
        if not _any(*self.lengths) or (_any(*self.weights) and not weighed):
            return None, None
        device = self.given[0].device
        return tuple(
            torch.full(self.batch, n, device=device)
            if lengths is None
            else lengths.long().clamp(1, n).expand(self.batch)
            for n, lengths in zip(self.sizes, self.lengths, strict=True)
        )

    def nan_out_of_range(self, value):
        """The value, NaN where a length that could not be read without a wait is no size."""
        for n, lengths in zip(self.sizes, self.lengths, strict=True):
            if lengths is not None:
                value = nan_out_of_range(value, n, lengths)
        return value


def _any(*tensors):
    return any(t is not None for t in tensors)


def normalised(weights, total=None):
    """Weights over their total (..., 1); NaN for all, where one is negative or none is positive."""
    weights = weights.double()
    total = weights.sum(-1, keepdim=True) if total is None else total
    ok = (weights >= 0).all(-1, keepdim=True) & (total > 0) & total.isfinite()
    return weights / torch.where(ok, total, torch.nan)


def nan_out_of_range(value, n, lengths, least=1):
    """The value, NaN where a length is none of ``least`` to n."""
    return torch.where((lengths >= least) & (lengths <= n), value, torch.nan)


def present(lengths, n):
    """Which of n points are no padding: (..., n)."""
    return torch.arange(n, device=lengths.device) < lengths[..., None]


def without_padding(points, lengths, axis):
    """Points with 0 for whatever their padding holds; ``axis`` (negative) numbers them."""
    inside = present(lengths, points.shape[axis])
    return torch.where(inside[(..., *(None,) * (-1 - axis))], points, 0)
