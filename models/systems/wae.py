"""Wasserstein autoencoder: codes are pulled to the prior by an MMD or by an adversary."""

import torch

from otkernels import mmd, wae_bandwidths

from ..adversary import Adversary
from ..autoencoder import Autoencoder
from ..errors import require
from ..pretraining import match_moments
from ..streams import PRETRAIN, stream

__all__ = ["WAE"]

WEIGHTS = {"mmd": 10.0, "gan": 1.0}
NAMES = {"mmd": "unbiased MMD^2", "gan": "adversarial loss"}


class WAE(Autoencoder):
    """Autoencoder whose penalty is an MMD to the prior, or the loss against an adversary.

    Tolstikhin, Bousquet, Gelly, Schoelkopf 2018, "Wasserstein auto-encoders", algorithms 1 (gan)
    and 2 (mmd), section 4.

    "mmd" is the unbiased statistic, hence often negative where codes match the prior, with the
    sum of seven inverse multiquadric kernels. Their scales are the published ones for the priors
    gaussian, uniform and sphere; for any other prior those of a normal law of the same variance.

    "gan" trains an adversary beside the autoencoder, on codes and prior points alone. Both take
    their step from the same state, where the paper alternates. The adversary's objective too is
    multiplied by ``weight``, which Adam does not notice. ``val/loss`` is against an adversary that
    moves, so the ``best`` checkpoint of this form means little.

    Args:
        form: "mmd" or "gan".
        weight: strength of the penalty; None is 10 for "mmd" and 1 for "gan".
        pretrain_steps: before the first step, train the encoder for at most so many steps on the
            moments of the prior, see :func:`models.pretraining.match_moments`.
        adversary_lr: step size of the adversary, a fifth of the published one, which on digits
            makes the codes collapse at first. It stays when that of the autoencoder drops: an
            adversary that keeps up samples better.
        adversary_width: units in each of its four hidden layers.
        log_prior: add log p(z) to the adversary's score, so that only the density of the codes is
            left to learn; for the gaussian prior.
        **kwargs: see :class:`Autoencoder`.
    """

    def __init__(
        self,
        form: str = "mmd",
        weight: float | None = None,
        pretrain_steps: int = 0,
        adversary_lr: float = 1e-4,
        adversary_width: int = 128,
        log_prior: bool = True,
        **kwargs,
    ):
        require(form in WEIGHTS, "WAE", "form", "be one of 'mmd', 'gan'", repr(form))
        require(pretrain_steps >= 0, "WAE", "pretrain_steps", "be at least 0", pretrain_steps)
        weight = WEIGHTS[form] if weight is None else weight
        super().__init__(weight=weight, **kwargs)
        self.form, self.pretrain_steps = form, pretrain_steps
        self.penalty_name = NAMES[form]
        self.adversary = None
        if form == "mmd":
            self.bandwidths = bandwidths(self.prior)
        elif weight > 0:
            self._add_adversary(adversary_lr, adversary_width, log_prior)

    def _add_adversary(self, lr, width, log_prior):
        require(0 < lr < float("inf"), "WAE", "adversary_lr", "be finite and > 0", lr)
        require(width >= 1, "WAE", "adversary_width", "be at least 1", width)
        name = self.prior.name
        condition = f"be false for the {name} prior; the gaussian one has a log density here"
        require(name == "gaussian" or not log_prior, "WAE", "log_prior", condition, log_prior)
        scale = self.prior.scale if log_prior else None
        self.adversary = Adversary(self.prior.dim, width, scale)
        self.adversary_lr = lr

    def parameter_groups(self):
        """The adversary has a group of its own, whose step size is small from the start."""
        if self.adversary is None:
            return super().parameter_groups()
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters()]
        adversary = list(self.adversary.parameters())
        group = {"params": adversary, "lr": self.adversary_lr, "drops": False}
        return [{"params": autoencoder}, group]

    def on_train_start(self):
        """Pre-train the encoder of a fresh run, in the same way on every process."""
        if self.pretrain_steps > 0 and self.global_step == 0:
            items = self.trainer.datamodule.train
            match_moments(self, items, self.pretrain_steps, stream(PRETRAIN))

    def penalty(self, codes, points, generator):
        """What the encoder pays for codes (n, d) beside prior points (n, d)."""
        if self.form == "gan":
            return self.adversary.encoder_loss(codes)
        n = len(codes) * self.processes
        require(n > 1, "WAE", "the batch", "hold 2 items or more", n)
        options = {"kernel": "imq", "bandwidth": self.bandwidths, "unbiased": True}
        return self.of_all(mmd)(codes, points, **options)

    def penalties(self, posterior, codes, points, generator):
        """The encoder's penalty and, beside it, what the adversary minimises."""
        penalties = super().penalties(posterior, codes, points, generator)
        if self.form == "gan":
            penalties["adversary"] = self.adversary.loss(codes, points)
        return penalties

    def objective_text(self):
        """As for any system; the adversary's own loss is no part of what the encoder is charged."""
        text = super().objective_text()
        return text if self.adversary is None else f"{text}; the adversary learns beside it"

    def evaluate(self, posterior, errors):
        """With the share of codes and independent prior points that the adversary tells apart."""
        metrics = super().evaluate(posterior, errors)
        if self.adversary is None:
            return metrics
        generator = torch.Generator(errors.device).manual_seed(0)
        codes = posterior.draw(generator)
        points = self.prior.sample_independent(len(codes), generator).to(codes.dtype)
        return {**metrics, "adversary_accuracy": self.adversary.accuracy(codes, points)}


def bandwidths(prior, n=10_000):
    """Of the seven kernels, for a :class:`~models.priors.Prior`.

    The published scales are multiples of E |z - z'|^2, which is 2 d s^2 for a normal law of
    variance s^2; where none are published, s^2 is the mean variance of the coordinates of n points.
    """
    published = {"gaussian": "normal", "uniform": "uniform", "sphere": "sphere"}
    if prior.name in published:
        return wae_bandwidths(prior.dim, prior=published[prior.name], scale=prior.scale)
    points = prior.sample_independent(n, torch.Generator().manual_seed(0))
    return wae_bandwidths(prior.dim, scale=points.var(0).mean().sqrt().item())
