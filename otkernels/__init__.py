"""Fast optimal-transport losses for PyTorch."""

from ._version import __version__
from .bandwidth import median_bandwidth, wae_bandwidths
from .losses import (
    EnergyDistanceLoss,
    MaxSlicedWassersteinLoss,
    MMDLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
)
from .max_sliced import max_sliced_wasserstein
from .mmd import energy_distance, mmd
from .projections import sample_projections
from .sliced import sliced_wasserstein, wasserstein_1d
from .sliced_info import SlicedWassersteinInfo, sliced_wasserstein_with_info
from .sliced_to_normal import sliced_wasserstein_to_normal
from .spherical import sample_great_circles, sliced_wasserstein_sphere, wasserstein_circle

__all__ = [
    "EnergyDistanceLoss",
    "MMDLoss",
    "MaxSlicedWassersteinLoss",
    "SlicedWassersteinInfo",
    "SlicedWassersteinLoss",
    "SlicedWassersteinToNormalLoss",
    "__version__",
    "energy_distance",
    "max_sliced_wasserstein",
    "median_bandwidth",
    "mmd",
    "sample_great_circles",
    "sample_projections",
    "sliced_wasserstein",
    "sliced_wasserstein_sphere",
    "sliced_wasserstein_to_normal",
    "sliced_wasserstein_with_info",
    "wae_bandwidths",
    "wasserstein_1d",
    "wasserstein_circle",
]
