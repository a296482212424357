"""The published systems and the baselines, by name."""

from ..autoencoder import Autoencoder
from .latent_ot import LatentOT
from .sliced_wae import SlicedWAE
from .stacked_wae import StackedWAE
from .vae import VAE
from .wae import WAE
from .wwae import WWAE

__all__ = ["SYSTEMS", "Autoencoder", "LatentOT", "SlicedWAE", "StackedWAE", "VAE", "WAE", "WWAE"]

SYSTEMS = {
    system.__name__: system
    for system in (Autoencoder, LatentOT, SlicedWAE, StackedWAE, VAE, WAE, WWAE)
}
