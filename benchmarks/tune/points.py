"""What to tune for sliced losses and kernel sums: the launchers' choices and other values.

Values are bounded by what the kernels can take: powers of two, tiles that divide their padding, a
network that fits in registers. Which of them spill is found out by compiling.
"""

import torch

from otkernels.kernels import cells, match, matmul, mmd, rows, sliced, split

from .choices import Name, Smoke, Table
from .problems import case, goals

MB = 2**20
_TINY = case("sliced_wasserstein", 1, 20, 2, 1, mode="forward")
_TINY_CLOUDS = case("mmd", 1, 20, 9, mode="forward")
_UNEQUAL = case("sliced_wasserstein-unequal", 1, 20, 2, 1, 15, mode="forward")
_WEIGHTS = case("sliced_wasserstein-weights", 1, 20, 2, 1, mode="forward")

# --- sliced Wasserstein -------------------------------------------------------------------------


def _run(n):
    """How long the rows are that one program sorts."""
    return n if n <= match.FUSED else -(-n // 2)


def _threads(shape):
    """From 2 to 32 elements a thread."""
    log, _ = rows.sort_config(_run(shape.N))
    return [((log, t),) for t in (2**log // e for e in (2, 4, 8, 16, 32)) if 32 <= t <= 1024]


SORT = Table(
    "sort: threads of a row",
    lambda shape: (Name("sort_config", (rows, match), (_run(shape.N),)),),
    _threads,
    (
        *goals("sliced_wasserstein", "B1-N4096-D64-L1024", "B64-N512-D32-L256"),
        *goals("sliced_wasserstein", "B1-N1024-D64-L1024", "B1-N16384-D64-L1024"),
    ),
    Smoke(case("sliced_wasserstein", 1, 70, 2, 1, mode="forward"), ((7, 64),)),
)
SORT_REGISTERS = Table(
    "sort: registers of 512 threads",
    lambda shape: (Name("launch_options", (rows, match), (512,)),),
    lambda shape: [({"num_warps": 16},), ({"num_warps": 16, "maxnreg": 96},)],
    goals("sliced_wasserstein", "B1-N4096-D64-L1024", "B1-N16384-D64-L1024"),
    Smoke(
        case("sliced_wasserstein", 1, 20, 2, 1, mode="forward"),
        ({"num_warps": 16},),
        ((Name("sort_config", (rows, match), (20,)), (9, 512)),),
    ),
)


def _ways(shape):
    """In one program, in two runs and by the library, as far as rows can be."""
    n = shape.N
    if n <= match.FUSED:
        return [(0, match.MERGED), (0, 0)]
    return [*([(n, match.MERGED)] if n <= rows.LONGEST_RUN else []), (match.FUSED, 0)]


WAYS = Table(
    "sort: one program, two runs or the library",
    lambda shape: (Name("FUSED", (match,)), Name("MERGED", (match, sliced))),
    _ways,
    (
        *goals("sliced_wasserstein", "B1-N16384-D64-L1024", "B1-N4096-D64-L1024"),
        case("sliced_wasserstein", 1, 8192, 64, 128),
        *goals("sliced_wasserstein", "B64-N512-D32-L256"),
    ),
    Smoke(_TINY, (0, match.MERGED)),
)
MERGE_RANKS = Table(
    "match: ranks of a program",
    lambda shape: (Name("RANKS", (rows, match)),),
    lambda shape: [(ranks,) for ranks in (128, 256, 512, 1024, 2048)],
    (
        *goals("sliced_wasserstein", "B1-N16384-D64-L1024", "B1-N65536-D64-L128"),
        *goals("sliced_wasserstein-unequal", "B1-N16384-M12288-D64-L1024"),
    ),
    Smoke(_TINY, (16,), ((Name("FUSED", (match,)), 0),)),
)


def _chunk_bytes(shape):
    """Up to the first that holds all directions."""
    whole = 8 * shape.B * shape.N * shape.L
    sizes = [size * MB for size in (6, 12, 24, 48, 96, 192)]
    return [(size,) for size in sizes if size // 2 < whole]


CHUNKS = Table(
    "sliced: bytes of a chunk",
    lambda shape: (Name("CHUNK_BYTES", (sliced,)),),
    _chunk_bytes,
    goals("sliced_wasserstein", "B1-N16384-D64-L1024", "B64-N512-D32-L256", "B1-N4096-D64-L1024"),
    Smoke(case("sliced_wasserstein", 1, 20, 2, 2, mode="forward"), (2 * 4 * 20,)),
)
CHUNKS_SORTED = Table(
    "sliced: bytes of a chunk that the library sorts",
    lambda shape: (Name("CHUNK_BYTES_SORTED", (sliced,)),),
    lambda shape: [(size * MB,) for size in (32, 64, 128, 256, 512)],
    goals("sliced_wasserstein", "B1-N65536-D64-L128"),
    Smoke(
        case("sliced_wasserstein", 1, 20, 2, 2, mode="forward"),
        (2 * 16 * 20,),
        ((Name("FUSED", (match,)), 0), (Name("MERGED", (match, sliced)), 0)),
    ),
)
_TILES = [
    (64, 64, 32, 8), (64, 64, 16, 4), (64, 64, 64, 8), (32, 64, 32, 4), (64, 32, 32, 4),
    (128, 64, 32, 8), (64, 128, 32, 8), (128, 128, 32, 8),
]  # fmt: skip


def _directions(shape):
    return min(shape.L, sliced.directions_per_chunk(shape.B, shape.N, torch.float32))


def _tiles(shape):
    return [(tile,) for tile in _TILES]


_PRODUCTS = goals(
    "sliced_wasserstein",
    "B1-N4096-D64-L1024",
    "B64-N512-D32-L256",
    "B1-N1024-D64-L128",
    "B1-N16384-D64-L1024",
)
PROJECTION = Table(
    "matmul: tile of the projection",
    lambda s: (Name("matmul_config", (matmul,), (_directions(s), s.N, torch.float32)),),
    _tiles,
    _PRODUCTS,
    Smoke(_TINY, ((16, 16, 32, 4),)),
)
GRADIENT = Table(
    "matmul: tile of the gradient",
    lambda s: (Name("matmul_config", (matmul,), (s.N, s.D, torch.float32)),),
    _tiles,
    _PRODUCTS,
    Smoke(case("sliced_wasserstein", 1, 20, 2, 1), ((16, 16, 32, 4),)),
)
CELLS = Table(
    "cells: ranks of a program",
    lambda shape: (Name("RANKS", (cells,)),),
    lambda shape: [(ranks,) for ranks in (64, 128, 256, 512, 1024)],
    (
        *goals("sliced_wasserstein-unequal", "B1-N16384-M12288-D64-L1024"),
        *goals("sliced_wasserstein-weights", "B1-N16384-D64-L1024"),
        *goals("sliced_wasserstein-ragged", "B64-N512-D32-L256"),
        *goals("sliced_wasserstein-unequal", "B1-N1024-M768-D64-L128"),
    ),
    Smoke(_UNEQUAL, (16,)),
)
LEVELS = Table(
    "cells: masses added at a time",
    lambda shape: (Name("SUMMED", (cells,)),),
    lambda shape: [(size,) for size in (256, 512, 1024, 2048, 4096)],
    goals("sliced_wasserstein-weights", "B1-N16384-D64-L1024", "B1-N1024-D64-L128"),
    Smoke(_WEIGHTS, (64,)),
)

# --- kernel sums --------------------------------------------------------------------------------


def _tile_names(shape):
    direct = shape.D <= mmd.DIRECT
    at = shape.D, torch.float32, direct
    return Name("config", (mmd,), at), Name("ROWS", (mmd, split))


def _pair_tiles(shape):
    """Tiles of rows, columns and coordinates, and warps; points are padded to whole tiles."""
    if shape.D <= mmd.DIRECT:
        width = mmd.config(shape.D, torch.float32, True)[2]
        sizes = [(64, 32, 2), (32, 32, 4), (64, 64, 4), (64, 64, 8), (128, 32, 4), (128, 64, 8)]
        found = [(m, n, width, warps) for m, n, warps in (*sizes, (64, 128, 8))]
    elif shape.D <= 64:
        width = mmd.config(shape.D, torch.float32, False)[2]
        sizes = [(64, 32, 8), (64, 64, 4), (64, 64, 8), (128, 32, 8), (128, 64, 8), (128, 128, 8)]
        found = [(m, n, width, warps) for m, n, warps in (*sizes, (32, 32, 4), (64, 16, 4))]
    else:
        found = [
            (64, 32, 64, 4), (64, 64, 64, 8), (128, 32, 64, 8), (128, 64, 64, 8), (64, 32, 32, 4),
            (64, 32, 128, 8), (64, 64, 128, 8), (128, 64, 128, 8),
        ]  # fmt: skip
    return [(tile, max(split.ROWS, *tile[:2])) for tile in found]


PAIRS = Table(
    "mmd: tile of pairs",
    _tile_names,
    _pair_tiles,
    (
        *goals("mmd", "B1-N16384-D64", "B1-N65536-D8", "B1-N4096-D64", "B1-N1024-D64"),
        *goals("energy_distance", "B1-N4096-D64"),
        *goals("mmd", "B1-N65536-D512", "B64-N128-D16"),
    ),
    Smoke(_TINY_CLOUDS, ((32, 32, 16, 4), 64)),
)
PAIRS_REGISTERS = Table(
    "mmd: registers",
    lambda shape: (Name("register_limit", (mmd,), ()),),
    lambda shape: [({},), ({"maxnreg": 128},), ({"maxnreg": 168},)],
    goals("mmd", "B1-N16384-D64", "B1-N4096-D64"),
    Smoke(_TINY_CLOUDS, ({},)),
)
DIFFERENCES = Table(
    "mmd: dimensions taken by differences",
    lambda shape: (Name("DIRECT", (mmd,)),),
    lambda shape: [(shape.D if shape.D > mmd.DIRECT else 0,)],
    goals("mmd", "B1-N65536-D8", "B64-N128-D16", "B1-N500-D8"),
    Smoke(case("mmd", 1, 20, 2, mode="forward"), (0,)),
)


def _blocks(shape):
    """Blocks of rows and of columns."""
    rows_each, columns_each, *_ = mmd.config(shape.D, torch.float32, shape.D <= mmd.DIRECT)
    padded = -(-shape.N // split.ROWS) * split.ROWS
    return shape.B * padded // rows_each, -(-shape.N // columns_each)


SHARES = Table(
    "mmd: shares of the columns",
    lambda shape: (Name("shares_of", (mmd,), _blocks(shape)),),
    lambda shape: [(shares,) for shares in (1, 2, 4, 8, 16, 32)],
    goals("mmd", "B1-N4096-D64", "B1-N1024-D64", "B1-N500-D8"),
    Smoke(case("mmd", 1, 33, 9, mode="forward"), (2,)),
)


def _split(shape):
    """Coordinates at a time, and other shares than there are, which points may limit."""
    limit = 2 ** (-(-shape.N // (4 * split.ROWS)) - 1).bit_length()
    other = limit // 2 if limit <= split.SHARES else 2 * split.SHARES
    return [(columns, s) for columns in (16, 32, 64) for s in (split.SHARES, other)]


SPLIT = Table(
    "split: coordinates at a time and programs of a cloud",
    lambda shape: (Name("COLUMNS", (split,)), Name("SHARES", (split,))),
    _split,
    goals("mmd", "B1-N16384-D64", "B1-N4096-D64"),
    Smoke(_TINY_CLOUDS, (8, 32)),
)
TOTALS = Table(
    "mmd: potentials added at a time",
    lambda shape: (Name("SUMMED", (mmd,)),),
    lambda shape: [(size,) for size in (128, 256, 512, 1024, 2048)],
    goals("mmd", "B1-N65536-D8", "B1-N4096-D64"),
    Smoke(_TINY_CLOUDS, (64,)),
)
