"""Latent optimal transport: a potential, learnt by regression, carries noise to the codes."""

import math

import numpy as np
import torch
from torch import nn

from otkernels import sliced_wasserstein

from ..duals import EXACT, c_transform, pot, solve
from ..errors import require
from ..latent_distance import N_DIRECTIONS
from ..streams import DUAL, stream
from ..two_stages import TwoStages

__all__ = ["LatentOT"]

MODES = ("full", "batch")
N_HELD_OUT = 256  # test codes of the dual that the loss on the test items is measured with


class LatentOT(TwoStages):
    """A plain autoencoder, then a map that carries prior points to its codes; no adversary.

    After Liu, Guo, Lei, Shu, Yau, Samaras, Gu 2018, "Latent space optimal transport for generative
    models": the discriminator between noise z and codes y is a Kantorovich potential, found by
    minimisation alone, and its gradient is the map. Here, for the cost |y - z|^2 / 2, the potential
    h of the exact discrete dual (:mod:`models.duals`) is the target of a network D:

        loss = mean_z (D(z) - h(z))^2 + gamma * mean_z |grad D(z) - (y*(z) - z)|^2,

    y*(z) the code that z is carried to, and T(z) = z + grad D(z). Only the noise side is regressed:
    where noise and codes overlap, the two constraints on one network would leave a constant.

    "full" solves one dual when the second stage begins, on all codes; its c-transform then gives h
    and y* for fresh noise in every step. "batch" solves the dual of every mini-batch: the mean of
    many maps of few points, hence contracted towards the centre of the codes.

    T is continuous, so some of its points lie between clusters; none is rejected.

    Args:
        mode: "full" or "batch".
        gamma: strength of the gradient term.
        width: of the hidden layers of D.
        depth: their number.
        sharpness: beta of their softplus; D is smooth, its bends have widths of about 1 / beta.
        n_noise: noise points for each code in the dual of mode "full".
        n_points: noise points of a step in mode "full"; "batch" has as many as codes.
        potential_lr: step size of D, whose steps are few; ``lr`` is that of the autoencoder.
        max_codes: where there are more training codes, so many are kept, drawn at random; memory
            and time of the dual of mode "full" grow with n_noise * max_codes^2.
        first_epochs: epochs of the plain autoencoder.
        **kwargs: see :class:`TwoStages`; ``weight`` has to be 0.
    """

    points_name = "transported noise"
    distance_name = "sliced W2^2 of the test codes to transported noise"

    def __init__(
        self,
        mode: str = "full",
        gamma: float = 1.0,
        width: int = 128,
        depth: int = 3,
        sharpness: float = 10.0,
        n_noise: int = 1,
        n_points: int = 200,
        potential_lr: float = 5e-3,
        max_codes: int = 4000,
        first_epochs: int = 200,
        **kwargs,
    ):
        super().__init__(first_epochs=first_epochs, **kwargs)
        modes = ", ".join(map(repr, MODES))
        _require(mode in MODES, "mode", f"be one of {modes}", repr(mode))
        _require(0 <= gamma < math.inf, "gamma", "be finite and >= 0", gamma)
        _require(0 < sharpness < math.inf, "sharpness", "be finite and > 0", sharpness)
        ok = 0 < potential_lr < math.inf
        _require(ok, "potential_lr", "be finite and > 0", potential_lr)
        counts = {"width": width, "depth": depth, "n_noise": n_noise, "n_points": n_points}
        for argument, count in {**counts, "max_codes": max_codes}.items():
            _require(count >= 1, argument, "be at least 1", count)
        weight = self.hparams.weight
        _require(weight == 0, "weight", "be 0: nothing is added to the reconstruction", weight)
        self.mode, self.gamma, self.potential_lr = mode, gamma, potential_lr
        self.n_noise, self.n_points, self.max_codes = n_noise, n_points, max_codes
        self.potential = _potential(self.prior.dim, width, depth, sharpness)
        # Training codes in standard units and f on them, both empty before the second stage.
        self.register_buffer("codes", torch.zeros(0, self.prior.dim))
        self.register_buffer("values", torch.zeros(0))
        self.register_load_state_dict_pre_hook(_resize)

    # --- the map ----------------------------------------------------------------------------------

    def transport(self, points):
        """T of prior points (n, d), in the units of the codes; without gradient."""
        _, slope = self._value_and_slope(points)
        return self.original(points + slope).detach()

    def _value_and_slope(self, points):
        """D (n,) and grad D (n, d), in any grad mode: T is a gradient in evaluation too."""
        device = points.device.type
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            # The network is small, and half precision would show in the map.
            torch.autocast(device, enabled=False),
        ):
            points = points.detach().clone().to(self.centre.dtype).requires_grad_()
            value = self.potential(points).squeeze(1)
            (slope,) = torch.autograd.grad(value.sum(), points, create_graph=self.training)
        return value, slope

    # --- training ---------------------------------------------------------------------------------

    def parameter_groups(self):
        """Autoencoder and potential, each with its own step size."""
        first = [*self.encoder.parameters(), *self.decoder.parameters()]
        second = {"params": list(self.potential.parameters()), "lr": self.potential_lr}
        return [{"params": first}, second] if first else [second]

    def on_fit_start(self):
        """Refuse a run that cannot solve its duals."""
        super().on_fit_start()
        pot()

    def begin_second_stage(self, codes):
        """Keep the codes (N, d); in mode "full", solve the dual of them and of noise."""
        generator = stream(DUAL)
        if len(codes) > self.max_codes:
            kept = torch.randperm(len(codes), generator=generator)[: self.max_codes]
            codes = codes[kept.to(codes.device)]
        self.codes = codes
        if self.mode == "full":
            noise = self.prior.sample(self.n_noise * len(codes), generator).to(codes)
            self.values = solve(codes, noise).codes.to(codes.dtype)

    def second_losses(self, codes, generator):
        """The regression of D, beside the codes (n, d) of a mini-batch."""
        if self.mode == "batch":
            return self._regression(*self._matched(codes, generator))
        points = self.prior.sample(self.n_points, generator).to(self.codes)
        heights, match = c_transform(points, self.codes, self.values)
        return self._regression(points, heights, self.codes[match])

    def _matched(self, codes, generator):
        """Noise (n, d), h (n,) and y* (n, d) by the exact dual of codes (n, d)."""
        points = self.prior.sample(len(codes), generator).to(codes)
        duals = solve(codes, points)
        return points, duals.noise, codes[duals.match]

    def _regression(self, points, heights, targets):
        """The two terms and their sum, from points (n, d), h (n,) and y* (n, d)."""
        value, slope = self._value_and_slope(points)
        regression = (value - heights.to(value.dtype)).square().mean()
        gradient = (slope - (targets - points)).square().sum(1).mean()
        loss = regression + self.gamma * gradient
        return {"loss": loss, "regression": regression, "gradient": gradient}

    def objective_text(self):
        """Both stages, in one line for people."""
        regression = f"(D - h)^2 + {self.gamma:g} x |grad D - (y* - z)|^2"
        return (
            f"loss = squared error summed over an item, then [{regression}] with h and y* of exact "
            f"duals ({self.mode}); averaged over the batch"
        )

    # --- validation -------------------------------------------------------------------------------

    def evaluate(self, posterior, errors):
        """As for any system, with the distance of the codes to the transported prior.

        The second term of the loss is that of "batch" for both modes: on the exact dual of the
        first test codes, at most 256. ``prior_distance`` is the sliced W_2^2 between the test codes
        and as many T(z), ``prior_floor`` the same with training codes in place of T(z);
        ``nearest_code`` is the median distance of a T(z) to its nearest training code,
        ``nearest_code_of_test`` that of a test code: far below it, T repeats the training codes.
        All are in standard units; the last three are known once the second stage has begun.
        """
        codes = self.standard(posterior.mean)
        if not codes.isfinite().all():  # no dual exists; whoever reads the loss stops the run
            nothing = errors.new_tensor(np.nan)
            return {
                "loss": nothing,
                **self.reconstruction_metrics(errors),
                "prior_distance": nothing,
            }
        generator = torch.Generator(errors.device).manual_seed(0)
        second = self._regression(*self._matched(codes[:N_HELD_OUT], generator))["loss"]
        points = self.prior.sample_independent(len(codes), generator).to(codes)
        generated = self.standard(self.transport(points))
        metrics = {
            "loss": errors.mean() + second,
            **self.reconstruction_metrics(errors),
            "prior_distance": self._distance(generated, codes),
        }
        if len(self.codes) == 0:
            return metrics
        order = torch.randperm(len(self.codes), generator=generator, device=generator.device)
        return {
            **metrics,
            "prior_floor": self._distance(self.codes[order[: len(codes)]], codes),
            "nearest_code": self._nearest(generated),
            "nearest_code_of_test": self._nearest(codes),
        }

    @staticmethod
    def _distance(x, y):
        """Sliced W_2^2, along the same directions in every call."""
        generator = torch.Generator(x.device).manual_seed(0)
        return sliced_wasserstein(x, y, n_projections=N_DIRECTIONS, generator=generator)

    def _nearest(self, points):
        """Median distance of points (n, d) to the nearest training code."""
        return torch.cdist(points, self.codes, compute_mode=EXACT).min(1).values.median()


def _require(ok, argument, condition, got):
    require(ok, "LatentOT", argument, condition, got)


def _potential(dim, width, depth, sharpness):
    """Softplus layers between points (n, dim) and (n, 1): smooth, as its gradient is the map."""
    layers = []
    for inputs in (dim, *(depth - 1) * (width,)):
        layers += [nn.Linear(inputs, width), nn.Softplus(sharpness)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _resize(model, state_dict, prefix, *_):
    """Make room for the codes of a checkpoint, whose number the settings do not tell."""
    for name in ("codes", "values"):
        saved = state_dict.get(prefix + name)
        if saved is not None:
            setattr(model, name, torch.empty_like(saved, device=model.centre.device))
