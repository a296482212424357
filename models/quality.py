"""``python -m models.quality --ckpt ...``: how much samples look like digits, in one number.

A Frechet distance between 2000 samples and the test images, on the 32 hidden features of a small
classifier of digits. It is not FID (there is no Inception network) and compares only with itself.
Every checkpoint is sampled in three ways: from its prior, and, as baselines that any prior has to
beat, from a Gaussian and from a 10-component Gaussian mixture fitted to its training codes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import nn

from . import runs
from .data import Digits
from .errors import InputError

N_SAMPLES = 2000
COMPONENTS = 10


def main():
    """Print one line a checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.quality", description=__doc__)
    parser.add_argument("--ckpt", nargs="+", required=True, type=Path, help="checkpoints of runs")
    parser.add_argument("--seed", type=int, default=0, help="of classifier and samples (0)")
    options = parser.parse_args()
    try:
        models = [runs.load(path) for path in options.ckpt]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.manual_seed(options.seed)
    data = Digits()
    classifier = train_classifier(data)
    features = classifier[:-1]
    test, labels = data.test[:]
    accuracy = (classifier(test).argmax(1) == labels).double().mean().item()
    train = frechet(features(data.train[:][0]), features(test))
    print(f"classifier: test accuracy {accuracy:.3f}, Frechet distance train to test {train:.2f}")
    print(f"{'prior':>8}{'gaussian':>10}{'mixture':>10}")
    for path, model in zip(options.ckpt, models, strict=True):
        laws = (from_prior, from_mixture(1), from_mixture(COMPONENTS))
        codes = [law(model, data.train[:][0], options.seed) for law in laws]
        scores = [frechet(features(model.decoder(z)), features(test)) for z in codes]
        print(f"{scores[0]:8.2f}{scores[1]:10.2f}{scores[2]:10.2f}  {path}{on_ring(model, test)}")
    return 0


def train_classifier(data, steps=2000):
    """64-128-32-10 on the training images."""
    images, labels = data.train[:]
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = torch.randint(len(images), (100,))
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.requires_grad_(False)


def from_prior(model, images, seed):
    """Codes (N_SAMPLES, d) drawn from the prior."""
    return model.prior.sample(N_SAMPLES, torch.Generator().manual_seed(seed))


def from_mixture(components):
    """A sampler of the Gaussian mixture fitted to the codes of ``images``."""

    @torch.no_grad()
    def draw(model, images, seed):
        mixture = GaussianMixture(components, random_state=seed)
        codes = mixture.fit(model.encode(images).double().numpy()).sample(N_SAMPLES)[0]
        return torch.from_numpy(codes).float()

    return draw


@torch.no_grad()
def frechet(x, y):
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of features (n, d) and (m, d), float64."""
    x, y = x.double().numpy(), y.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # S_x S_y is similar to a positive semi-definite matrix: real eigenvalues, up to rounding.
    roots = np.sqrt(np.linalg.eigvals(cov_x @ cov_y).real.clip(0))
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(cov_x) + np.trace(cov_y) - 2 * roots.sum())


@torch.no_grad()
def on_ring(model, images):
    """For the ring prior, the share of codes within 0.1 of the unit circle; else nothing."""
    if model.prior.name != "ring":
        return ""
    radius = model.encode(images).norm(dim=1)
    share = ((radius - 1).abs() < 0.1).double().mean().item()
    return f"  ({share:.0%} of codes within 0.1 of the ring)"


if __name__ == "__main__":
    sys.exit(main())
