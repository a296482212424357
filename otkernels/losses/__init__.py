"""The losses as nn.Module: they hold hyper-parameters and state, the functions do the work."""

from .mmd import EnergyDistanceLoss, MMDLoss
from .sliced import (
    MaxSlicedWassersteinLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
)

__all__ = [
    "EnergyDistanceLoss",
    "MMDLoss",
    "MaxSlicedWassersteinLoss",
    "SlicedWassersteinLoss",
    "SlicedWassersteinToNormalLoss",
]
