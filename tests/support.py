"""What tests share: problems with exact projections, and the one bound on errors."""

import torch

from otkernels._ops import accumulation_dtype

CLOUD_BITS = 8  # coordinates are integers of 8 bits over 32: exact in every dtype, bfloat16 too
DIRECTION_BITS = 11


def problem(n, d, n_directions, *, m=None, batch=(), dtype=torch.float32, device="cpu"):
    """Clouds x (*batch, n, d), y (*batch, m, d) and directions (d, L) with exact projections.

    Coordinates and directions have so few bits that every projection is exact in float32, whatever
    the order of summation, and draws are repeated until no two points of a cloud fall on one
    projection. So every implementation must sort the points in the same order, and its error is
    that of its arithmetic alone. (With arbitrary floats two points closer than the rounding of
    their projections may legally change places, and their gradients with them.)
    """
    assert CLOUD_BITS + DIRECTION_BITS + (d - 1).bit_length() <= 24
    theta = _grid((d, n_directions), DIRECTION_BITS) / 2 ** (DIRECTION_BITS - 1)
    clouds = [_separated((*batch, k, d), theta).to(device, dtype) for k in (n, m or n)]
    return *clouds, theta.to(device, accumulation_dtype(dtype))


def _grid(shape, bits):
    """Odd and even integers of the given bits, sign included, but never 0; float64."""
    size = torch.randint(1, 2 ** (bits - 1), shape).double()
    return size * (2.0 * torch.randint(0, 2, shape) - 1)


def _separated(shape, theta, tries=1000):
    for _ in range(tries):
        cloud = _grid(shape, CLOUD_BITS) / 32
        gaps = (cloud @ theta).sort(dim=-2).values.diff(dim=-2)
        if not (gaps == 0).any():
            return cloud
    raise ValueError(f"{shape[-2]} points in {shape[-1]} dimensions are too many to keep apart")


def assert_close64(out, reference, *, terms, dtype=None):
    """``out`` is within (eps_out + sqrt(terms) eps_acc) max|reference| of a float64 reference.

    terms: how many rounded numbers are summed into one element of out.
    dtype: the dtype in which the sum was taken; default is the accumulation dtype of out's.
    """
    assert reference.dtype == torch.float64
    assert out.shape == reference.shape, (out.shape, reference.shape)
    accumulated = accumulation_dtype(out.dtype) if dtype is None else dtype
    eps_out, eps_acc = (torch.finfo(t).eps for t in (out.dtype, accumulated))
    bound = (eps_out + terms**0.5 * eps_acc) * reference.abs().max().item()
    error = (out.double().cpu() - reference.cpu()).abs().max().item()
    assert error <= bound, f"error {error:.3g} above the bound {bound:.3g}"


def value_and_grads(function, *tensors, weight=None):
    """Value of ``function(*tensors)`` and the gradients of its (weighted) sum to each tensor."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    total = value.sum() if weight is None else (value * weight.to(value)).sum()
    return value.detach(), *torch.autograd.grad(total, leaves)
