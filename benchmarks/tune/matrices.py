"""What to tune for Gaussian distances, roots and moments: the launchers' choices, other values."""

import torch

from otkernels.kernels import (
    bures,
    covariance_gradient,
    factor,
    factor_large,
    moments,
    polar,
    polar_double,
    products,
    sqrtm,
)

from .choices import Name, Smoke, Table
from .problems import case, goals

_TINY = case("bures_wasserstein", 1, None, 3, mode="forward")
_TINY_ROOT = case("sqrtm", 1, None, 3, mode="forward")
_TINY_POINTS = case("mean_cov", 1, 40, 3, mode="forward")
# Interpreted, a root takes the steps of a small condition only.
_FEW_STEPS = (Name("OCTAVES", (sqrtm,)), 7)
_FACTOR_LARGEST = Name("LARGEST", (factor, bures))


def _values(*tiles):
    return lambda shape: [(tile,) for tile in tiles]


def _factor(shape):
    """As chosen with other warps; in memory, with other steps too."""
    tile, step, warps = factor.config(shape.D)
    found = [(step, w) for w in (warps // 4, warps // 2, 2 * warps, 4 * warps) if 1 <= w <= 16]
    if step:
        found += [(step // 2, warps), (2 * step, warps), (2 * step, 2 * warps)]
    return [((tile, *each),) for each in found]


FACTOR = Table(
    "factor: steps and warps",
    lambda shape: (Name("config", (factor,), (shape.D,)),),
    _factor,
    goals("bures_wasserstein", "B8192-D32", "B1024-D64", "B1024-D128", "B64-D128"),
    Smoke(_TINY, ((4, 0, 2),)),
)
FACTOR_SHORT = Table(
    "factor: rows in registers",
    lambda shape: (Name("SHORT", (factor,)),),
    lambda shape: [(shape.D // 2,)],
    goals("bures_wasserstein", "B1024-D64", "B1024-D32"),
    Smoke(_TINY, (2,)),
)
FACTOR_LARGEST = Table(
    "factor: one program or the library",
    lambda shape: (_FACTOR_LARGEST,),
    lambda shape: [(shape.D // 2,)],
    goals("bures_wasserstein", "B1024-D128", "B64-D128", "B1024-D64"),
    Smoke(_TINY_ROOT, (2,), (_FEW_STEPS,)),
)
FACTOR_SINGULAR = Table(
    "factor: singular matrices of many rows",
    lambda shape: (Name("config", (factor_large,), (shape.D,)),),
    _values((512, 2, 8), (512, 8, 8), (512, 4, 4), (512, 4, 16), (512, 8, 16), (512, 16, 16)),
    (case("bures_wasserstein-singular", 16, None, 512),),
    Smoke(_TINY_ROOT, ((4, 16, 4),), ((_FACTOR_LARGEST, 2), _FEW_STEPS)),
)
_POLAR = {
    16: [(16, 16, 2), (16, 16, 4), (32, 16, 4)],
    32: [(32, 32, 1), (32, 32, 2), (32, 32, 8), (64, 32, 8)],
    64: [(64, 64, 4), (64, 64, 16)],
}
POLAR = Table(
    "polar: tile and warps",
    lambda shape: (Name("config", (polar,), (shape.D,)),),
    lambda shape: [(tile,) for tile in _POLAR[shape.D]],
    goals("bures_wasserstein", "B8192-D32", "B1024-D64", "B1024-D16"),
    Smoke(_TINY, ((16, 16, 1),)),
)
POLAR_HALVED = Table(
    "polar: rows from which halves are multiplied",
    lambda shape: (Name("HALVED", (polar,)),),
    lambda shape: [(shape.D if shape.D < polar.HALVED else 2 * shape.D,)],
    goals("bures_wasserstein", "B8192-D32", "B1024-D64", "B1024-D16"),
    Smoke(_TINY, (16,)),
)
POLAR_LARGEST = Table(
    "polar: one program or batched products",
    lambda shape: (Name("LARGEST", (polar,)),),
    lambda shape: [(shape.D // 2,)],
    goals("bures_wasserstein", "B1024-D64", "B8192-D32"),
    Smoke(_TINY, (2,)),
)
POLAR_BLOCK = Table(
    "polar: tile of start and value",
    lambda shape: (Name("block_config", (polar,), (shape.D,)),),
    lambda shape: [((16, 1),), ((16, 2),), ((32, 2),), ((32, 8),), ((64, 8),)],
    goals("bures_wasserstein", "B8192-D32", "B1024-D64", "B1024-D128"),
    Smoke(_TINY, ((16, 2),)),
)
DOUBLE = Table(
    "polar_double: tile of the float64 products, gradients included",
    lambda shape: (Name("config", (polar_double, covariance_gradient), (shape.D,)),),
    lambda shape: [((16, 1),), ((16, 2),), ((16, 4),), ((32, 2),), ((32, 8),), ((64, 8),)],
    (
        *goals("bures_wasserstein", "B8192-D32", "B1024-D64", "B1024-D128", "B64-D128"),
        case("bures_wasserstein-singular", 64, None, 64),
    ),
    Smoke(_TINY, ((16, 4),)),
)
DOUBLE_PROGRAMS = Table(
    "polar_double: programs at a time, gradients included",
    lambda shape: (Name("PROGRAMS", (polar_double, covariance_gradient)),),
    lambda shape: [(132,), (264,), (1056,), (2112,)],
    (
        *goals("bures_wasserstein", "B8192-D32", "B1024-D128"),
        case("bures_wasserstein-singular", 2048, None, 32),
    ),
    Smoke(case("bures_wasserstein", 2, None, 3, mode="forward"), (1,)),
)

# --- batched products ---------------------------------------------------------------------------

_LARGE = goals("bures_wasserstein", "B64-D512", "B1-D2048", "B1024-D128")


def _product(dtype, symmetric):
    return lambda shape: (Name("config", (products,), (shape.D, shape.D, dtype, symmetric)),)


PRODUCTS = Table(
    "products: tile, float32",
    _product(torch.float32, False),
    _values(
        (64, 64, 32, 8), (64, 64, 32, 4), (64, 64, 64, 8), (128, 64, 32, 8), (128, 64, 16, 8),
        (64, 128, 32, 8), (128, 128, 32, 8), (128, 128, 16, 8),
    ),
    _LARGE,
    Smoke(_TINY_ROOT, ((16, 32, 32, 4),), (_FEW_STEPS,)),
)  # fmt: skip
PRODUCTS_SYMMETRIC = Table(
    "products: tile of symmetric results, float32",
    _product(torch.float32, True),
    _values(
        (32, 32, 32, 4), (64, 64, 16, 4), (64, 64, 16, 8), (64, 64, 64, 8), (128, 128, 16, 8),
        (128, 128, 32, 8),
    ),
    _LARGE,
    Smoke(_TINY_ROOT, ((32, 32, 32, 4),), (_FEW_STEPS,)),
)  # fmt: skip
PRODUCTS_DOUBLE = Table(
    "products: tile, float64",
    _product(torch.float64, False),
    _values(
        (32, 32, 16, 4), (32, 64, 16, 4), (64, 64, 16, 4), (64, 64, 32, 8), (64, 64, 8, 8),
        (128, 64, 16, 8),
    ),
    _LARGE,
    Smoke(_TINY, ((32, 32, 16, 4),)),
)  # fmt: skip
PRODUCTS_REGISTERS = Table(
    "products: registers of symmetric tiles",
    lambda shape: (Name("register_limit", (products,), (64, True)),),
    lambda shape: [({},), ({"maxnreg": 128},)],
    _LARGE[:1],
    Smoke(
        _TINY_ROOT,
        ({},),
        ((_product(torch.float32, True)(_TINY_ROOT.shape)[0], (64, 64, 32, 8)), _FEW_STEPS),
    ),
)

# --- moments ------------------------------------------------------------------------------------


def _moments(shape):
    """Features of a tile, points at a time, warps."""
    side, block, warps = moments.config(shape.D, torch.float32)
    found = [(side, b, w) for b in (block, 2 * block, 4 * block) for w in (warps // 2, warps)]
    larger = [(2 * side, block, 8)] if side < shape.D else []
    return [(tile,) for tile in (*found, (side // 2, 2 * block, 4), *larger)]


MOMENTS = Table(
    "moments: tile",
    lambda shape: (Name("config", (moments,), (shape.D, torch.float32)),),
    _moments,
    goals("mean_cov", "B1-N1000000-D64", "B1-N50000-D2048", "B1-N4096-D64"),
    Smoke(_TINY_POINTS, ((16, 32, 4),)),
)
MOMENTS_REGISTERS = Table(
    "moments: registers",
    lambda shape: (Name("register_limit", (moments,), ()),),
    lambda shape: [({},), ({"maxnreg": 128},)],
    goals("mean_cov", "B1-N1000000-D64", "B1-N50000-D2048"),
    Smoke(_TINY_POINTS, ({},)),
)


def _tiles_and_blocks(shape):
    """Tiles of all problems, and blocks of points."""
    side, block, _ = moments.config(shape.D, torch.float32)
    tiles = -(-shape.D // side)
    return shape.B * tiles * (tiles + 1) // 2, -(-shape.N // block)


MOMENTS_SHARES = Table(
    "moments: shares of the points",
    lambda shape: (Name("shares_of", (moments,), _tiles_and_blocks(shape)),),
    lambda shape: [(n,) for n in (1, 8, 32, 64, 128, 256, 512) if n <= _tiles_and_blocks(shape)[1]],
    goals("mean_cov", "B1-N1000000-D64", "B1-N4096-D64"),
    Smoke(_TINY_POINTS, (3,)),
)
