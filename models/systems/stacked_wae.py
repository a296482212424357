"""Stacked Wasserstein autoencoder: a second, small WAE learns the law of the codes of the first."""

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from otkernels import mmd, sliced_wasserstein

from ..autoencoder import squared_error
from ..errors import require
from ..latent_distance import N_DIRECTIONS, null_floor, prior_distance
from ..priors import Prior
from ..two_stages import TwoStages
from .wae import bandwidths

__all__ = ["StackedWAE"]

SCHEDULES = ("sequential", "joint")
PENALTIES = {"mmd": "unbiased MMD^2", "sliced": "sliced W2^2"}
N_SLICES = 50  # directions of a step
COLLAPSED = (0.5, 2.0)  # standard deviations of the codes, in standard units, that count as healthy


class StackedWAE(TwoStages):
    """Two autoencoders, the second of the codes of the first; only its codes are pulled to a prior.

    After Xu, Keshmiri, Wang 2019, "Stacked Wasserstein autoencoder": z2 ~ prior, z1 = G2(z2),
    x = G1(z1), and the relaxation of the WAE once for x and once more for z1. In standard units of
    z1 (see :class:`TwoStages`) the objective is

        |x - G1(E1(x))|^2 + first_weight * { |z1 - G2(E2(z1))|^2
            + weight * D(E2(z1), prior) + match_weight * D(z1, G2(prior)) },  z1 = E1(x),

    squared errors summed over an item and averaged over the batch, D a mean. "sequential" minimises
    the first term in the first stage and the brace, with the first level frozen, in the second.
    "joint" minimises the first term for ``first_epochs`` and then all of it; the units of z1 stay
    those of the moment when the second level joined. The two levels and the prior of the second are
    the paper's; D, the last term, the weights and both schedules in detail are reconstructed.

    Args:
        schedule: "sequential" or "joint".
        second_dim: dimension of the codes of the second level, and of the prior; None: latent_dim.
        second_width: of the two hidden layers of the second encoder and decoder.
        penalty: D, "mmd" (seven inverse multiquadric kernels, unbiased) or "sliced" (W_2^2).
        weight: lambda2, strength of D beside the squared error of the codes.
        match_weight: strength of D between codes of items and generated codes.
        first_weight: lambda1, of the second level in the joint objective.
        stop_gradient: in the joint schedule, keep the second level from moving the codes.
        **kwargs: see :class:`TwoStages`; ``latent_dim`` is that of the first level.
    """

    points_name = "decoded points of the second-level prior"
    distance_name = "sliced W2^2 of the second-level test codes to the prior"

    def __init__(
        self,
        schedule: str = "sequential",
        second_dim: int | None = None,
        second_width: int = 128,
        penalty: str = "mmd",
        weight: float = 10.0,
        match_weight: float = 0.0,
        first_weight: float = 1.0,
        stop_gradient: bool = True,
        **kwargs,
    ):
        super().__init__(weight=weight, **kwargs)
        first_dim = self.hparams.latent_dim
        second_dim = first_dim if second_dim is None else second_dim
        schedules, penalties = (", ".join(map(repr, names)) for names in (SCHEDULES, PENALTIES))
        positive, infinity = "be finite and > 0", float("inf")
        _require(schedule in SCHEDULES, "schedule", f"be one of {schedules}", repr(schedule))
        _require(penalty in PENALTIES, "penalty", f"be one of {penalties}", repr(penalty))
        _require(second_dim >= 1, "second_dim", "be at least 1", second_dim)
        _require(second_width >= 1, "second_width", "be at least 1", second_width)
        _require(0 <= match_weight < infinity, "match_weight", "be finite and >= 0", match_weight)
        _require(0 < first_weight < infinity, "first_weight", positive, first_weight)
        warm = schedule == "sequential" or self.first_epochs >= 1
        # Else the untrained codes set the units, and those of a trained encoder vary far more.
        _require(warm, "first_epochs", "be at least 1 where schedule is 'joint'", self.first_epochs)
        self.prior = Prior(self.hparams.prior, second_dim, self.hparams.prior_scale)
        self.penalty_kind, self.penalty_name = penalty, PENALTIES[penalty]
        # Codes in standard units vary as a normal law does.
        self.bandwidths = bandwidths(self.prior), bandwidths(Prior("gaussian", first_dim))
        self.joint, self.stop_gradient = schedule == "joint", stop_gradient
        self.first_weight, self.match_weight = first_weight, match_weight
        self.second_encoder = _mlp(first_dim, second_width, second_dim)
        self.second_decoder = _mlp(second_dim, second_width, first_dim)

    # --- the second level -------------------------------------------------------------------------

    def encode_second(self, codes):
        """Codes (n, second_dim) of codes (n, d) of the first level."""
        return self.second_encoder(self.standard(codes))

    def transport(self, points):
        """First-level codes (n, d) generated from prior points (n, second_dim)."""
        return self.original(self.second_decoder(points))

    def second_losses(self, codes, generator):
        """The brace of the objective, for codes (n, d) in standard units."""
        second = self.second_encoder(codes)
        error = squared_error(self.second_decoder(second), codes).mean()
        terms = {"code_error": error}
        points = self.prior.sample(len(codes), generator).to(second.dtype)
        if self.hparams.weight > 0:
            terms["penalty"] = self._discrepancy(second, points, self.bandwidths[0], generator)
        if self.match_weight > 0:
            generated = self.second_decoder(points)
            terms["match"] = self._discrepancy(codes, generated, self.bandwidths[1], generator)
        weights = {"code_error": 1.0, "penalty": self.hparams.weight, "match": self.match_weight}
        return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}

    def _discrepancy(self, x, y, scales, generator):
        """D between points (n, d) and (n, d)."""
        if self.penalty_kind == "sliced":
            distance = self.of_all(sliced_wasserstein)
            return distance(x, y, n_projections=N_SLICES, generator=generator)
        n = len(x) * self.processes
        _require(n > 1, "the batch", "hold 2 items or more", n)
        return self.of_all(mmd)(x, y, kernel="imq", bandwidth=scales, unbiased=True)

    def objective_text(self):
        """Both levels and the schedule, in one line for people."""
        brace = "squared error of the codes, summed"
        if self.hparams.weight > 0:
            brace += f" + {self.hparams.weight:g} x {self.penalty_name}(second codes, prior)"
        if self.match_weight > 0:
            brace += f" + {self.match_weight:g} x {self.penalty_name}(codes, generated codes)"
        join = f" + {self.first_weight:g} x" if self.joint else ", then"
        return f"loss = squared error summed over an item{join} [{brace}], averaged over the batch"

    # --- the joint schedule -----------------------------------------------------------------------

    def losses(self, items, generator):
        """Of the stage that the run is in; the second one of the joint schedule has all terms."""
        if self.stage == 1 or not self.joint:
            return super().losses(items, generator)
        codes = self.encode(items)
        reconstruction = squared_error(self.decoder(codes), items).mean()
        standard = self.standard(codes.detach() if self.stop_gradient else codes)
        second = self.second_losses(standard, generator)
        return {
            **second,
            "loss": reconstruction + self.first_weight * second["loss"],
            "reconstruction": reconstruction,
            "code_spread": _spread(standard),
        }

    def freeze_first_stage(self):
        """Where the schedule is sequential."""
        if not self.joint:
            super().freeze_first_stage()

    def stage_ends(self, steps):
        """The joint schedule drops the step size once: nothing of it begins anew."""
        return [steps] if self.joint else super().stage_ends(steps)

    def on_train_epoch_end(self):
        """Log the means of the epoch, and say so where the codes have collapsed."""
        super().on_train_epoch_end()
        spread = float(self.epoch_means().get("code_spread", 1.0))
        if not COLLAPSED[0] <= spread <= COLLAPSED[1]:
            rank_zero_warn(
                f"StackedWAE: the codes vary {spread:.3g} times as much as when the second level "
                f"joined, outside {list(COLLAPSED)}: they collapse, or no longer fit their units"
            )

    # --- validation -------------------------------------------------------------------------------

    def on_validation_epoch_start(self):
        """Collect the errors of the round trip through both levels too."""
        super().on_validation_epoch_start()
        self._errors_of_both = []

    def validation_step(self, batch, batch_index):
        """Encode and reconstruct one batch, through the first level and through both."""
        super().validation_step(batch, batch_index)
        second = self.encode_second(self._posteriors[-1].mean)
        self._errors_of_both.append(squared_error(self.generate(second), batch[0]))

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def evaluate(self, posterior, errors):
        """As for any system, with the loss of the joint objective and the prior distance of z2.

        ``mse_per_pixel_both`` is the error of the round trip through both levels,
        ``generated_distance`` the sliced W_2^2 between the codes of the items and as many generated
        ones, ``code_spread`` the standard deviation of the codes, both in standard units.
        """
        codes = self.standard(posterior.mean)
        second = self.second_encoder(codes)
        both = self.reconstruction_metrics(self._gathered(torch.cat(self._errors_of_both)))
        generator = torch.Generator(errors.device).manual_seed(0)
        brace = self.second_losses(codes, generator)["loss"]
        points = self.prior.sample_independent(len(codes), generator).to(codes.dtype)
        generated = self.second_decoder(points)
        return {
            "loss": errors.mean() + self.first_weight * brace,
            **self.reconstruction_metrics(errors),
            "mse_per_pixel_both": both["mse_per_pixel"],
            "prior_distance": prior_distance(second, self.prior),
            "prior_floor": null_floor(self.prior, len(codes)),
            "generated_distance": sliced_wasserstein(
                codes, generated, n_projections=N_DIRECTIONS, generator=generator
            ),
            "code_spread": _spread(codes),
        }


def _require(ok, argument, condition, got):
    require(ok, "StackedWAE", argument, condition, got)


def _mlp(inputs, width, outputs):
    """Two hidden layers between points (n, inputs) and (n, outputs)."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def _spread(codes):
    """Root mean variance of the coordinates of codes (n, d)."""
    return (codes - codes.mean(0)).square().mean().sqrt()
