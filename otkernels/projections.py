"""Directions on the unit sphere, along which clouds are projected."""

import torch

from . import _check

__all__ = ["sample_projections"]

METHODS = ("gaussian",)


def sample_projections(d, n, *, method="gaussian", generator=None, device=None, dtype=None):
    """Draw ``n`` directions uniformly on the unit sphere of R^d.

    Args:
        d: dimension of the space, at least 1.
        n: number of directions, at least 1.
        method: "gaussian": independent normal vectors, normalised (Muller 1959).
        generator: source of randomness on ``device``; None is torch's global stream there, so
            ``torch.manual_seed`` makes the draw repeatable.
        device: where to draw; None is torch's default device.
        dtype: float32 or float64; None is torch's default dtype.

    Returns:
        (d, n) tensor whose columns have unit length: the layout of ``sliced_wasserstein`` and of
        POT. The same generator state on the same device gives the same bits.

    Raises:
        ValueError: a size below 1, an unknown method, another dtype, a generator of another device.

    >>> sample_projections(3, 5).shape
    torch.Size([3, 5])
    """
    name = "sample_projections"
    _check.positive_int(name, "d", d)
    _check.positive_int(name, "n", n)
    _check.one_of(name, "method", method, METHODS)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    ok = dtype in (torch.float32, torch.float64)
    _check.require(ok, name, "dtype", "be float32 or float64", dtype)
    device = torch.get_default_device() if device is None else torch.device(device)
    if generator is not None:
        same = generator.device.type == device.type
        _check.require(same, name, "generator", f"be on device {device}", generator.device)
    normal = torch.randn(d, n, generator=generator, device=device, dtype=dtype)
    norm = normal.norm(dim=0, keepdim=True)
    # A zero vector has no direction. For d = 1 it turns up once in about 2^24 draws of float32.
    return torch.where(norm == 0, torch.ones_like(normal) / d**0.5, normal / norm)
