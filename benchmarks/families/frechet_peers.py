"""torchmetrics' Frechet Inception Distance as a distance of two clouds of features."""

import torch


class _Features(torch.nn.Module):
    """What stands for the network: batches are features already."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


def torchmetrics():
    """Its distance, both updates and the computation; ImportError if it is not installed."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    def function(x, y):
        metric = FrechetInceptionDistance(_Features(x.shape[-1])).to(x.device)
        metric.update(x, real=False)
        metric.update(y, real=True)
        return metric.compute()

    return function


def stretched(t):
    """Each point further from the mean of all by the root of N over N - 1.

    A covariance of these points is that of the given ones divided by N - 1. The map is linear and
    symmetric, so it also takes gradients back.
    """
    mean, n = t.mean(-2, keepdim=True), t.shape[-2]
    return mean + (n / (n - 1)) ** 0.5 * (t - mean)


LARGEST = {"cpu": 256, "cuda": 2048}  # D, above which a call takes many seconds


def left_out(shapes, shape):
    """The rule of torchmetrics: what costs is D eigenvalues of a matrix that is not symmetric."""
    if shape.B > 1:
        return "a metric is of one problem"
    if LARGEST.get(shapes, shape.D) < shape.D:
        return "its eigenvalues take too long"
    if shape.N <= shape.D:
        return "takes as long as with more points, for its eigenvalues"
    return None
