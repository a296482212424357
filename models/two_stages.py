"""A plain autoencoder first, then a law for its codes: what Stacked WAE and latent OT share."""

import math

import torch

from .autoencoder import Autoencoder, squared_error
from .data.items import in_order
from .errors import require
from .evaluating import evaluating

__all__ = ["TwoStages"]


class TwoStages(Autoencoder):
    """Trains encoder and decoder alone for ``first_epochs``, then only what generates codes.

    In the second stage encoder and decoder are frozen: none of their weights or statistics change.
    It sees the codes centred and divided by one scale, the root mean square of their coordinates,
    both measured over all training items when the stage begins.

    Args:
        first_epochs: epochs of the first stage; those that remain belong to the second.
        **kwargs: see :class:`Autoencoder`; ``weight`` belongs to the second stage.
    """

    def __init__(self, first_epochs: int = 200, **kwargs):
        super().__init__(**kwargs)
        name, random = type(self).__name__, self.hparams.random_encoder
        require(first_epochs >= 0, name, "first_epochs", "be at least 0", first_epochs)
        require(not random, name, "random_encoder", "be false: its variance is not trained", random)
        self.first_epochs = first_epochs
        self.register_buffer("centre", torch.zeros(self.prior.dim))
        self.register_buffer("scale", torch.ones(()))

    def second_losses(self, codes, generator):
        """As :meth:`losses`, for codes (n, d) in standard units, without gradient."""
        raise NotImplementedError

    def begin_second_stage(self, codes):
        """Called once, with the codes (N, d) of all training items in standard units."""

    @property
    def stage(self):
        """1 or 2, by the current epoch."""
        return 1 if self.current_epoch < self.first_epochs else 2

    def standard(self, codes):
        """Codes in the units of the second stage."""
        return (codes - self.centre) / self.scale

    def original(self, codes):
        """Inverse of :meth:`standard`."""
        return self.centre + self.scale * codes

    def stage_ends(self, steps):
        """The first stage ends with its last epoch; refuses a run that ends before its second."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # a run that is limited in steps alone has not counted them
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        end = self.first_epochs * per_epoch
        condition = f"leave epochs to the second stage, of {steps / per_epoch:g} in all"
        ok = trainer.fast_dev_run or end < steps
        require(ok, type(self).__name__, "first_epochs", condition, self.first_epochs)
        return [end, steps]

    def on_train_start(self):
        """Refuse several processes that would wait for gradients of the other stage."""
        ok = getattr(self.trainer.strategy.model, "find_unused_parameters", True)
        condition = "be ddp_find_unused_parameters_true, for a stage trains a part of the weights"
        require(ok, type(self).__name__, "--trainer.strategy", condition, "ddp")

    def on_train_epoch_start(self):
        """In the second stage, freeze the first; when it begins, measure the codes."""
        super().on_train_epoch_start()
        if self.stage == 1:
            return
        self.freeze_first_stage()
        if self.current_epoch == self.first_epochs:
            codes = self.training_codes()
            self.centre.copy_(codes.mean(0))
            self.scale.copy_((codes - self.centre).square().mean().sqrt())
            self.begin_second_stage(self.standard(codes))

    def freeze_first_stage(self):
        """No gradient, no dropout, no new statistics."""
        for module in (self.encoder, self.decoder):
            module.eval().requires_grad_(False)

    @torch.no_grad()
    def training_codes(self):
        """Codes (N, d) of all training items, in their order, on every process."""
        data = self.trainer.datamodule
        batches = in_order(data.train, data.workers)
        with evaluating(self):
            return torch.cat([self.encode(items.to(self.centre)) for items, _ in batches])

    def losses(self, items, generator):
        """Of the stage that the run is in."""
        if self.stage == 1:
            reconstruction = squared_error(self(items), items).mean()
            return {"loss": reconstruction, "reconstruction": reconstruction}
        with torch.no_grad():
            codes = self.standard(self.encode(items))
        return self.second_losses(codes, generator)
