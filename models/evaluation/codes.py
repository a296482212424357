"""How far the law that is decoded is from the law of the codes, in units that compare."""

from functools import cache

import torch

from otkernels import (
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
    mmd,
    sample_projections,
    sliced_wasserstein,
    wae_bandwidths,
)

from ..latent_distance import N_DIRECTIONS, null_floor, prior_distance

__all__ = ["distances", "prior_distances"]

SEED = 0
FLOOR_DRAWS = 20


def distances(codes, points):
    """MMD^2, sliced W_2^2 and Gaussian W_2^2 of points (m, d) to codes (n, d), by name.

    Both clouds are first centred on the codes and divided by one number, the root mean square of
    the coordinates of the centred codes. So the figures do not depend on the units of a latent
    space, and those of one system compare with those of another: a single point in place of the
    points gives d or more for the Gaussian distance, at least 1 for the sliced one. MMD is the
    unbiased statistic with the seven bandwidths of the WAE; directions are always the same ones.
    NaN where all codes coincide.
    """
    centre = codes.mean(0)
    scale = (codes - centre).square().mean().sqrt()
    x, y = (codes - centre) / scale, (points - centre) / scale
    generator = torch.Generator().manual_seed(SEED)
    projections = sample_projections(x.shape[1], N_DIRECTIONS, generator=generator)
    return {
        "mmd": _wae_mmd(x, y).item(),
        "sw2": sliced_wasserstein(x, y, projections=projections).item(),
        "gw2": gaussian_wasserstein(x, y).item(),
    }


def prior_distances(codes, prior):
    """Distances of codes (n, d) to the prior in its own units, by name.

    The sliced one for every prior; MMD and Gaussian W_2^2 where it is Gaussian, for only then are
    bandwidths and moments known.
    """
    figures = {
        "sw2": float(prior_distance(codes, prior)),
        "sw2_floor": null_floor(prior, len(codes)),
    }
    if prior.name == "gaussian":
        generator = torch.Generator().manual_seed(SEED)
        points = prior.sample_independent(len(codes), generator)
        figures["mmd"] = _wae_mmd(codes / prior.scale, points / prior.scale).item()
        figures["gw2"] = _to_gaussian(codes, prior)
        figures["gw2_floor"] = _gaussian_floor(prior, len(codes))
    return figures


def _wae_mmd(x, y):
    """Unbiased MMD^2 of clouds whose coordinates have variance about 1."""
    bandwidths = wae_bandwidths(x.shape[1])
    return mmd(x, y, kernel="imq", bandwidth=bandwidths, unbiased=True)


def _to_gaussian(codes, prior):
    """Gaussian W_2^2 of codes (n, d) to N(0, scale^2 I)."""
    return prior.scale**2 * gaussian_wasserstein_to_normal(codes / prior.scale).item()


@cache
def _gaussian_floor(prior, n):
    """Mean of :func:`_to_gaussian` over samples of n points of the prior."""
    generator = torch.Generator().manual_seed(SEED + 1)
    draws = [_to_gaussian(prior.sample(n, generator), prior) for _ in range(FLOOR_DRAWS)]
    return sum(draws) / len(draws)
