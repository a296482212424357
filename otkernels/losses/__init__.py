"""The losses as nn.Module: they hold hyper-parameters and state, the functions do the work."""

from .gaussian import GaussianWassersteinLoss, GaussianWassersteinToNormalLoss
from .mmd import EnergyDistanceLoss, MMDLoss
from .sliced import (
    MaxSlicedWassersteinLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
)

__all__ = [
    "EnergyDistanceLoss",
    "GaussianWassersteinLoss",
    "GaussianWassersteinToNormalLoss",
    "MMDLoss",
    "MaxSlicedWassersteinLoss",
    "SlicedWassersteinLoss",
    "SlicedWassersteinToNormalLoss",
]
