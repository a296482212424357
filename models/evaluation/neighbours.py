"""What nearest neighbours tell: do two samples differ, do codes keep classes apart?"""

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ..duals import EXACT

__all__ = ["knn_accuracy", "nearest_distance", "two_sample_accuracy"]

K = 5


def two_sample_accuracy(x, y):
    """Leave-one-out accuracy of the 1-nearest-neighbour classifier that tells x from y.

    0.5 in the mean for samples (n, ...) of one law, 1 for samples far apart, near 0 for copies
    (Lopez-Paz, Oquab 2017, "Revisiting classifier two-sample tests").
    """
    rows = torch.cat([x, y]).flatten(1)
    distances = torch.cdist(rows, rows, compute_mode=EXACT).fill_diagonal_(torch.inf)
    is_x = torch.arange(len(rows)) < len(x)
    return (is_x[distances.argmin(1)] == is_x).double().mean().item()


def nearest_distance(points, others):
    """Median distance of points (n, d) to the nearest of others (m, d)."""
    distances, _ = NearestNeighbors(n_neighbors=1).fit(others.numpy()).kneighbors(points.numpy())
    return float(np.median(distances))


def knn_accuracy(train_codes, train_labels, codes, labels):
    """Share of codes (n, d) whose class is that of most of the 5 nearest training codes (m, d)."""
    classifier = KNeighborsClassifier(min(K, len(train_codes)))
    classifier.fit(train_codes.numpy(), train_labels.numpy())
    return float(classifier.score(codes.numpy(), labels.numpy()))
