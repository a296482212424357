"""Fast optimal-transport losses for PyTorch."""

from ._version import __version__
from .losses import SlicedWassersteinLoss
from .projections import sample_projections
from .sliced import sliced_wasserstein, wasserstein_1d

__all__ = [
    "SlicedWassersteinLoss",
    "__version__",
    "sample_projections",
    "sliced_wasserstein",
    "wasserstein_1d",
]
