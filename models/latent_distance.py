"""How far codes are from their prior, measured in the same way for every model."""

from functools import cache

import torch

from otkernels import sample_projections, sliced_wasserstein

__all__ = ["N_DIRECTIONS", "null_floor", "prior_distance"]

N_DIRECTIONS = 200
SEED = 1947  # not 0, with which models draw codes: noise and prior points would be the same numbers
FLOOR_PAIRS = 20


def prior_distance(codes, prior):
    """Sliced W_2^2 between codes (n, d) and n independent points of the prior.

    Points and directions are the same in every call of one size, so values of one run or of two
    runs compare. It is never 0 for finite n: :func:`null_floor` says what a perfect match gives.
    """
    generator = torch.Generator().manual_seed(SEED)
    points = prior.sample_independent(len(codes), generator)
    return _distance(codes.detach().float().cpu(), points, generator)


@cache
def null_floor(prior, n):
    """Mean sliced W_2^2 between two independent samples of n points of the prior."""
    generator = torch.Generator().manual_seed(SEED + 1)
    draws = [prior.sample_independent(n, generator) for _ in range(2 * FLOOR_PAIRS)]
    pairs = zip(draws[::2], draws[1::2], strict=True)
    return float(torch.stack([_distance(x, y, generator) for x, y in pairs]).mean())


def _distance(x, y, generator):
    projections = sample_projections(x.shape[1], N_DIRECTIONS, generator=generator)
    return sliced_wasserstein(x, y, projections=projections)
