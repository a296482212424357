"""Codes with the mean and covariance of the prior, before the first step of training."""

import torch

__all__ = ["match_moments", "moment_gap"]

N_POINTS = 1000
GOOD_ENOUGH = 0.1


def match_moments(model, items, steps, generator):
    """Train the encoder alone until the codes have about the moments of the prior.

    The warm-up of the code published with the WAE (Tolstikhin, Bousquet, Gelly, Schoelkopf 2018):
    Adam at the model's own step size on :func:`moment_gap` of 1000 items and 1000 prior points,
    until it is below 0.1 or ``steps`` are over. Decoder and torch's global stream are untouched.

    Args:
        model: an :class:`~models.autoencoder.Autoencoder`; its encoder is trained in place.
        items: dataset of (item, label).
        steps: the most steps to take.
        generator: on the CPU, picks items and prior points.

    Returns:
        The gap before each step and the one that ended the training: at most steps + 1 numbers.
    """
    n = min(N_POINTS, len(items))
    parameters = model.encoder.parameters()
    optimizer = torch.optim.Adam(parameters, lr=model.hparams.lr, betas=(0.5, 0.999))
    gaps = []
    while True:
        picked = torch.randperm(len(items), generator=generator)[:n].tolist()
        batch = torch.stack([items[i][0] for i in picked]).to(model.device)
        points = model.prior.sample(n, generator).to(model.device)
        gap = moment_gap(model.posterior(batch), points)
        gaps.append(gap.item())
        if gaps[-1] < GOOD_ENOUGH or len(gaps) > steps:
            return gaps
        gap.backward()
        optimizer.step()
        optimizer.zero_grad()


def moment_gap(posterior, points):
    """Squared gaps of mean and of covariance, relative to the spread of the points.

    |m_q - m_p|^2 / (d s^2) + |C_q - C_p|^2 / (d s^4), with s^2 = tr(C_p) / d: for a normal prior
    codes that all lie in its centre have gap 1 in any dimension. The published code takes means
    over the entries, which is 1 / d there: past ten dimensions below 0.1 before the first step.

    Args:
        posterior: laws of the codes of n items; the moments are those of their mixture.
        points: (n, d) prior points.
    """
    covariance = posterior.mean.T.cov()
    if posterior.variance is not None:
        covariance = covariance + posterior.variance.mean(0).diag()
    target = points.T.cov()
    spread = points.var(0).mean()
    of_mean = (posterior.mean.mean(0) - points.mean(0)).square().mean() / spread
    return of_mean + (covariance - target).square().sum() / (points.shape[1] * spread**2)
