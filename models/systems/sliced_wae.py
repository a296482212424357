"""Sliced-Wasserstein autoencoder: codes are pulled to the prior along random lines."""

from otkernels import sliced_wasserstein

from ..autoencoder import Autoencoder
from ..errors import require

__all__ = ["SlicedWAE"]


class SlicedWAE(Autoencoder):
    """Autoencoder whose penalty is the sliced W_2^2 between codes and prior points.

    Kolouri, Pope, Martin, Rohde 2018, "Sliced-Wasserstein auto-encoders": fresh prior points and
    fresh directions in every step, mean over directions and sorted points, no root.

    Args:
        weight: strength of the penalty.
        n_projections: number of directions in each step.
        **kwargs: see :class:`Autoencoder`.
    """

    penalty_name = "sliced W2^2"

    def __init__(self, weight: float = 10.0, n_projections: int = 50, **kwargs):
        require(n_projections >= 1, "SlicedWAE", "n_projections", "be at least 1", n_projections)
        super().__init__(weight=weight, **kwargs)
        self.n_projections = n_projections

    def penalty(self, codes, points, generator):
        """Sliced W_2^2 of codes (n, d) to prior points (n, d)."""
        distance = self.of_all(sliced_wasserstein)
        return distance(codes, points, n_projections=self.n_projections, generator=generator)
