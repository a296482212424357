"""Metrics on torchmetrics, whose states, merging over ranks and plots they keep. An extra."""

try:
    import torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError("otkernels.metrics needs torchmetrics: pip install torchmetrics") from error

from .frechet import FrechetDistance
from .kid import KernelInceptionDistance
from .mmd import EnergyDistance, MaximumMeanDiscrepancy
from .sliced import SlicedWasserstein

__all__ = [
    "EnergyDistance",
    "FrechetDistance",
    "KernelInceptionDistance",
    "MaximumMeanDiscrepancy",
    "SlicedWasserstein",
]
