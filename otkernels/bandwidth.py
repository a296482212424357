"""Bandwidths of kernels: those given, the median heuristic, the ladder of the WAE."""

import math
import numbers

import torch
from torch import Tensor

from . import _check, _ops, _transforms
from ._kernels import KERNELS
from ._measures import Measures
from ._types import Prior

__all__ = ["median_bandwidth", "wae_bandwidths"]

# Points looked at for a median. From draw to draw it then varies by 5 % for two features and by 2 %
# for sixteen; twice as many points vary by 4 and 1 % and take five times as long.
MAX_POINTS = 128
WAE_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def median_bandwidth(
    x: Tensor,
    y: Tensor | None = None,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    max_points: int = MAX_POINTS,
) -> Tensor:
    """Median of the positive distances within the pooled points of x and y.

    The median heuristic (Gretton, Borgwardt, Rasch, Schoelkopf, Smola 2012, "A kernel two-sample
    test", section 8). Distances are those between at most ``max_points`` points, evenly spaced in
    the order of x followed by y, so the same input gives the same number. Where all of these points
    coincide it is 1. Weights do not enter.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        y: (..., M, D) points of x's dtype and device; leading axes broadcast with x's. None: of x
            alone.
        x_lengths: (...) integers: the first so many points of each cloud of x count. None is all.
        y_lengths: (...) the same for y.
        max_points: how many points to look at, at least 2.

    Returns:
        (...) tensor, one bandwidth a problem, without gradient; float32 (float64 for float64
        input). NaN where a point looked at is.

    Raises:
        ValueError: shape, dtype or device that does not fit; max_points < 2; lengths out of range
            on the CPU.
        TypeError: not a floating tensor; lengths that are no integers.

    >>> import torch
    >>> median_bandwidth(torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0]])).item()
    3.0
    """
    name = "median_bandwidth"
    if y is None:
        _check.cloud(name, "x", x)
        _check.require(y_lengths is None, name, "y_lengths", "be None without y", "lengths")
        y = x[..., :0, :]
    else:
        _check.clouds(name, x, y)
    _check.positive_int(name, "max_points", max_points)
    _check.require(max_points >= 2, name, "max_points", "be an integer >= 2", max_points)
    lengths = x_lengths, y_lengths
    measures = Measures(name, -2, ("x", "y"), (x, y), (None, None), lengths, False)
    with torch.no_grad(), _ops.without_autocast(x.device):
        sets = tuple(measures.point_sets())
        value = median_of(sets, measures.counts(), max_points)
        return measures.nan_out_of_range(value)


def median_of(sets, counts, max_points=MAX_POINTS):
    """The median for checked sets of points (*batch, N, D) and counts (*batch) or None each."""
    x, y = (t.detach().to(_ops.accumulation_dtype(t.dtype)) for t in sets)
    (n, m), batch = (x.shape[-2], y.shape[-2]), x.shape[:-2]
    device = x.device
    n_x, n_y = (
        torch.full(batch, size, device=device) if count is None else count
        for size, count in zip((n, m), counts, strict=True)
    )
    looked_at = min(max_points, n + m)
    taken = (n_x + n_y).clamp(max=looked_at)[..., None]
    rank = torch.arange(looked_at, device=device).expand(*batch, looked_at)
    place = rank * (n_x + n_y)[..., None] // taken
    # Past the points of x come those of y, which stand after the padding of x.
    place = torch.where(place < n_x[..., None], place, place - n_x[..., None] + n)
    index = place.clamp(max=n + m - 1)[..., None].expand(*place.shape, x.shape[-1])
    points = torch.cat([x, y], dim=-2).gather(-2, index)
    return _median_of_positive(_distances(points, taken))


def _distances(points, taken):
    """Distances between all pairs of points (..., n, D): (..., n (n - 1) / 2).

    Only the first ``taken (..., 1)`` points count; the distances of others are 0. A graph that is
    being compiled gets each distance twice, (..., n^2), which leaves their lower median as it is:
    indices of pairs would make it a graph for this n only.
    """
    n = points.shape[-2]
    flat = points.reshape(-1, n, points.shape[-1])
    exact = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    if torch.compiler.is_compiling():
        counts = torch.arange(n, device=points.device) < taken
        both = counts[..., None] & counts[..., None, :]
        return torch.where(both, exact.reshape(both.shape), 0).flatten(-2)
    i, j = torch.triu_indices(n, n, 1, device=points.device)
    return torch.where(j < taken, exact[:, i, j].reshape(*points.shape[:-2], len(i)), 0)


def _median_of_positive(distances):
    """Lower median of the positive numbers in each row; 1 where there are none, NaN as it comes."""
    positive = distances > 0
    wrong = distances.isnan().any(-1)
    ordered = torch.where(positive, distances, torch.inf).sort(dim=-1).values
    count = positive.sum(-1, keepdim=True)
    if ordered.shape[-1] == 0:
        return ordered.new_ones(ordered.shape[:-1])
    median = ordered.gather(-1, ((count - 1) // 2).clamp(min=0))
    median = torch.where(count > 0, median, 1.0)[..., 0]
    return torch.where(wrong, torch.nan, median)


def wae_bandwidths(dim: int, *, prior: Prior = "normal", scale: float = 1.0) -> tuple[float, ...]:
    """Bandwidths of the seven inverse multiquadric kernels of the Wasserstein auto-encoder.

    The published code sums C / (C + |x-y|^2) over C = c C_0, c in 0.1, 0.2, 0.5, 1, 2, 5, 10, where
    C_0 is the expected squared distance of two draws of a normal prior, 2 ``dim`` scale^2, 2 for
    the unit sphere and ``dim`` for the cube [-1, 1]^dim (Tolstikhin, Bousquet, Gelly, Schoelkopf
    2018, "Wasserstein auto-encoders", section 4, and its code). Use with ``kernel="imq"``, whose
    bandwidths are sqrt(C), and with ``unbiased=True``.

    Args:
        dim: number of latent dimensions.
        prior: "normal", "sphere" or "uniform".
        scale: standard deviation of the normal prior, radius of the sphere, half side of the cube.

    Returns:
        Seven numbers.

    Raises:
        ValueError: dim < 1, another prior, a scale that is not positive.

    >>> [round(s**2, 6) for s in wae_bandwidths(8)]
    [1.6, 3.2, 8.0, 16.0, 32.0, 80.0, 160.0]
    """
    name = "wae_bandwidths"
    _check.positive_int(name, "dim", dim)
    squared_distance = {"normal": 2 * dim, "sphere": 2, "uniform": dim}
    _check.one_of(name, "prior", prior, squared_distance)
    _check.positive(name, "scale", scale)
    base = squared_distance[prior] * scale**2
    return tuple(math.sqrt(c * base) for c in WAE_SCALES)


def rates(measures, kernel, bandwidth, validate=False):
    """Rates (..., K) of a kernel's profile in the accumulation dtype; see ``_kernels``.

    The leading axes of a bandwidth are included in the batch of the measures. That of an infinite
    bandwidth, such as a median that overflowed, is NaN.
    """
    given, factor = measures.given[0], KERNELS[kernel].factor
    dtype, device = _ops.accumulation_dtype(given.dtype), given.device
    numbers_ = check(measures.function, kernel, bandwidth)
    if factor is None:
        rate = 1 / given.shape[-1] if kernel == "polynomial" else 1.0
        return torch.full((1,), rate, dtype=dtype, device=device)
    if isinstance(bandwidth, str):
        with torch.no_grad():
            median = median_of(tuple(measures.point_sets()), measures.counts(weighed=True))
        scales = _positive_or_nan(median[..., None])
    elif isinstance(bandwidth, torch.Tensor):
        scales = _positive_or_nan(_checked(measures, bandwidth, validate))
    else:
        # Filled, not copied: a copy from the host would wait for a GPU and break a CUDA graph.
        scales = [torch.full((1,), s, dtype=torch.float64, device=device) for s in numbers_]
        scales = torch.cat(scales)
    return (factor / scales.square()).to(dtype)


def check(function, kernel, bandwidth):
    """The numbers of a bandwidth that is given as such; a tensor's are not looked at here."""
    if KERNELS[kernel].factor is None:
        ok = isinstance(bandwidth, str) and bandwidth == "median"
        condition = f"be left out for kernel {kernel!r}, which has none"
        if not ok:  # only now, because a number that is being traced has no repr
            raise ValueError(_check.message(function, "bandwidth", condition, repr(bandwidth)))
        return ()
    if isinstance(bandwidth, str):
        allowed = "be 'median', a positive number, a sequence of them or a tensor"
        _check.require(bandwidth == "median", function, "bandwidth", allowed, repr(bandwidth))
        return ()
    if isinstance(bandwidth, torch.Tensor):
        return ()
    numbers_ = tuple(bandwidth) if _is_sequence(bandwidth) else (bandwidth,)
    _check.require(len(numbers_) > 0, function, "bandwidth", "not be empty", "()")
    for s in numbers_:
        _check.positive(function, "bandwidth", s)
    return numbers_


def _checked(measures, bandwidth, validate):
    """A tensor of bandwidths as (..., K)."""
    function, device = measures.function, measures.given[0].device
    _check.floating(function, "bandwidth", bandwidth)
    if _transforms.needs_grad(bandwidth):
        raise _check.unsupported(
            function, "bandwidth", "not require a gradient", "one that does", "bandwidth.detach()"
        )
    same = bandwidth.device == device
    _check.require(same, function, "bandwidth", f"be on x's device {device}", bandwidth.device)
    bandwidth = bandwidth.reshape(1) if bandwidth.dim() == 0 else bandwidth
    shape = tuple(bandwidth.shape)
    _check.require(shape[-1] > 0, function, "bandwidth", "have shape (K,) or (..., K)", shape)
    measures.include("bandwidth", bandwidth.shape[:-1])
    if validate or _check.at_hand(bandwidth):
        wrong = bandwidth[bandwidth <= 0]
        got = None if wrong.numel() == 0 else wrong[0].item()
        _check.require(got is None, function, "bandwidth", "be positive everywhere", got)
    if validate:
        _check.finite(function, "bandwidth", bandwidth)
    return bandwidth


def _positive_or_nan(scales):
    """Bandwidths in float64, NaN for those that are not positive numbers."""
    scales = scales.double()
    return torch.where((scales > 0) & scales.isfinite(), scales, torch.nan)


def _is_sequence(bandwidth):
    # A number that is being traced has no answer to hasattr.
    number = isinstance(bandwidth, numbers.Real) or getattr(bandwidth, "ndim", 1) == 0
    return not number and hasattr(bandwidth, "__iter__")
