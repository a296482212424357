"""Kernel sums and their gradients on the CPU."""

import torch

from otkernels._ops import accumulation_dtype, empty_grad


def kernel_sums(x, y, a, b, coefficients, rates, n, m, profile, terms, fast, needs):
    """The raw op ``kernel_sums``: see otkernels/_kernel_sums.py."""
    dtype = accumulation_dtype(x.dtype)
    points = [x.to(dtype), y.to(dtype)]
    masses = [
        t.new_full(t.shape[:-1], 1 / t.shape[-2], dtype=torch.float64) if w is None else w
        for t, w in ((x, a), (y, b))
    ]
    sums = x.new_zeros((*x.shape[:-2], 3), dtype=torch.float64)
    default = sums.new_tensor([1.0, 1.0, -2.0]).expand(sums.shape)
    factors = default if coefficients is None else coefficients
    grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in points]
    mass_grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in masses]
    for t, (i, j) in enumerate(((0, 0), (1, 1), (0, 1))):
        if not terms[t]:
            continue
        kernel, slope, differences = _pairs(profile, points[i], points[j], rates, i == j)
        rows = (kernel @ masses[j][..., None])[..., 0]
        columns = (kernel.mT @ masses[i][..., None])[..., 0]
        sums[..., t] = (rows * masses[i]).sum(-1)
        factor = factors[..., t, None]
        mass_grads[i] += factor * rows
        mass_grads[j] += factor * columns
        weighed = (factor * masses[i])[..., None] * slope * masses[j][..., None, :]
        if profile == "polynomial":
            grads[i] += (weighed @ points[j].double()).to(dtype)
            grads[j] += (weighed.mT @ points[i].double()).to(dtype)
        else:
            moves = 2 * weighed[..., None] * differences
            grads[i] += moves.sum(-2).to(dtype)
            grads[j] -= moves.sum(-3).to(dtype)
    value = (sums * factors * factors.new_tensor(terms)).sum(-1)
    results = [
        g if need else empty_grad(t, False)
        for t, g, need in zip((x, y), grads, needs[:2], strict=True)
    ]
    extras = zip((a, b, coefficients), (*mass_grads, sums), needs[2:], strict=True)
    for t, g, need in extras:
        if t is None:
            results.append(value.new_empty((*value.shape, 0)))
        else:
            results.append(g if need else empty_grad(t, False))
    return value, *results


def _pairs(profile, x, y, rates, same):
    differences = x[..., :, None, :].double() - y[..., None, :, :].double()
    if profile == "polynomial":
        u = x.double() @ y.double().mT
    else:
        u = differences.square().sum(-1)
    kernel, slope = torch.zeros_like(u), torch.zeros_like(u)
    for rate in rates.double()[..., None, None, :].unbind(-1):
        k, s = _profile(profile, rate * u)
        kernel += k
        slope += s * rate
    if same:
        own = torch.eye(u.shape[-1], dtype=torch.bool)
        kernel, slope = kernel.masked_fill(own, 0), slope.masked_fill(own, 0)
    return kernel, slope, differences


def _profile(profile, u):
    """Phi and its derivative."""
    if profile == "gaussian":
        return torch.exp(-u), -torch.exp(-u)
    if profile == "cauchy":
        return 1 / (1 + u), -1 / (1 + u).square()
    if profile == "polynomial":
        return (1 + u) ** 3, 3 * (1 + u) ** 2
    root = u.sqrt()
    inverse = torch.where(u == 0, 0, 0.5 / root)
    if profile == "laplacian":
        k = torch.exp(-root)
        return k, -k * inverse
    return -root, -inverse
