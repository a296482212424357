"""Sums of a kernel over all pairs of two clouds, and their gradients, tile by tile in cache.

A tile holds t = scale |x_i - y_j|^2 + shift for some points of both clouds, the product of
rows [-2 scale x, scale |x|^2 + shift, scale] with columns [y, 1, |y|^2]. A profile turns it in
place into the kernel and its slope, the derivative to |x_i - y_j|^2. The product of a tile of
slopes with columns [b y, b] gives all that the gradient to x takes,

    sum_j b_j slope_ij (x_i - y_j) = (sum_j b_j slope_ij) x_i - sum_j b_j slope_ij y_j,

and, where slope and kernel are one, the sum of the kernel too.

Within one cloud only tiles on and above the diagonal are visited. All arrays have the points along
the last axis: products of that shape, (D, N) with (N, M), are the fast ones at small D.
"""

import math

import torch

from .profiles import FORMS

# Points of one cloud in a tile; problems smaller than that share a tile of SIDE^2 elements. Smaller
# tiles cost more calls, larger ones leave the cache.
SIDE = 512
# Sides of tiles are multiples of this, as products like them.
ALIGNED = 32
# Up to so many coordinates squared distances are summed differences, which lose nothing.
DIRECT = 4
# Pairs with |x-y|^2 below this part of |x|^2 + |y|^2 are recomputed where a root magnifies errors,
# or where a kernel is so narrow that rate |x|^2 times float64's rounding is 1e-8 (NARROW).
NEAR = 1e-3
NARROW = 5e7
# So many of them at a time; above a sixteenth of a tile, all of it is recomputed.
NEAR_PAIRS = 2**12


class Side:
    """One cloud of a sum over pairs, and what the points of the other do to each of its own.

    Args:
        given: points (P, D, N), of which differences are taken.
        points: the same about a centre, of which products are taken.
        weights: (P, N), of the points' dtype; None is all 1.
        need: whether the gradient to the points is needed.

    Attributes:
        columns: (P, D + 2, N): points, 1 and squared norms.
        sums: (P, N), float64: sum_j b_j k(x_i, y_j) over the weights b of the other side.
        slopes: (P, N), float64: the same sum of the slope; None where that is the kernel itself.
        moments: (P, D, N): the same sum of slope times y_j.
        pulls: (P, D, N): sum_j b_j slope_ij (x_i - y_j) over pairs that the others leave out.
    """

    def __init__(self, given, points, weights, need):
        self.given, self.need = given, need
        self.norms = points.square().sum(1)
        norms = self.norms[:, None]
        self.columns = torch.cat([points, torch.ones_like(norms), norms], dim=1)
        self.weighed = self.columns[:, :-1]
        if weights is not None:
            self.weighed = self.weighed * weights[:, None]
        self.sums = norms.new_zeros(self.norms.shape, dtype=torch.float64)
        self.moments = torch.zeros_like(points) if need else None
        self.slopes = self.pulls = None

    @property
    def points(self):
        """Points about the centre (P, D, N)."""
        return self.columns[:, :-2]

    def take(self, p, i, j, other, kernel, slope, times):
        """Add what points j of the other side do to points i, given their tiles, so many times."""
        weighed = other.weighed[p, :, j]
        if not self.need or slope is None:
            self.sums[p, i].add_(torch.bmm(weighed[:, -1:], kernel.mT)[:, 0], alpha=times)
            return
        total = torch.bmm(weighed, slope.mT)
        self.moments[p, :, i] += total[:, :-1]
        if slope is kernel and self.slopes is None:
            self.sums[p, i] += total[:, -1]
            return
        if self.slopes is None:
            self.slopes = torch.zeros_like(self.sums)
        self.slopes[p, i] += total[:, -1]
        self.sums[p, i] += torch.bmm(weighed[:, -1:], kernel.mT)[:, 0]


class Pairs:
    """A sweep over all pairs of two sides, or over the pairs within one.

    Args:
        profile: name of the kernel's profile.
        sides: two :class:`Side`, or one for the pairs of two different points of it.
        rates: (P, K).
        both: tell the second side too what it gets from the first.
    """

    def __init__(self, profile, sides, rates, both):
        self.form = FORMS[profile]
        self.left, self.right = sides[0], sides[-1]
        self.own = len(sides) == 1
        self.both = both
        self.need = any(side.need for side in sides)
        self.inner = profile == "polynomial"
        self.direct = takes_differences(profile, self.left.given)
        steep = self.form.root or self._narrow(rates)
        self.near = steep and not self.direct
        self.moved = steep and self.direct and self.need
        self.single = rates.shape[1] == 1
        self.folded = self.single and not steep and not self.direct
        self.scales = self.form.scale(rates).mT[..., None, None]
        self.factors = self.form.slope(rates).mT[..., None, None]
        if steep and self.need:
            for side in sides:
                side.pulls = torch.zeros_like(side.points)
                side.slopes = torch.zeros_like(side.sums)  # apart from the sums, of fewer pairs
        if not self.direct:
            self.rows = self._rows()
        if self.near:
            self.limit = NEAR * (self.left.norms.max() + self.right.norms.max())
        self.tiles = {}

    def _narrow(self, rates):
        """Whether the kernel tells apart points that products in float64 do not."""
        if self.inner or not rates.numel():
            return False
        norms = torch.maximum(self.left.norms.amax(-1), self.right.norms.amax(-1))
        return bool((rates.amax(-1) * norms > NARROW).any())  # false for NaN

    def _rows(self):
        """Rows (P, D + 2, N): their products with the columns of the other side are tiles of t."""
        scale = self.scales[0] if self.folded else 1
        shift = self.form.shift if self.folded else 0
        x, one, norms = self.left.columns.split([self.left.points.shape[1], 1, 1], dim=1)
        if self.inner:
            return torch.cat([x * scale, one * shift, one * 0], dim=1)
        return torch.cat([x * (-2 * scale), norms * scale + shift, one * scale], dim=1)

    def gradient(self, side, weight):
        """Sum over j of b_j times the derivative of k(x_i, y_j) to x_i, times weight: (P, D, N)."""
        if self.single:
            weight = weight * self.factors[0, :, 0]
        if not self.inner:
            weight = 2 * weight
        if self.inner:
            total = side.moments
        elif self.moved:
            total = side.pulls
        else:
            slopes = side.sums if side.slopes is None else side.slopes
            total = (side.points * slopes[:, None].to(side.moments.dtype)).sub_(side.moments)
            if self.near:
                total += side.pulls
        return total * weight[:, None].to(total.dtype)

    def run(self):
        """Visit every tile."""
        (problems, n), m = self.left.norms.shape, self.right.norms.shape[1]
        for p in _spans(problems, max(1, SIDE**2 // (min(n, SIDE) * min(m, SIDE)))):
            for i in _spans(n, SIDE, ALIGNED):
                for j in _spans(m, SIDE, ALIGNED):
                    if not self.own or j.start >= i.start:
                        self._visit(p, i, j)

    def _visit(self, p, i, j):
        diagonal = self.own and i == j
        mirrored = self.both and not diagonal
        tiles = self._memory(tuple(s.stop - s.start for s in (p, i, j)))
        t = self._distances(p, i, j, tiles)
        near = self._recompute_near(t, p, i, j, diagonal) if self.near else None
        moved = self.moved
        if near is not None and 16 * len(near) > t.numel():
            self._fill_squares(t, p, i, j, tiles[1])
            near, moved = None, self.need
        kernel, slope = self._evaluate(t, p, tiles)
        if diagonal:
            kernel.diagonal(dim1=1, dim2=2).zero_()
            if slope is not None and slope is not kernel:
                slope.diagonal(dim1=1, dim2=2).zero_()
        if near is not None and self.need:
            self._pull_near(near, slope, p, i, j, mirrored)
        if moved:
            self._pull(slope, p, i, j, mirrored, tiles)
            slope = None
        times = 2 if self.own and not diagonal and not mirrored else 1
        self.left.take(p, i, j, self.right, kernel, slope, times)
        if mirrored:
            transposed = kernel.mT
            if slope is not None:
                slope = transposed if slope is kernel else slope.mT
            self.right.take(p, j, i, self.left, transposed, slope, 1)

    def _memory(self, shape):
        """Five tiles of a shape, in memory that all shapes share: the first is the largest."""
        if not self.tiles:
            dtype, size = self.left.columns.dtype, math.prod(shape)
            self.room = [torch.empty(size, dtype=dtype) for _ in range(5)]
        if shape not in self.tiles:
            size = math.prod(shape)
            self.tiles[shape] = [room[:size].view(shape) for room in self.room]
        return self.tiles[shape]

    def _distances(self, p, i, j, tiles):
        """The tile of t with scale 1 and shift 0, or with those of the only rate."""
        t, spare = tiles[:2]
        if not self.direct:
            return torch.bmm(self.rows[p, :, i].mT, self.right.columns[p, :, j], out=t)
        self._fill_squares(t, p, i, j, spare)
        return t

    def _fill_squares(self, t, p, i, j, spare):
        """Fill a tile with sums of squared differences."""
        t.zero_()
        for c in range(self.left.given.shape[1]):
            self._differences(c, p, i, j, spare)
            t.addcmul_(spare, spare)

    def _differences(self, c, p, i, j, out):
        """Differences of coordinate c."""
        x, y = self.left.given[p, c, i], self.right.given[p, c, j]
        return torch.sub(x[:, :, None], y[:, None, :], out=out)

    def _evaluate(self, t, p, tiles):
        """Kernel and slope, summed over the rates."""
        _, f, spare, kernels, slopes = tiles
        if self.folded:
            return self.form.evaluate(t, spare, self.need)
        if self.form.root:
            t.sqrt_()
        for k, (scale, factor) in enumerate(
            zip(self.scales[:, p], self.factors[:, p], strict=True)
        ):
            torch.mul(t, scale, out=f)
            if self.form.shift:
                f += self.form.shift
            kernel, slope = self.form.evaluate(f, spare, self.need)
            if self.single:
                return kernel, slope
            if k == 0:
                kernels.copy_(kernel)
                if self.need:
                    torch.mul(slope, factor, out=slopes)
                continue
            kernels += kernel
            if self.need:
                slopes.addcmul_(slope, factor)
        return kernels, slopes if self.need else None

    def _recompute_near(self, t, p, i, j, diagonal):
        """Places (Q, 3) of near pairs or None; if they are few, their |x-y|^2 is set here."""
        if diagonal:
            t.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        if t.amin() > self.limit:  # false for NaN
            return None
        norms = self.left.norms[p, i][:, :, None] + self.right.norms[p, j][:, None, :]
        near = (t <= NEAR * norms).nonzero()
        if 16 * len(near) > t.numel():
            return near
        for pairs in near.split(NEAR_PAIRS):
            t[pairs.unbind(1)] = self._near_differences(pairs, p, i, j).square().sum(1)
        return near if len(near) else None

    def _near_differences(self, pairs, p, i, j):
        q, r, s = pairs.unbind(1)
        return self.left.given[p, :, i].mT[q, r] - self.right.given[p, :, j].mT[q, s]

    def _pull_near(self, near, slope, p, i, j, mirrored):
        """Take near pairs out of a tile of slopes: their sums are large and all but cancel."""
        left, right = self.left, self.right
        for pairs in near.split(NEAR_PAIRS):
            q, r, s = pairs.unbind(1)
            pull = slope[q, r, s][:, None] * self._near_differences(pairs, p, i, j)
            to_left = right.weighed[p, -1, j][q, s][:, None] * pull
            left.pulls[p, :, i].mT.index_put_((q, r), to_left, accumulate=True)
            if mirrored:
                to_right = left.weighed[p, -1, i][q, r][:, None] * pull
                right.pulls[p, :, j].mT.index_put_((q, s), -to_right, accumulate=True)
        slope[near.unbind(1)] = 0

    def _pull(self, slope, p, i, j, mirrored, tiles):
        """Sums over a tile of slope times difference, for each of a few coordinates."""
        left, right, moves = self.left, self.right, tiles[0]
        for c in range(left.given.shape[1]):
            self._differences(c, p, i, j, moves).mul_(slope)
            left.pulls[p, c, i] += torch.bmm(right.weighed[p, -1:, j], moves.mT)[:, 0]
            if mirrored:
                right.pulls[p, c, j] -= torch.bmm(left.weighed[p, -1:, i], moves)[:, 0]


def takes_differences(profile, points):
    """Whether every squared distance between points (P, D, N) is a sum of differences."""
    return profile != "polynomial" and points.shape[1] <= DIRECT


def _spans(size, step, unit=1):
    """Slices that cut ``size`` into equal parts of at most ``step``, in multiples of a unit."""
    parts = math.ceil(size / step)
    step = min(step, unit * math.ceil(size / (parts * unit)))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
