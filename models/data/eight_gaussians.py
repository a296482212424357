"""Eight Gaussians on a circle: clusters that no continuous map of noise reaches without bridges."""

import math

import torch

from ..errors import require
from .items import Items, Tensors

__all__ = ["EightGaussians"]

SEED = 0
MODES = 8


class EightGaussians(Items):
    """Points (2,) of an even mixture of eight round Gaussians; the label is the mode.

    The test of many clusters of Liu et al. 2018, "Latent space optimal transport for generative
    models". The paper's radius and spread were not available to us: both are our choice. Points
    and their modes are drawn independently, always the same ones.

    Args:
        batch_size: points in a training step; a last, smaller batch is dropped.
        n_train: points to train on.
        n_test: points to test on.
        radius: of the circle on which the means lie, evenly spaced.
        sd: standard deviation of each coordinate within a mode.

    Attributes:
        modes: the means (8, 2).
        sd: as given.
    """

    title = "eight Gaussians on a circle, points of the plane"
    shape = (2,)
    classes = MODES

    def __init__(
        self,
        batch_size: int = 100,
        n_train: int = 2000,
        n_test: int = 1000,
        radius: float = 2.0,
        sd: float = 0.1,
    ):
        require(n_train >= 1, "EightGaussians", "n_train", "be at least 1", n_train)
        require(n_test >= 1, "EightGaussians", "n_test", "be at least 1", n_test)
        require(0 < radius < math.inf, "EightGaussians", "radius", "be finite and > 0", radius)
        require(0 < sd < math.inf, "EightGaussians", "sd", "be finite and > 0", sd)
        angle = 2 * math.pi / MODES * torch.arange(MODES)
        self.modes, self.sd = radius * torch.stack([angle.cos(), angle.sin()], 1), sd
        # A stream for each split: the size of one leaves the other as it is.
        train, test = (self._draw(n, SEED + k) for k, n in enumerate((n_train, n_test)))
        super().__init__(train, test, batch_size)
        self.save_hyperparameters(logger=False)

    def _draw(self, n, seed):
        """Tensors of n points (n, 2) and their modes (n,)."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(MODES, (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator)
        return Tensors(self.modes[labels] + self.sd * noise, labels)
