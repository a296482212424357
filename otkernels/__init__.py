"""Fast optimal-transport losses for PyTorch."""

from ._version import __version__
from .bandwidth import median_bandwidth, wae_bandwidths
from .bures import BuresInfo, bures_wasserstein, bures_wasserstein_with_info
from .frequencies import sample_frequencies
from .gaussian import (
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
    gaussian_wasserstein_with_info,
)
from .gaussian_map import gaussian_map
from .losses import (
    EnergyDistanceLoss,
    GaussianWassersteinLoss,
    GaussianWassersteinToNormalLoss,
    MaxSlicedWassersteinLoss,
    MMDLoss,
    SlicedWassersteinLoss,
    SlicedWassersteinToNormalLoss,
)
from .max_sliced import max_sliced_wasserstein
from .mmd import energy_distance, mmd
from .mmd_blocks import MMDBlocks, mmd_blocks
from .moments import mean_cov
from .projections import sample_projections
from .random_features import mmd_random_features, random_fourier_features
from .sliced import sliced_wasserstein, wasserstein_1d
from .sliced_info import SlicedWassersteinInfo, sliced_wasserstein_with_info
from .sliced_to_normal import sliced_wasserstein_to_normal
from .spherical import sample_great_circles, sliced_wasserstein_sphere, wasserstein_circle
from .sqrtm import inv_sqrtm, sqrtm
from .two_sample import MMDTest, mmd_test

__all__ = [
    "BuresInfo",
    "EnergyDistanceLoss",
    "GaussianWassersteinLoss",
    "GaussianWassersteinToNormalLoss",
    "MMDBlocks",
    "MMDLoss",
    "MMDTest",
    "MaxSlicedWassersteinLoss",
    "SlicedWassersteinInfo",
    "SlicedWassersteinLoss",
    "SlicedWassersteinToNormalLoss",
    "__version__",
    "bures_wasserstein",
    "bures_wasserstein_with_info",
    "energy_distance",
    "gaussian_map",
    "gaussian_wasserstein",
    "gaussian_wasserstein_to_normal",
    "gaussian_wasserstein_with_info",
    "inv_sqrtm",
    "max_sliced_wasserstein",
    "mean_cov",
    "median_bandwidth",
    "mmd",
    "mmd_blocks",
    "mmd_random_features",
    "mmd_test",
    "random_fourier_features",
    "sample_frequencies",
    "sample_great_circles",
    "sample_projections",
    "sliced_wasserstein",
    "sliced_wasserstein_sphere",
    "sliced_wasserstein_to_normal",
    "sliced_wasserstein_with_info",
    "sqrtm",
    "wae_bandwidths",
    "wasserstein_1d",
    "wasserstein_circle",
]
