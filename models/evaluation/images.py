"""What is measured on images (n, c, h, w), on their features and on predicted classes."""

import torch

from otkernels import gaussian_wasserstein

from ..errors import require

__all__ = ["confidence", "effective_classes", "frechet", "sharpness"]

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
LUMA = (0.2989, 0.5870, 0.1140)  # of red, green and blue


def frechet(x, y):
    """Frechet distance of features (n, f) and (m, f), covariances divided by n - 1; float64.

    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017, equation 6; FID only if the features
    are those of the Inception network.
    """
    return gaussian_wasserstein(x.double(), y.double(), correction=1).item()


def sharpness(images):
    """Variance over the pixels of the Laplacian of each grey image: (n,).

    Tolstikhin, Bousquet, Gelly, Schoelkopf 2018, "Wasserstein auto-encoders": the code published
    with it logs the smallest of a batch, means are ours, as are pixels in [0, 1] (of pixels in
    [-1, 1] it is 4 times as much).
    """
    channels = images.shape[1]
    require(channels in (1, 3), "sharpness", "images", "have 1 or 3 channels", channels)
    grey = (
        images if channels == 1 else (images * images.new_tensor(LUMA)[:, None, None]).sum(1, True)
    )
    response = torch.nn.functional.conv2d(grey, grey.new_tensor(LAPLACIAN)[None, None])
    return response.flatten(1).var(1, correction=0)


def confidence(probabilities):
    """Mean of the largest of the class probabilities (n, k)."""
    return probabilities.max(1).values.mean().item()


def effective_classes(probabilities):
    """Exp of the entropy of the mean of the class probabilities (n, k): k where all are met."""
    return torch.special.entr(probabilities.mean(0)).sum().exp().item()
