"""Kernel sums of small problems on the CPU: both clouds as one, float64, few calls.

A batch of a training step often has so few points that a call costs more than its arithmetic. Here
the three sums come from one array over all pairs of the pooled points. Float64 makes up for some
of the care that ``pairs`` takes; where it would not, for kernels with a root and for narrow ones,
tiles it is.

Cost per pair of the N + M points, in float64: 2 (D + 2) operations for the distance, 4 for sums,
2 (D + 1) for each gradient, and one exp2 or reciprocal for each rate.
"""

import torch

from otkernels._ops import accumulation_dtype

from .profiles import FORMS

# Pairs of pooled points, over all problems, up to which this is faster than tiles in float32.
PAIRS = 2**17
# Where rate |x|^2 is larger than this, float64 too leaves an error of 1e-9 in an exponent.
WIDE = 1e7


def pooled_points(x, y, rates, profile):
    """Points of both clouds (P, N + M, D), centred, float64; None where tiles serve better."""
    total = x.shape[1] + y.shape[1]
    double = accumulation_dtype(x.dtype) == torch.float64
    if double or FORMS[profile].root or len(x) * total**2 > PAIRS:
        return None
    z = torch.cat([x, y], dim=1).double()
    if profile == "polynomial" or not len(z):
        return z
    z -= z.mean(1, keepdim=True)
    extent = rates.amax(-1) * z.square().sum(-1).amax(-1)
    return None if (extent > WIDE).any() else z  # a NaN says nothing of the other problems


def pooled_sums(z, n, masses, factors, rates, profile, needs):
    """Sums xx, yy, xy (P, 3) and gradients to x, y and both masses, None where not needed.

    Args:
        z: (P, T, D) points, those of x first.
        n: number of x's points.
        masses: (P, T), float64.
        factors: (P, 3) coefficients of the sums in the value.
        rates: (P, K).
        profile: name of the kernel's profile.
        needs: which of the four gradients are.
    """
    kernel, slope, factor = _kernel_and_slope(z, rates.double(), profile, any(needs[:2]))
    # Potentials (P, T, 2) of every point in x and in y.
    sides = masses.new_zeros(*masses.shape, 2)
    sides[:, :n, 0], sides[:, n:, 1] = masses[:, :n], masses[:, n:]
    potentials = kernel @ sides
    xx, xy, _, yy = (sides.mT @ potentials).flatten(1).unbind(1)
    # What a potential of either side changes in the value.
    c_x, c_y, c_xy = factors.unbind(1)
    mix = torch.stack([2 * c_x, c_xy, c_xy, 2 * c_y], dim=1).reshape(-1, 2, 2)
    grads = []
    rows = slice(None, n), slice(n, None)
    for k, need in enumerate(needs[:2]):
        weights = (sides @ (mix[:, k] * factor)[..., None])[..., 0]
        grads.append(_pull(z, slope, weights, masses, rows[k], profile) if need else None)
    for k, need in enumerate(needs[2:4]):
        grads.append((potentials[:, rows[k]] @ mix[:, k, :, None])[..., 0] if need else None)
    return torch.stack([xx, yy, xy], dim=1), grads


def _kernel_and_slope(z, rates, profile, need):
    """Kernel, its derivative to |x-y|^2 but for a factor, and the factor (P, 1); no diagonal."""
    form = FORMS[profile]
    scales, factors = form.scale(rates), form.slope(rates)
    kernels = slopes = None
    for scale, factor in zip(scales.mT[..., None, None], factors.mT[..., None, None], strict=True):
        t = _scaled(z, scale, form.shift, profile)
        spare = t if profile == "gaussian" else torch.empty_like(t)
        kernel, slope = form.evaluate(t, spare, need)
        kernels = kernel if kernels is None else kernels.add_(kernel)
        if need and scales.shape[1] == 1:
            slopes = slope
        elif need:
            slopes = slope * factor if slopes is None else slopes.addcmul_(slope, factor)
    for tile in (kernels, slopes) if need else (kernels,):
        tile.diagonal(dim1=1, dim2=2).zero_()
    single = factors if factors.shape[1] == 1 else torch.ones_like(factors[:, :1])
    return kernels, slopes, single


def _scaled(z, scale, shift, profile):
    """The array (P, T, T) of scale |x-y|^2 + shift, or of scale <x, y> + shift, as one product."""
    one = torch.ones_like(z[..., :1])
    if profile == "polynomial":
        return torch.cat([z * scale, one * shift], dim=-1) @ torch.cat([z, one], dim=-1).mT
    norms = z.square().sum(-1, keepdim=True)
    rows = torch.cat([z * (-2 * scale), norms * scale + shift, one * scale], dim=-1)
    return rows @ torch.cat([z, one, norms], dim=-1).mT


def _pull(z, slope, weights, masses, rows, profile):
    """Derivative of the value to the points ``rows``, where point j weighs weights (P, T)."""
    columns = torch.cat([z, torch.ones_like(z[..., :1])], dim=-1) * weights[..., None]
    total = slope[:, rows] @ columns
    if profile == "polynomial":
        return total[..., :-1] * masses[:, rows, None]
    pull = z[:, rows] * total[..., -1:] - total[..., :-1]
    return pull * (2 * masses[:, rows, None])
