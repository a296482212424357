"""The law of the code of an image: a point, or a Gaussian with independent coordinates."""

from dataclasses import dataclass

import torch

__all__ = ["Posterior", "split"]

# The bounds of the code published with the WAE: a variance is never 0 and never infinite.
LOG_VARIANCE = (-50.0, 50.0)
FLOOR = 1e-8


@dataclass(frozen=True)
class Posterior:
    """N(mean, diag(variance)) for each image, (n, d) both; no variance: the mean itself."""

    mean: torch.Tensor
    variance: torch.Tensor | None = None

    def draw(self, generator):
        """Codes (n, d) by reparameterisation: gradients reach mean and variance."""
        if self.variance is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + self.variance.sqrt() * noise.to(self.mean.dtype)


def split(heads):
    """The posterior from the two heads (n, 2 d) of a random encoder: mean and log-variance."""
    mean, log_variance = heads.chunk(2, dim=1)
    return Posterior(mean, FLOOR + log_variance.clamp(*LOG_VARIANCE).exp())
