"""Losses over the global batch of a process group, each rank holding some of the points.

The value is that of one process with the points of all ranks, on every rank. Gradients follow
torch.distributed: they are those of the sum of the ranks' losses, so DistributedDataParallel, which
takes the mean of the ranks' gradients, gives exactly that of one process. Without it, divide by the
number of ranks. All ranks call alike, forward and backward; a rank may have more points than
another, or none (docs/distributed.md).
"""

from .gaussian import gaussian_wasserstein, gaussian_wasserstein_to_normal, mean_cov
from .mmd import energy_distance, mmd
from .sliced import sliced_wasserstein, sliced_wasserstein_to_normal

__all__ = [
    "energy_distance",
    "gaussian_wasserstein",
    "gaussian_wasserstein_to_normal",
    "mean_cov",
    "mmd",
    "sliced_wasserstein",
    "sliced_wasserstein_to_normal",
]
