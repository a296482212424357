"""The rows of the table: what was trained, and from which law of codes it is sampled."""

from dataclasses import dataclass

__all__ = ["AUTOENCODER", "Row", "order", "rows_of"]

# The one system that is trained once and sampled in several ways; see models.evaluation.laws.
AUTOENCODER = "autoencoder"


@dataclass(frozen=True)
class Row:
    """A system, by the name of its config, and the law of the codes that are decoded.

    Attributes:
        system: config without the name of the data set.
        law: what ``models.evaluation.evaluate`` calls it.
        title: first cell of the row.
        description: the row in one sentence.
        competes: whether it may be the best of a column; the bound from real codes may not.
    """

    system: str
    law: str
    title: str
    description: str
    competes: bool = True


ROWS = (
    Row(
        AUTOENCODER, "prior", "AE, N(0, I)",
        "Plain autoencoder, decoding points of the prior that its codes were never pulled to.",
    ),
    Row(
        AUTOENCODER, "unit", "AE, unit-scaled",
        "The same autoencoder, the noise shifted and scaled to centre and size of its codes.",
    ),
    Row(
        AUTOENCODER, "gaussian", "AE, Gaussian",
        "The same autoencoder, decoding a Gaussian fitted to its training codes.",
    ),
    Row(
        AUTOENCODER, "mixture", "AE, mixture of 10",
        "The same autoencoder, decoding a 10-component Gaussian mixture fitted to its codes.",
    ),
    Row(
        AUTOENCODER, "codes", "AE, real codes",
        "The same autoencoder, decoding the codes of training items: a bound, not a model.",
        competes=False,
    ),
    Row("vae", "prior", "VAE", "Variational autoencoder (Kingma, Welling 2014): the KL penalty."),
    Row(
        "wae_mmd", "prior", "WAE-MMD",
        "Tolstikhin, Bousquet, Gelly, Schoelkopf 2018: MMD of codes to prior, seven scales.",
    ),
    Row(
        "wae_gan", "prior", "WAE-GAN",
        "Tolstikhin, Bousquet, Gelly, Schoelkopf 2018: an adversary on the codes.",
    ),
    Row(
        "sliced_wae", "prior", "SlicedWAE",
        "Kolouri, Pope, Martin, Rohde 2018: sliced W2^2 of codes to prior.",
    ),
    Row(
        "wwae", "prior", "WWAE, full",
        "Zhang, Gao, Jiao, Liu, Wang, Yang 2019: W2^2 between Gaussians, full covariance.",
    ),
    Row(
        "wwae_diagonal", "prior", "WWAE, diagonal",
        "The same with diagonal covariance, which does not see correlation.",
    ),
    Row(
        "stacked_wae", "prior", "StackedWAE",
        "Xu, Keshmiri, Wang 2019: plain autoencoder, then a WAE of its codes.",
    ),
    Row(
        "stacked_wae_joint", "prior", "StackedWAE, joint",
        "The same with both levels trained at once.",
    ),
    Row(
        "latent_ot", "prior", "LatentOT, full",
        "Liu, Guo, Lei, Shu, Yau, Samaras, Gu 2018: plain autoencoder, then noise moved to its "
        "codes by the potential of one optimal transport problem on all of them.",
    ),
    Row(
        "latent_ot_batch", "prior", "LatentOT, batch",
        "The same with a fresh transport problem on every mini-batch.",
    ),
)  # fmt: skip


def rows_of(system):
    """The rows of a system; one that nobody described yet is named by its config."""
    known = [row for row in ROWS if row.system == system]
    return known or [Row(system, "prior", system, "A config of your own.")]


def order(system):
    """Key that sorts systems as the table lists them."""
    known = [row.system for row in ROWS]
    return known.index(system) if system in known else len(known), system
