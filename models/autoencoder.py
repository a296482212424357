"""What every autoencoder here shares; a system adds only what its paper adds."""

import lightning as L
import numpy as np
import torch
from torch import distributed as dist

from otkernels import distributed

from .errors import require
from .evaluating import evaluating
from .latent_distance import null_floor, prior_distance
from .networks import NETWORKS
from .posterior import Posterior, split
from .priors import Prior
from .schedule import StepSize
from .streams import STEP, stream

__all__ = ["Autoencoder", "squared_error"]


class Autoencoder(L.LightningModule):
    """An encoder, a decoder and a prior; loss = reconstruction + weight * penalty.

    Reconstruction is the squared error summed over an item and averaged over the batch. Penalties
    are means over the batch too, so ``weight`` does not depend on its size. On several processes
    the batch is that of all of them together, see :meth:`of_all`. An item is an image (channels,
    height, width) with pixels in [0, 1], or a point (dim,).

    With ``weight=0``, the default of this class, there is no penalty: this is the plain
    autoencoder, the first of the baselines. Prior points, directions and whatever else a penalty
    draws come from a stream of their own, so systems with one stage and a deterministic encoder
    train to the same bits with weight 0.

    Args:
        prior: one of models.priors.PRIORS, or "module:function", see models.priors.
        latent_dim: dimension of the codes.
        weight: strength of the penalty beside the summed squared error.
        network: one of models.networks.NETWORKS.
        lr: step size of Adam (beta1 0.5); a fifth of it for the last 40 % of the steps.
        random_encoder: draw codes from N(mean(x), diag(variance(x))) instead of using mean(x).
        prior_scale: factor on the points of the prior.
        shape: of one item; the command line takes it from the data.
    """

    penalty_name = "penalty"
    points_name = ""  # what is decoded to sample, where it is not the prior's points themselves
    distance_name = "sliced W2^2 of the test codes to the prior"  # what prior_distance is

    def __init__(
        self,
        prior: str = "gaussian",
        latent_dim: int = 8,
        weight: float = 0.0,
        network: str = "mlp",
        lr: float = 1e-3,
        random_encoder: bool = False,
        prior_scale: float = 1.0,
        shape: tuple[int, ...] = (1, 8, 8),
    ):
        super().__init__()
        name = type(self).__name__
        names = ", ".join(map(repr, NETWORKS))
        require(0 <= weight < float("inf"), name, "weight", "be finite and >= 0", weight)
        require(network in NETWORKS, name, "network", f"be one of {names}", repr(network))
        require(0 < lr < float("inf"), name, "lr", "be finite and > 0", lr)
        # Not logged as well: the run folder's config.yaml says it all.
        self.save_hyperparameters(logger=False)
        self.prior = Prior(prior, latent_dim, prior_scale)
        # What is used, as plain data, also where a function or None was given.
        self.hparams.update(prior=self.prior.name, weight=weight)
        heads = 2 if random_encoder else 1
        self.encoder, self.decoder = NETWORKS[network](tuple(shape), heads * latent_dim, latent_dim)
        self._sums = {}

    # --- what a system may replace ----------------------------------------------------------------

    def penalty(self, codes, points, generator):
        """Discrepancy between codes (n, d) and prior points (n, d): a scalar."""
        raise NotImplementedError

    def penalties(self, posterior, codes, points, generator):
        """All that is added to the reconstruction, each times ``weight``, by name.

        The one named "penalty" is what the encoder is charged; most systems have no other and
        define :meth:`penalty` alone.
        """
        return {"penalty": self.penalty(codes, points, generator)}

    def losses(self, items, generator):
        """The terms of the objective on a batch, by name; "loss" is what is minimised."""
        posterior = self.posterior(items)
        codes = posterior.draw(generator)
        reconstruction = squared_error(self.decoder(codes), items).mean()
        if self.hparams.weight == 0:
            return {"loss": reconstruction, "reconstruction": reconstruction}
        points = self.prior.sample(len(codes), generator).to(codes.dtype)
        penalties = self.penalties(posterior, codes, points, generator)
        loss = reconstruction + self.hparams.weight * sum(penalties.values())
        return {"loss": loss, "reconstruction": reconstruction, **penalties}

    def transport(self, points):
        """Codes (n, d) to decode, from prior points (n, d'): here the points themselves."""
        return points

    def objective_text(self):
        """The loss and how it is reduced, in one line for people."""
        item = "an image" if len(self.hparams.shape) == 3 else "a point"
        loss = f"loss = squared error summed over {item}, averaged over the batch"
        if self.hparams.weight == 0:
            return f"{loss} (weight 0: plain autoencoder)"
        return f"{loss} + {self.hparams.weight:g} x {self.penalty_name}(codes, prior), a mean"

    def stage_ends(self, steps):
        """The training step at which each stage of the schedule ends; ``steps`` may be infinite."""
        return [steps]

    def parameter_groups(self):
        """Adam's parameter groups; one with ``drops=False`` keeps its step size throughout."""
        return [{"params": list(self.parameters())}]

    # --- several processes ------------------------------------------------------------------------

    @property
    def processes(self):
        """How many processes take this training step together, each with a batch of its own.

        1 outside of training: every process evaluates the codes of all, gathered before.
        """
        together = self.training and dist.is_available() and dist.is_initialized()
        return dist.get_world_size() if together else 1

    def of_all(self, function):
        """``function`` of otkernels, for what all processes hold in a training step.

        On several it is that of :mod:`otkernels.distributed`: the value of one process with the
        whole batch, and gradients whose mean over processes, which DDP takes, are its gradients.
        """
        return getattr(distributed, function.__name__) if self.processes > 1 else function

    # --- encode, decode, sample -------------------------------------------------------------------

    def posterior(self, items):
        """The laws of the codes of items (n, ...)."""
        heads = self.encoder(items)
        return split(heads) if self.hparams.random_encoder else Posterior(heads)

    def encode(self, items):
        """Codes (n, d) of items (n, ...): the means, where the encoder is random."""
        return self.posterior(items).mean

    def forward(self, items):
        """Reconstructions of items (n, ...)."""
        return self.decoder(self.encode(items))

    @torch.no_grad()
    def generate(self, points):
        """Items (n, ...) from prior points (n, d'), in evaluation mode."""
        with evaluating(self):
            return self.decoder(self.transport(points.to(self.device)))

    def sample(self, n, generator=None):
        """Decode n prior points; returns items (n, ...)."""
        return self.generate(self.prior.sample(n, generator))

    # --- training ---------------------------------------------------------------------------------

    def on_train_epoch_start(self):
        """Forget the sums of the last epoch."""
        self._sums = {}

    def training_step(self, batch, batch_index):
        """The loss of one batch."""
        items, _ = batch
        # The batch too, for several of them make one step where gradients are accumulated.
        moment = (self.global_rank, self.global_step, batch_index)
        generator = stream(STEP, *moment, device=self.device)
        losses = self.losses(items, generator)
        # Summed here and logged once an epoch: Lightning's own means cost as much as a small step.
        for key, value in losses.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + value.detach(), count + 1)
        return losses["loss"]

    def epoch_means(self):
        """Mean of every term over the steps of this epoch so far, by name."""
        return {key: total / count for key, (total, count) in self._sums.items()}

    def on_train_epoch_end(self):
        """Log the means of the epoch."""
        means = {f"train/{key}": value for key, value in self.epoch_means().items()}
        self.log_dict(means, sync_dist=True)

    def configure_optimizers(self):
        """Adam, with one drop of the step size after 60 % of the steps of each stage."""
        groups = self.parameter_groups()
        # Fused, for networks this small spend more time between kernels than in them; but under
        # mixed precision Lightning cannot clip the gradients of a fused optimizer.
        fused = self.trainer.gradient_clip_val is None
        optimizer = torch.optim.Adam(groups, lr=self.hparams.lr, betas=(0.5, 0.999), fused=fused)
        ends = self.stage_ends(self.trainer.estimated_stepping_batches)
        factors = [StepSize(ends if group.get("drops", True) else [np.inf]) for group in groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    # --- validation -------------------------------------------------------------------------------

    def on_validation_epoch_start(self):
        """Start collecting the codes and errors of all test items."""
        self._posteriors, self._errors = [], []

    def validation_step(self, batch, batch_index):
        """Encode and reconstruct one batch."""
        items, _ = batch
        posterior = self.posterior(items)
        self._posteriors.append(posterior)
        self._errors.append(squared_error(self.decoder(posterior.mean), items))

    def on_validation_epoch_end(self):
        """Log the quality over all test items; see :meth:`evaluate`."""
        parts = [(p.mean, p.variance) for p in self._posteriors]
        mean, variance = (
            None if part[0] is None else self._gathered(torch.cat(part))
            for part in zip(*parts, strict=True)
        )
        metrics = self.evaluate(Posterior(mean, variance), self._gathered(torch.cat(self._errors)))
        shown = {"mse_per_pixel", "prior_distance"}
        for key, value in metrics.items():
            self.log(f"val/{key}", value, prog_bar=key in shown, sync_dist=True)

    def _gathered(self, rows):
        """Rows (n, ...) of all processes."""
        return self.all_gather(rows).flatten(0, 1) if self.trainer.world_size > 1 else rows

    # The test set is the held-out set: one evaluation, two commands.
    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def evaluate(self, posterior, errors):
        """Metrics of the posteriors and of the squared errors (n,) of n items.

        The loss is the training objective with fixed prior points and directions in place of fresh
        ones.
        """
        generator = torch.Generator(errors.device).manual_seed(0)
        codes = posterior.draw(generator)
        loss = errors.mean()
        if self.hparams.weight > 0:
            points = self.prior.sample_independent(len(codes), generator).to(codes.dtype)
            penalties = self.penalties(posterior, codes, points, generator)
            loss = loss + self.hparams.weight * penalties["penalty"]
        return {
            "loss": loss,
            **self.reconstruction_metrics(errors),
            "prior_distance": prior_distance(codes, self.prior),
            "prior_floor": null_floor(self.prior, len(codes)),
        }

    def reconstruction_metrics(self, errors):
        """Mean squared error (n,) of an item and of one pixel (coordinate) of it."""
        mean = errors.mean()
        return {"reconstruction": mean, "mse_per_pixel": mean / np.prod(self.hparams.shape)}

    def on_save_checkpoint(self, checkpoint):
        """Note the classes, so that the other commands know what to build."""
        checkpoint["model_class"] = type(self).__name__
        if self.trainer.datamodule is not None:
            checkpoint["data_class"] = type(self.trainer.datamodule).__name__


def squared_error(x, y):
    """Squared error summed over each item: (n,) from two (n, ...)."""
    return (x - y).square().flatten(1).sum(1)
