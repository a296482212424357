"""What every Wasserstein autoencoder here shares; a model adds only its penalty on the codes."""

import lightning as L
import numpy as np
import torch

from .errors import require
from .evaluation import null_floor, prior_distance
from .networks import NETWORKS
from .priors import Prior
from .streams import STEP, stream

__all__ = ["Autoencoder"]


class Autoencoder(L.LightningModule):
    """An encoder, a decoder and a prior; loss = reconstruction + weight * penalty(codes, prior).

    Reconstruction is the squared error summed over an image and averaged over the batch. The
    penalty is a mean over points too, so ``weight`` does not depend on the batch size.

    With ``weight=0`` the penalty is never computed: this is the plain autoencoder, bit for bit,
    because prior points (and whatever else a penalty draws) come from a stream of their own.

    Args:
        prior: one of models.priors.PRIORS.
        latent_dim: dimension of the codes.
        weight: strength of the penalty beside the summed squared error.
        network: one of models.networks.NETWORKS.
        lr: step size of Adam (beta1 0.5); a fifth of it for the last 40 % of the steps.
        image_shape: channels, height and width.
    """

    penalty_name = "penalty"

    def __init__(
        self,
        prior: str = "uniform",
        latent_dim: int = 2,
        weight: float = 10.0,
        network: str = "mlp",
        lr: float = 1e-3,
        image_shape: tuple[int, int, int] = (1, 8, 8),
    ):
        super().__init__()
        name = type(self).__name__
        names = ", ".join(map(repr, NETWORKS))
        require(0 <= weight < float("inf"), name, "weight", "be finite and >= 0", weight)
        require(network in NETWORKS, name, "network", f"be one of {names}", repr(network))
        require(0 < lr < float("inf"), name, "lr", "be finite and > 0", lr)
        # Not logged as well: the run folder's config.yaml says it all.
        self.save_hyperparameters(logger=False)
        self.prior = Prior(prior, latent_dim)
        self.encoder, self.decoder = NETWORKS[network](image_shape, latent_dim)

    def penalty(self, codes, points, generator):
        """Discrepancy between codes (n, d) and prior points (n, d): a scalar."""
        raise NotImplementedError

    def forward(self, images):
        """Reconstructions of images (n, c, h, w)."""
        return self.decoder(self.encoder(images))

    @torch.no_grad()
    def sample(self, n, generator=None):
        """Decode n prior points; returns images (n, c, h, w)."""
        return self.decoder(self.prior.sample(n, generator).to(self.device))

    def training_step(self, batch, batch_index):
        """Reconstruction plus weighted penalty on one batch."""
        images, _ = batch
        codes = self.encoder(images)
        reconstruction = squared_error(self.decoder(codes), images).mean()
        losses = {"reconstruction": reconstruction}
        loss = reconstruction
        if self.hparams.weight > 0:
            generator = stream(STEP, self.global_rank, self.global_step, device=self.device)
            points = self.prior.sample(len(codes), generator).to(codes.dtype)
            losses["penalty"] = self.penalty(codes, points, generator)
            loss = loss + self.hparams.weight * losses["penalty"]
        losses["loss"] = loss
        named = {f"train/{key}": value.detach() for key, value in losses.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self):
        """Start collecting the codes and errors of all test images."""
        self._codes, self._errors = [], []

    def validation_step(self, batch, batch_index):
        """Encode and reconstruct one batch."""
        images, _ = batch
        codes = self.encoder(images)
        self._codes.append(codes)
        self._errors.append(squared_error(self.decoder(codes), images))

    def on_validation_epoch_end(self):
        """Log the quality over all test images; see :meth:`evaluate`."""
        metrics = self.evaluate(torch.cat(self._codes), torch.cat(self._errors))
        shown = {"mse_per_pixel", "prior_distance"}
        for key, value in metrics.items():
            self.log(f"val/{key}", value, prog_bar=key in shown, sync_dist=True)

    # The test set is the held-out set: one evaluation, two commands.
    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def evaluate(self, codes, errors):
        """Metrics of a set of codes (n, d) and of the squared errors (n,) of its images.

        The loss is the training objective with the fixed prior points and directions of
        models.evaluation in place of fresh ones.
        """
        generator = torch.Generator(codes.device).manual_seed(0)
        loss = errors.mean()
        if self.hparams.weight > 0:
            points = self.prior.sample_independent(len(codes), generator).to(codes.dtype)
            loss = loss + self.hparams.weight * self.penalty(codes, points, generator)
        return {
            "loss": loss,
            "reconstruction": errors.mean(),
            "mse_per_pixel": errors.mean() / np.prod(self.hparams.image_shape),
            "prior_distance": prior_distance(codes, self.prior),
            "prior_floor": null_floor(self.prior, len(codes)),
        }

    def on_save_checkpoint(self, checkpoint):
        """Note the class, so that ``sample`` knows what to build."""
        checkpoint["model_class"] = type(self).__name__

    def configure_optimizers(self):
        """Adam, with one drop of the step size after 60 % of the planned steps."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr, betas=(0.5, 0.999))
        steps = self.trainer.estimated_stepping_batches
        milestones = [int(0.6 * steps)] if np.isfinite(steps) else []
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def squared_error(x, y):
    """Squared error summed over each image: (n,) from two (n, c, h, w)."""
    return (x - y).square().flatten(1).sum(1)
