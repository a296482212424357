"""Directions on the unit sphere, along which clouds are projected.

Whatever the method, each single direction is uniform on the sphere, so a mean over directions is an
unbiased estimate of the mean over the sphere. The methods differ in how the directions of one draw
depend on each other, and so in the variance of that mean (docs/directions.md).
"""

import math
from typing import get_args

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from . import _check, _ops
from ._types import Device, Method

__all__ = ["sample_projections"]

METHODS = get_args(Method)
DIGITS = 22  # binary digits added to the 30 of a Sobol' point; with the half cell 53, float64's own


def sample_projections(
    d: int,
    n: int,
    *,
    method: Method = "gaussian",
    generator: torch.Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw ``n`` directions, each of them uniform on the unit sphere of R^d.

    Args:
        d: dimension of the space, at least 1; at most 21201 for "sobol".
        n: number of directions, at least 1; at most 2^30 for "sobol".
        method: how the directions of one draw depend on each other.
            "gaussian": not at all; normal vectors, normalised (Muller 1959).
            "orthogonal": blocks of d mutually orthogonal directions, each block Haar distributed
            (Mezzadri 2007; Rowland et al. 2019, "Orthogonal estimation of Wasserstein distances"),
            the last one cut.
            "sobol": scrambled Sobol' points (Owen 1995; Matousek 1998) mapped to the sphere, best
            with n a power of two. For d <= 3 they are spread over a half sphere and given random
            signs, for theta and -theta project alike.
        generator: source of randomness on ``device``; None is torch's global stream there, so
            ``torch.manual_seed`` makes the draw repeatable.
        device: where to draw; None is torch's default device. "sobol" draws two seeds there, waits
            for them and computes on the CPU, so a CUDA graph cannot capture it.
        dtype: float32 or float64; None is torch's default dtype.

    Returns:
        (d, n) tensor whose columns have unit length: the layout of ``sliced_wasserstein`` and of
        POT. The same generator state on the same device gives the same bits.

    Compilation: ``torch.compile(fullgraph=True)`` works with every method and the global stream;
        torch cannot trace a generator, whatever the method.

    Raises:
        ValueError: a size out of range, an unknown method, another dtype, a generator of another
            device.

    >>> sample_projections(3, 5, method="sobol").shape
    torch.Size([3, 5])
    """
    name = "sample_projections"
    _check.positive_int(name, "d", d)
    _check.positive_int(name, "n", n)
    _check.one_of(name, "method", method, METHODS)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    ok = dtype in (torch.float32, torch.float64)
    _check.require(ok, name, "dtype", "be float32 or float64", dtype)
    device = torch.empty(0, device=device).device
    _check.generator(name, generator, device)
    options = {"device": device, **_ops.stream(generator)}
    if method == "sobol":
        most = SobolEngine.MAXDIM
        _check.require(d <= most, name, "d", f"be at most {most} with method='sobol'", d)
        most = 2**SobolEngine.MAXBIT
        _check.require(n <= most, name, "n", f"be at most {most} with method='sobol'", n)
        seeds = torch.randint(2**63 - 1, (2,), **options)
        return _SOBOL_OP(seeds, d, n).to(device, dtype)
    draw = {"gaussian": _gaussian, "orthogonal": _orthogonal}[method]
    return draw(d, n, dtype=dtype, **options)


def _gaussian(d, n, **options):
    normal = torch.randn(d, n, **options)
    norm = normal.norm(dim=0, keepdim=True)
    # A zero vector has no direction. For d = 1 it turns up once in about 2^24 draws of float32.
    return torch.where(norm == 0, torch.ones_like(normal) / d**0.5, normal / norm)


def _orthogonal(d, n, **options):
    k = min(d, n)
    q, r = torch.linalg.qr(torch.randn(-(-n // k), d, k, **options))
    # The factorisation is unique, and Q then Haar distributed, only with a positive diagonal of R.
    negative = r.diagonal(dim1=-2, dim2=-1) < 0
    q = torch.where(negative.unsqueeze(-2), -q, q)
    return q.movedim(0, 1).reshape(d, -1)[:, :n].contiguous()


# --- randomised Sobol' points -------------------------------------------------------------------


def _sobol(seeds, d, n):
    """(..., d, n) directions, float64 on the CPU, from pairs of seeds (..., 2).

    The same for every device.
    """
    if seeds.is_cuda and torch.cuda.is_current_stream_capturing():
        condition, instead = "not draw on the host in a CUDA graph", "directions drawn before"
        raise _check.unsupported("sample_projections", "method", condition, "'sobol'", instead)
    drawn = [_sobol_directions(*pair, d, n) for pair in seeds.reshape(-1, 2).tolist()]
    return torch.stack(drawn).reshape(*seeds.shape[:-1], d, n)


def _sobol_directions(scramble_seed, digits_seed, d, n):
    u = _scrambled(scramble_seed, digits_seed, n, d).T.contiguous()
    if d > 3:
        normal = torch.special.ndtri(u)
        return normal / normal.norm(dim=0)
    # A half sphere is all that an even function needs, and n points on it lie twice as close. The
    # last coordinate draws the sign.
    return torch.where(u[-1] < 0.5, -1.0, 1.0) * _half_sphere(u[:-1])


def _fake_sobol(seeds, d, n):
    return torch.empty(*seeds.shape[:-1], d, n, dtype=torch.float64, device="cpu")


# Opaque, because the compiler traces neither SobolEngine nor a seed that comes from a tensor.
_SOBOL_OP = _ops.register(
    "sobol_directions",
    "(Tensor seeds, SymInt d, SymInt n) -> Tensor",
    "projections:_sobol",
    _fake_sobol,
)


def _scrambled(scramble_seed, digits_seed, n, d):
    """Randomised Sobol' points (n, d), each uniform on the cells of width 2^-52 of the cube.

    The engine's points have 30 binary digits: a random linear scramble, which keeps them evenly
    spread, and a random digital shift, which makes each of them uniform. Further digits, as in
    Owen's scrambling of points that differ in their first 30, are independent. Cell midpoints are
    never 0 or 1, where the normal quantile is infinite, and are symmetric about 1/2.
    """
    engine = SobolEngine(d, scramble=True, seed=scramble_seed)
    first = engine.draw(n, dtype=torch.float64) * 2**SobolEngine.MAXBIT
    # A stream of its own: the engine has spent the one of its seed on the scramble.
    stream = torch.Generator("cpu").manual_seed(digits_seed)
    rest = torch.randint(2**DIGITS, (n, d), generator=stream, device="cpu")
    return (first * 2**DIGITS + rest + 0.5) / 2 ** (SobolEngine.MAXBIT + DIGITS)


def _half_sphere(u):
    """Equal-area map of the cube (d - 1, n) to a half sphere (d, n), for d up to 3."""
    if u.shape[0] == 0:
        return torch.ones(1, u.shape[1], dtype=u.dtype, device=u.device)
    if u.shape[0] == 1:
        angle = math.pi * u[0]
        return torch.stack([angle.cos(), angle.sin()])
    # Archimedes: the projection of the sphere onto the cylinder around it keeps areas.
    height, angle = u[0], 2 * math.pi * u[1]
    radius = ((1 - height) * (1 + height)).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height])
