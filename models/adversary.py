"""A network that tells codes from prior points, and the two losses of its game."""

import math

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import softplus

__all__ = ["Adversary"]

N_HIDDEN = 4


class Adversary(nn.Module):
    """Scores points of latent space: the log-odds that a point is of the prior, not a code.

    Four hidden ReLU layers and a linear one, as in the code published with the WAE. Where the log
    density of the prior is added to the score, the network has only that of the codes to model:
    the best score is log p(z) - log q(z) ("Wasserstein auto-encoders", section 4).

    Args:
        dim: dimension of the points.
        width: units in each hidden layer.
        log_prior_scale: standard deviation of the normal prior whose log density is added to the
            score; None adds nothing.

    >>> Adversary(8)(torch.zeros(5, 8)).shape
    torch.Size([5])
    """

    def __init__(self, dim: int, width: int = 128, log_prior_scale: float | None = None):
        super().__init__()
        widths = [dim] + N_HIDDEN * [width]
        layers = [
            layer
            for n_in, n_out in zip(widths, widths[1:], strict=False)
            for layer in (nn.Linear(n_in, n_out), nn.ReLU())
        ]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))
        self.log_prior_scale = log_prior_scale
        if log_prior_scale is not None:
            # Undecided at first, as without the density: its mean over the prior is -entropy.
            nn.init.constant_(self.net[-2].bias, normal_entropy(dim, log_prior_scale))

    def forward(self, points):
        """Scores (n,) of points (n, d)."""
        # Outside of autocast, where validation ends, the codes of a mixed-precision run are bf16.
        scores = self.net(points.to(self.net[0].weight.dtype))
        if self.log_prior_scale is None:
            return scores
        return scores + log_normal(points, self.log_prior_scale)

    def encoder_loss(self, codes):
        """Mean of -log P("prior" | code) over codes (n, d); no gradient to this network.

        The non-saturating loss: what the encoder pays for codes that are recognised.
        """
        frozen = {name: p.detach() for name, p in self.named_parameters()}
        return softplus(-functional_call(self, frozen, (codes,))).mean()

    def loss(self, codes, points):
        """Cross-entropy of the scores of codes and points (n, d) each; no gradient to either.

        Each kind counts with its own mean, so 2 log 2 is what a network that cannot tell pays.
        """
        of_codes, of_points = self(torch.cat([codes, points]).detach()).tensor_split([len(codes)])
        return softplus(of_codes).mean() + softplus(-of_points).mean()

    @torch.no_grad()
    def accuracy(self, codes, points):
        """Share of codes and points (n, d) each that the sign of the score tells apart."""
        return ((self(codes) < 0).double().mean() + (self(points) > 0).double().mean()) / 2


def log_normal(points, scale):
    """Log density (n,) of N(0, scale^2 I) at points (n, d), in float32 or better."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    constant = points.shape[1] * math.log(2 * math.pi * scale**2)
    return -(points.square().sum(1) / scale**2 + constant) / 2


def normal_entropy(dim, scale):
    """Differential entropy of N(0, scale^2 I), which is the mean of -log density."""
    return dim * (1 + math.log(2 * math.pi * scale**2)) / 2
