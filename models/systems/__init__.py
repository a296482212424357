"""The published systems and the baselines, by name."""

from ..autoencoder import Autoencoder
from .sliced_wae import SlicedWAE

__all__ = ["SYSTEMS", "Autoencoder", "SlicedWAE"]

SYSTEMS = {system.__name__: system for system in (Autoencoder, SlicedWAE)}
