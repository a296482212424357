"""What can be decoded: the law of a system, and baselines fitted to the codes of its encoder.

A law maps (model, training codes (N, d), n, generator) to n codes (n, d), in random order.
"""

import torch
from sklearn.mixture import GaussianMixture

from otkernels import mean_cov, sqrtm

from ..errors import require

__all__ = ["LAWS"]

COMPONENTS = 10


@torch.no_grad()
def prior(model, codes, n, generator):
    """What the system itself decodes: prior points, through its map where it has one."""
    points = model.prior.sample_independent(n, generator)
    return model.transport(points.to(model.device)).cpu()


def unit(model, codes, n, generator):
    """A round Gaussian of the centre of the codes and the root mean square of their coordinates."""
    centre = codes.mean(0)
    scale = (codes - centre).square().mean().sqrt()
    return centre + scale * torch.randn(n, codes.shape[1], generator=generator)


def gaussian(model, codes, n, generator):
    """The Gaussian of the codes' mean and covariance."""
    mean, cov = mean_cov(codes.double(), correction=1)
    noise = torch.randn(n, codes.shape[1], generator=generator, dtype=torch.float64)
    return (mean + noise @ sqrtm(cov)).to(codes.dtype)


def mixture(model, codes, n, generator):
    """A mixture of 10 Gaussians of any covariance, fitted by expectation maximisation."""
    ok = len(codes) >= COMPONENTS
    require(ok, "mixture", "codes", f"be at least {COMPONENTS}", len(codes))
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    fitted = GaussianMixture(COMPONENTS, random_state=seed).fit(codes.double().numpy())
    drawn = torch.from_numpy(fitted.sample(n)[0]).to(codes.dtype)
    return drawn[torch.randperm(n, generator=generator)]  # they come component by component


def real(model, codes, n, generator):
    """The codes themselves, none of them twice: at most all N of them. What the decoder allows."""
    return codes[torch.randperm(len(codes), generator=generator)[:n]]


LAWS = {"prior": prior, "unit": unit, "gaussian": gaussian, "mixture": mixture, "codes": real}
