"""What tests of the MMD share: its formulas in float64, problems, the bound on errors, cases."""

import torch
from support import value_and_grads

from otkernels import mmd
from otkernels._ops import accumulation_dtype

KERNELS = ["gaussian", "laplacian", "imq", "rational_quadratic", "polynomial", "energy"]
RADIAL = [k for k in KERNELS if k != "polynomial"]
BOUNDED = ["gaussian", "laplacian", "imq", "rational_quadratic"]  # k(0) = 1, with a bandwidth
BANDWIDTHS = (0.8, 2.5)


def options(kernel, bandwidth=BANDWIDTHS):
    """The kernel, with the bandwidth if it has one."""
    return {"kernel": kernel} | ({"bandwidth": bandwidth} if kernel in BOUNDED else {})


# --- the formulas -------------------------------------------------------------------------------

# k(r) and k'(r) with a bandwidth s.
PROFILES = {
    "gaussian": (
        lambda r, s: torch.exp(-(r**2) / (2 * s**2)),
        lambda r, s: -r / s**2 * torch.exp(-(r**2) / (2 * s**2)),
    ),
    "laplacian": (lambda r, s: torch.exp(-r / s), lambda r, s: -torch.exp(-r / s) / s),
    "imq": (lambda r, s: s**2 / (s**2 + r**2), lambda r, s: -2 * r * s**2 / (s**2 + r**2) ** 2),
    "rational_quadratic": (
        lambda r, s: 1 / (1 + r**2 / (2 * s**2)),
        lambda r, s: -r / s**2 / (1 + r**2 / (2 * s**2)) ** 2,
    ),
    "energy": (lambda r, s: -r, lambda r, s: -torch.ones_like(r)),
}


def pairs(kernel, x, y, bandwidths):
    """Kernel (..., N, M) and its gradient to the first point (..., N, M, D), 0 at distance 0."""
    d = x.shape[-1]
    if kernel == "polynomial":
        base = x @ y.mT / d + 1
        return base**3, 3 * base[..., None] ** 2 * y[..., None, :, :] / d
    gap = x[..., :, None, :] - y[..., None, :, :]
    r = gap.norm(dim=-1)
    value, slope = PROFILES[kernel]
    bandwidths = (1,) if kernel == "energy" else bandwidths
    slopes = sum(slope(r, s) for s in bandwidths) / torch.where(r > 0, r, torch.inf)
    return sum(value(r, s) for s in bandwidths), gap * slopes[..., None]


def side(kernel, x, y, a, b, bandwidths, unbiased, part, sign):
    """Mean within x, mean between x and y; gradients of MMD^2 to x and to its weights."""
    total = a.sum(-1, keepdim=True)
    mass, other = a / total, b / b.sum(-1, keepdim=True)
    (own, own_slopes), (far, far_slopes) = (
        [part(t) for t in pairs(kernel, x, points, bandwidths)] for points in (x, y)
    )
    share = torch.ones_like(total)
    if unbiased:
        share = 1 / (1 - mass.square().sum(-1, keepdim=True))
        distinct = 1 - torch.eye(x.shape[-2], dtype=own.dtype, device=own.device)
        own, own_slopes = own * distinct, own_slopes * distinct[..., None]
    row, cross = ((k @ m[..., None])[..., 0] for k, m in ((own, mass), (far, other)))
    inner = share * (row * mass).sum(-1, keepdim=True)
    pull = share[..., None] * (own_slopes * mass[..., None, :, None]).sum(-2)
    pull = pull + sign * (far_slopes * other[..., None, :, None]).sum(-2)
    to_mass = 2 * (share * row + sign * cross)
    if unbiased:
        to_mass = to_mass + 2 * share * inner * mass
    to_weights = (to_mass + sign * (to_mass * mass).sum(-1, keepdim=True)) / total
    return inner[..., 0], (cross * mass).sum(-1), 2 * mass[..., None] * pull, to_weights


def truth(kernel, x, y, a=None, b=None, bandwidths=BANDWIDTHS, unbiased=False):
    """MMD^2, its gradients to x, y, a, b; and each with the magnitudes of all that it sums."""
    a, b = (t.new_ones(t.shape[:-1]) if w is None else w for t, w in ((x, a), (y, b)))
    x, y, a, b = (t.double() for t in (x, y, a, b))

    def both_sides(part, sign):
        rest = bandwidths, unbiased, part, sign
        xx, xy, grad_x, grad_a = side(kernel, x, y, a, b, *rest)
        yy, _, grad_y, grad_b = side(kernel, y, x, b, a, *rest)
        return xx + yy + 2 * sign * xy, grad_x, grad_y, grad_a, grad_b

    return both_sides(lambda t: t, -1), both_sides(torch.abs, 1)


def within(out, reference, size, terms):
    """``out`` is off by no more than (eps_out + sqrt(terms) eps_acc) of the magnitudes it sums.

    As ``support.assert_close64``, but MMD^2 and its gradients are small differences of their sums.
    """
    assert out.shape == reference.shape, (out.shape, reference.shape)
    eps_out, eps_acc = (torch.finfo(t).eps for t in (out.dtype, accumulation_dtype(out.dtype)))
    bound = (eps_out + terms**0.5 * eps_acc) * size.max().item()
    error = (out.double() - reference).abs().max().item()
    assert error <= bound, f"error {error:.3g} above the bound {bound:.3g}"


# --- problems -----------------------------------------------------------------------------------


def clouds(n, m, d, batch=(), dtype=torch.float32, device="cpu"):
    """Two clouds of different place and width, rounded to the dtype, of about unit distances."""
    x, y = torch.randn(*batch, n, d), 1.3 * torch.randn(*batch, m, d) + 0.4
    return [(t / d**0.5).to(device, dtype) for t in (x, y)]


def masses(n, m, batch=(), device="cpu"):
    """Weights of any total, float32, of which each side's second is 0."""
    a, b = torch.rand(*batch, n) + 0.1, torch.rand(m) + 0.1
    if min(n, m) > 2:
        a[..., 1], b[..., 1] = 0, 0
    return [a.to(device), b.to(device)]


def check(impl, kernel, x, y, weights=(), *, unbiased=False, bandwidths=BANDWIDTHS, **more):
    """Value and gradients to x, y and the weights a, b (both or none)."""
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], *(w.shape[:-1] for w in weights))
    scale = torch.rand(batch, device=x.device) + 0.5
    names = ("a", "b")[: len(weights)]

    def cost(x, y, *weights):
        named = dict(zip(names, weights, strict=True)) | more | options(kernel, bandwidths)
        return mmd(x, y, unbiased=unbiased, impl=impl, **named)

    value, *grads = value_and_grads(cost, x, y, *weights, weight=scale)
    assert value.dtype == accumulation_dtype(x.dtype)
    assert [g.dtype for g in grads] == [t.dtype for t in (x, y, *weights)]
    reference, size = truth(kernel, x, y, *weights, bandwidths=bandwidths, unbiased=unbiased)
    # Squares summed into a distance, kernels into a row; the rows are summed in float64.
    terms = x.shape[-1] + x.shape[-2] + y.shape[-2]
    within(value, reference[0], size[0], terms)
    for grad, expected, magnitude in zip(grads, reference[1:], size[1:], strict=False):
        factor = scale.double().reshape(*batch, *(1,) * (expected.dim() - len(batch)))
        expected, magnitude = ((t * factor).sum_to_size(grad.shape) for t in (expected, magnitude))
        within(grad, expected, magnitude, terms)
