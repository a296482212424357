"""Fast optimal-transport losses for PyTorch."""

from ._version import __version__
from .losses import (
    MaxSlicedWassersteinLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
)
from .max_sliced import max_sliced_wasserstein
from .projections import sample_projections
from .sliced import sliced_wasserstein, wasserstein_1d
from .sliced_info import SlicedWassersteinInfo, sliced_wasserstein_with_info
from .sliced_to_normal import sliced_wasserstein_to_normal
from .spherical import sample_great_circles, sliced_wasserstein_sphere, wasserstein_circle

__all__ = [
    "MaxSlicedWassersteinLoss",
    "SlicedWassersteinInfo",
    "SlicedWassersteinLoss",
    "SlicedWassersteinToNormalLoss",
    "__version__",
    "max_sliced_wasserstein",
    "sample_great_circles",
    "sample_projections",
    "sliced_wasserstein",
    "sliced_wasserstein_sphere",
    "sliced_wasserstein_to_normal",
    "sliced_wasserstein_with_info",
    "wasserstein_1d",
    "wasserstein_circle",
]
