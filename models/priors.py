"""Laws that the codes are pulled to: a sampler and its definition each.

circle, ring and uniform are those of the code published with the paper (Kolouri, Pope, Martin,
Rohde 2018, "Sliced-Wasserstein auto-encoders"); the paper's bowl was shown but not released.
"""

import math
from dataclasses import dataclass

import torch

from .errors import require

__all__ = ["PRIORS", "Prior"]


@dataclass(frozen=True)
class Prior:
    """One of :data:`PRIORS` in ``dim`` dimensions, its points multiplied by ``scale``.

    >>> Prior("gaussian", 3).sample(5).shape
    torch.Size([5, 3])
    """

    name: str
    dim: int
    scale: float = 1.0

    def __post_init__(self):
        names = ", ".join(map(repr, PRIORS))
        require(self.name in PRIORS, "Prior", "prior", f"be one of {names}", repr(self.name))
        require(self.dim >= 1, "Prior", "latent_dim", "be at least 1", self.dim)
        planar = self.name in PLANAR
        condition = f"be 2 for the {self.name} prior, which is a law of the plane"
        require(self.dim == 2 or not planar, "Prior", "latent_dim", condition, self.dim)

    def sample(self, n, generator=None):
        """Draw (n, dim) points on the generator's device; None is torch's global CPU stream."""
        device = "cpu" if generator is None else generator.device
        source = {"generator": generator, "device": device}
        return self.scale * PRIORS[self.name](n, self.dim, source)

    def sample_independent(self, n, generator=None):
        """As :meth:`sample`, with points (nearly) independent of each other, as codes are.

        A ring of n points is stratified, hence closer to its law than n independent points can
        be; n points picked from a ring of 20 n are not.
        """
        return self.sample(20 * n, generator)[:n]


def uniform(n, dim, source):
    """Every coordinate ~ U(-1, 1): the square for dim = 2, where the mean radius is 0.765."""
    return 2 * torch.rand(n, dim, **source) - 1


def gaussian(n, dim, source):
    """N(0, I)."""
    return torch.randn(n, dim, **source)


def circle(n, dim, source):
    """Radius ~ U(0, 1), angle ~ U(0, 2 pi): not uniform on the disk, denser at its centre."""
    radius = torch.rand(n, 1, **source)
    return radius * _on_circle(2 * math.pi * torch.rand(n, **source))


def ring(n, dim, source):
    """Angles 2 pi k / n in random order, then noise N(0, 0.01^2) on each coordinate.

    The outer circle of scikit-learn's ``make_circles(2 * n, noise=0.01)``: a stratified draw.
    """
    angle = 2 * math.pi / n * torch.randperm(n, **source)
    return _on_circle(angle) + 0.01 * torch.randn(n, dim, **source)


def bowl(n, dim, source):
    """Radius with density 3 r^2 on [0, 1] (r = U^(1/3)), angle ~ U(0, 2 pi); mean radius 3/4.

    Our own choice of a law that grows denser towards the rim.
    """
    radius = torch.rand(n, 1, **source) ** (1 / 3)
    return radius * _on_circle(2 * math.pi * torch.rand(n, **source))


def _on_circle(angle):
    """Points (n, 2) of the unit circle at the angles (n,)."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)


PRIORS = {
    "uniform": uniform,
    "ring": ring,
    "circle": circle,
    "bowl": bowl,
    "gaussian": gaussian,
}
PLANAR = ("ring", "circle", "bowl")
