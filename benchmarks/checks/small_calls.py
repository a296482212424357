"""One small call for each Triton kernel, for compute-sanitizer to watch, which slows 10 to 100 x.

Sizes are no multiples of blocks, there are several problems and programs, and matrices are
transposed: masks and strides are at work. Each call says for which kernels it is there.
``small`` runs them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

import otkernels

from .small_inputs import apart, covariances, near, normal, transposed, weights


@dataclass(frozen=True)
class Small:
    """A call of a public function.

    Attributes:
        name: what is special about it.
        kernels: which it is there for, as module._name.
        function: (*inputs, impl=) -> a tensor or some.
        inputs: () -> tensors on the CPU, from a seeded stream.
        leaves: so many of the first inputs have gradients.
        terms: additions chained behind one number, for the bound of ``measure``.
        condition: how much larger the sums are whose small difference a result is.
        quick: takes the interpreter a second or two.
        long: takes the interpreter minutes.
    """

    name: str
    kernels: tuple[str, ...]
    function: Callable
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    leaves: int = 2
    terms: int = 1
    condition: float = 1.0
    quick: bool = False
    long: bool = False


# --- functions ----------------------------------------------------------------------------------


def sliced(x, y, theta, *given, names=(), p=2, impl):
    """Sliced Wasserstein with weights or lengths by name."""
    options = dict(zip(names, given, strict=True))
    return otkernels.sliced_wasserstein(x, y, projections=theta, p=p, impl=impl, **options)


def bures(x, y, impl):
    """The distance of covariances with zero means."""
    mean = x.new_zeros(x.shape[:-1])
    return otkernels.bures_wasserstein(mean, x, mean, y, impl=impl)


def weighted_mmd(x, y, a, b, impl, **options):
    """A kernel loss of weighted clouds."""
    return otkernels.mmd(x, y, a=a, b=b, impl=impl, **options)


# Of covariances of 2d points: ((1 + r) / (1 - r))^2 with r^2 = d / 2d (Marchenko, Pastur 1967).
CONDITION = 34

# --- the calls ----------------------------------------------------------------------------------

SLICED = (
    Small(
        "sliced_wasserstein: rows in registers",
        ("matmul._matmul_kernel", "match._match_kernel"),
        sliced,
        lambda: apart(70, 37, 5),
        leaves=3,
        terms=70 * 5,
    ),
    Small(
        "sliced_wasserstein: one gradient, p = 1.5",
        ("match._match_kernel",),
        functools.partial(sliced, p=1.5),
        lambda: apart(33, 5, 3),
        leaves=1,
        terms=33 * 3,
    ),
    Small(
        "sliced_wasserstein: two runs merged while they are matched",
        ("rows._sort_run_kernel", "match._merge_match_kernel"),
        sliced,
        lambda: apart(4100, 3, 1),
        terms=4100,
    ),
    Small(
        "sliced_wasserstein: rows sorted by the library",
        ("match._rank_match_kernel",),
        sliced,
        lambda: apart(16_400, 2, 1),
        terms=16_400,
        long=True,
    ),
    Small(
        "sliced_wasserstein: float64",
        ("match._rank_match_kernel",),
        sliced,
        lambda: apart(600, 5, 2, dtype=torch.float64),
        terms=600 * 2,
    ),
    Small(
        "sliced_wasserstein: clouds of unequal sizes, two runs merged",
        ("rows._merge_kernel", "cells._cells_kernel"),
        sliced,
        lambda: apart(8200, 2, 1, m=300),
        terms=8200,
    ),
    Small(
        "sliced_wasserstein: weights and their gradients",
        ("cells._levels_kernel", "cells._cells_kernel", "cells._potential_kernel"),
        lambda x, y, a, b, theta, impl: sliced(x, y, theta, a, b, names=("a", "b"), impl=impl),
        lambda: (*(c := apart(1100, 3, 1, m=300))[:2], weights(1100, (2,)), weights(300), c[2]),
        leaves=4,
        terms=1100,
    ),
    Small(
        "sliced_wasserstein: lengths",
        ("rows._sort_run_kernel", "cells._cells_kernel"),
        functools.partial(sliced, names=("x_lengths", "y_lengths")),
        lambda: (*apart(300, 3, 2, m=70), torch.tensor([300, 41]), torch.tensor([1, 69])),
        terms=300 * 2,
    ),
    Small(
        "sliced_wasserstein_to_normal: lengths",
        ("rows._sort_run_kernel", "cells._cells_kernel"),
        lambda x, theta, lengths, impl: otkernels.sliced_wasserstein_to_normal(
            x / 64, projections=theta, x_lengths=lengths, impl=impl
        ),
        lambda: (*apart(300, 3, 2)[::2], torch.tensor([299, 41])),
        leaves=1,
        terms=300 * 2,
    ),
)
KERNEL_SUMS = (
    Small(
        "mmd: differences, shares, weights and their gradients",
        ("walks._differences_kernel", "mmd._totals_kernel"),
        functools.partial(weighted_mmd, bandwidth=(1.0, 2.0)),
        lambda: (*normal(250, 70, 5), 0.1 + weights(250, (2,)), 0.1 + weights(70)),
        leaves=4,
        terms=320 * 5,
    ),
    Small(
        "mmd: products of coordinates in two blocks",
        ("split._extent_kernel", "split._split_kernel", "walks._products_kernel"),
        functools.partial(otkernels.mmd, bandwidth=8.0),
        lambda: normal(250, 70, 70),
        terms=320 * 70,
    ),
    Small(
        "mmd: points close together",
        ("walks._products_kernel", "walks._near_kernel"),
        functools.partial(otkernels.mmd, kernel="laplacian", bandwidth=4.0),
        lambda: near(150, 70, 20),
        terms=220 * 20,
    ),
    Small(
        "mmd: float64",
        ("walks._products_kernel", "walks._near_kernel"),
        functools.partial(otkernels.mmd, kernel="energy"),
        lambda: tuple(t.double() for t in near(70, 35, 20)),
        terms=105 * 20,
    ),
    Small(
        "mmd: polynomial",
        ("walks._products_kernel",),
        functools.partial(otkernels.mmd, kernel="polynomial"),
        lambda: normal(70, 35, 20),
        terms=105 * 20,
    ),
)
MATRICES = (
    Small(
        "mean_cov: one share",
        ("moments._products_kernel",),
        otkernels.mean_cov,
        lambda: (transposed(normal(50, 1, 37)[1]),),
        leaves=1,
        terms=50,
        quick=True,
    ),
    Small(
        "mean_cov: weights, shares merged",
        ("moments._products_kernel", "moments._merge_kernel"),
        lambda x, w, impl: otkernels.mean_cov(x, weights=w, impl=impl),
        lambda: (normal(300, 1, 70)[0], weights(300, (2,))),
        terms=300,
    ),
    Small(
        "bures_wasserstein: on chip",
        (
            "factor._factor_kernel",
            "products._product_kernel",
            "polar._start_kernel",
            "polar._polar_kernel",
            "polar._value_kernel",
            "covariance_gradient._gradient_kernel",
        ),
        bures,
        lambda: tuple(map(transposed, covariances(37, 2))),
        terms=4 * 37,
        condition=CONDITION,
    ),
    Small(
        "bures_wasserstein: singular",
        ("polar_double._polar_kernel", "covariance_gradient._gradient_kernel"),
        bures,
        lambda: (*covariances(19, 1, ranks=(3, None)), *covariances(19, 1)),
        terms=4 * 19,
        condition=CONDITION,
    ),
    Small(
        "bures_wasserstein: float64",
        ("polar_double._polar_kernel",),
        bures,
        lambda: tuple(covariances(19, 2, torch.float64)),
        terms=4 * 19,
        condition=CONDITION,
    ),
    Small(
        "gaussian_wasserstein: fewer points than coordinates",
        ("polar_double._polar_kernel", "products._product_kernel"),
        otkernels.gaussian_wasserstein,
        lambda: normal(9, 7, 19),
        terms=4 * 19,
    ),
    Small(
        "sqrtm: factors in memory",
        ("factor._long_factor_kernel", "products._product_kernel"),
        otkernels.sqrtm,
        lambda: tuple(covariances(70, 1)),
        leaves=0,
        terms=4 * 70,
        condition=CONDITION,
    ),
    Small(
        "sqrtm: singular, beyond a tile",
        ("factor_large._pivoted_kernel", "products._product_kernel"),
        otkernels.sqrtm,
        lambda: tuple(covariances(130, 1, ranks=(3, None))),
        leaves=0,
        terms=4 * 130,
        condition=CONDITION,
    ),
    Small(
        "sqrtm: gradient",
        ("products._product_kernel",),
        otkernels.sqrtm,
        lambda: tuple(covariances(19, 1)),
        leaves=1,
        terms=4 * 19,
        condition=CONDITION,
    ),
    Small(
        "bures_wasserstein: the largest tiles of products",
        ("products._product_kernel",),
        bures,
        lambda: tuple(covariances(520, 2)),
        terms=4 * 520,
        condition=CONDITION,
        long=True,
    ),
)
CALLS = (*SLICED, *KERNEL_SUMS, *MATRICES)
