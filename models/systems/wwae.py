"""Wasserstein-Wasserstein autoencoder: mean and covariance of the codes are pulled to the prior."""

from functools import cache

import torch

from otkernels import bures_wasserstein, mean_cov

from ..autoencoder import Autoencoder
from ..errors import require
from ..posterior import Posterior
from .vae import noise_share

__all__ = ["WWAE", "code_moments", "gaussian_distance", "prior_moments"]

COVARIANCES = ("full", "diagonal")
MOMENTS = ("analytic", "sampled")
# Of each coordinate in d dimensions, at scale 1; means are 0 and coordinates uncorrelated.
VARIANCES = {"gaussian": lambda d: 1.0, "uniform": lambda d: 1 / 3, "sphere": lambda d: 1 / d}
N_PRIOR = 100_000


class WWAE(Autoencoder):
    """Autoencoder whose penalty is the W_2^2 between two Gaussians, that of codes and of the prior.

    Zhang, Gao, Jiao, Liu, Wang, Yang 2019, "Wasserstein-Wasserstein auto-encoders" (abstract): both
    laws are taken as Gaussian, so the distance has a closed form and the prior is never sampled;
    encoders are Gaussian and reparameterised. The choices below are ours: the body of the paper was
    not at hand.

    A penalty of 0 means equal means and covariances, no more: eight clusters with mean 0 and
    covariance I pass as N(0, I), and so does an encoder of pure noise. ``val/prior_distance`` sees
    the first, ``val/noise_share`` the second. A batch has to be several times the dimension of the
    codes, for codes of the prior itself cost about (d + d (d + 1) / 4) / n with a full covariance.

    Args:
        weight: strength of the penalty.
        covariance: "full", or "diagonal" to compare variances only and leave correlations free.
        moments: "analytic" for those of the mixture of all posteriors, by the law of total
            variance; "sampled" for those of one drawn code an item. Without a random encoder they
            are the same.
        momentum: of the moments' running means over batches, in [0, 1); 0 is the batch alone.
        **kwargs: see :class:`Autoencoder`. With ``random_encoder=True`` the encoder is the paper's;
            without, our default, digits were reconstructed better and sampled as well.
    """

    penalty_name = "Gaussian W2^2"

    def __init__(
        self,
        weight: float = 1.0,
        covariance: str = "full",
        moments: str = "analytic",
        momentum: float = 0.0,
        **kwargs,
    ):
        for argument, value, known in (
            ("covariance", covariance, COVARIANCES),
            ("moments", moments, MOMENTS),
        ):
            names = " or ".join(map(repr, known))
            require(value in known, "WWAE", argument, f"be {names}", repr(value))
        require(0 <= momentum < 1, "WWAE", "momentum", "be in [0, 1)", momentum)
        super().__init__(weight=weight, **kwargs)
        self.covariance, self.moments, self.momentum = covariance, moments, momentum
        for name, moment in zip(("mean", "cov"), prior_moments(self.prior), strict=True):
            self.register_buffer(f"prior_{name}", moment.float(), persistent=False)
            self.register_buffer(f"running_{name}", torch.zeros_like(moment).float())
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def penalties(self, posterior, codes, points, generator):
        """The distance of the codes' moments to the prior's; ``points`` are not used."""
        n, law = len(codes), Posterior(codes) if self.moments == "sampled" else posterior
        n *= self.processes
        require(n > 1, "WWAE", "batch_size", "be at least 2, for a covariance", n)
        moments = code_moments(law, self.of_all(mean_cov))
        if self.momentum > 0 and self.training:
            moments = self._running(moments)
        target = self.prior_mean, self.prior_cov
        return {"penalty": gaussian_distance(moments, target, self.covariance)}

    def _running(self, moments):
        """Running means that include this batch, with the gradient of this batch's moments.

        A batch counts (1 - momentum) / (1 - momentum^t) in step t: 1 in the first and no bias
        to the zeros that the buffers start with. The gradient is not damped by that share but
        that of the objective at better moments, so ``weight`` means the same for any momentum.
        """
        self.batches += 1
        share = (1 - self.momentum) / (1 - self.momentum ** self.batches.double())
        values = []
        for batch, running in zip(moments, (self.running_mean, self.running_cov), strict=True):
            running.lerp_(batch.detach().to(running), share.to(running))
            values.append(batch + (running - batch).detach())
        return values

    def evaluate(self, posterior, errors):
        """As :meth:`Autoencoder.evaluate`; with a random encoder also :func:`.vae.noise_share`."""
        metrics = super().evaluate(posterior, errors)
        return metrics if posterior.variance is None else {**metrics, **noise_share(posterior)}


def code_moments(posterior, moments=mean_cov):
    """Mean (d,) and covariance (d, d) of codes that are drawn from n posteriors.

    The law of total variance: the mean of the variances plus the covariance of the means, over
    n - 1. Without variances that of the codes themselves. ``moments`` is otkernels.mean_cov, or
    that of otkernels.distributed for the posteriors of all processes.
    """
    mean, cov = moments(posterior.mean, correction=1)
    if posterior.variance is not None:
        cov = cov + torch.diag(moments(posterior.variance)[0])
    return mean, cov


def gaussian_distance(moments, target, covariance="full"):
    """W_2^2 between the Gaussians of two pairs (mean (d,), cov (d, d)): a scalar."""
    (mean, cov), (other_mean, other_cov) = moments, (part.to(moments[0]) for part in target)
    diagonal = covariance == "diagonal"
    if diagonal:
        cov, other_cov = cov.diagonal(), other_cov.diagonal()
    return bures_wasserstein(mean, cov, other_mean, other_cov, diagonal=diagonal)


@cache
def prior_moments(prior):
    """Mean (d,) and covariance (d, d) of a prior, float64.

    Closed forms for the priors gaussian, uniform and sphere. Those of any other are the moments of
    100 000 of its points, always the same ones.
    """
    if prior.name in VARIANCES:
        eye = torch.eye(prior.dim, dtype=torch.float64)
        return eye.new_zeros(prior.dim), prior.scale**2 * VARIANCES[prior.name](prior.dim) * eye
    points = prior.sample(N_PRIOR, torch.Generator().manual_seed(0))
    return mean_cov(points.double())
