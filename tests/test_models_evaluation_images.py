"""Figures of images and their features, and by nearest neighbours."""

import math

import numpy as np
import pytest
import torch
from models_support import IGNORED, build, one_thread  # noqa: F401

from models.errors import InputError
from models.evaluation.images import confidence, effective_classes, frechet, sharpness
from models.evaluation.neighbours import knn_accuracy, two_sample_accuracy

pytestmark = IGNORED


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- images and their features ------------------------------------------------------------------


def test_frechet_distance_of_scaled_and_shifted_features():
    x, y = normal(2, 20_000, 3)
    scale, shift = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = 1 + 1 + 4  # |shift|^2 + sum (scale - 1)^2
    assert frechet(x, y * scale + shift) == pytest.approx(expected, rel=0.03)
    assert abs(frechet(x, x)) < 1e-9


def test_frechet_distance_equals_numpy():
    x, y = normal(70, 5) @ normal(5, 5, seed=1), normal(40, 5, seed=2) + 1
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    # S_x S_y is similar to a positive definite matrix: its eigenvalues are real.
    roots = np.sqrt(np.linalg.eigvals(cov_x @ cov_y).real)
    gap = (x.mean(0) - y.mean(0)).numpy()
    expected = gap @ gap + np.trace(cov_x) + np.trace(cov_y) - 2 * roots.sum()
    assert frechet(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_sharpness_of_known_pictures():
    dot = torch.zeros(1, 5, 5)
    dot[0, 2, 2] = 1.0  # response of 9 pixels: -4 once, 1 four times, 0 four times
    ramp = torch.arange(5.0).square().expand(1, 5, 5)  # its Laplacian is 2 everywhere
    values = sharpness(torch.stack([dot, ramp, 3 * dot]))
    torch.testing.assert_close(values, torch.tensor([20 / 9, 0.0, 9 * 20 / 9]))


def test_sharpness_of_colours_is_that_of_the_luma():
    grey = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    colours = torch.zeros(3, 3, 6, 6)
    for k in range(3):
        colours[k, k] = grey[k, 0]
    weights = torch.tensor([0.2989, 0.5870, 0.1140])
    torch.testing.assert_close(sharpness(colours), weights.square() * sharpness(grey))
    with pytest.raises(InputError, match="images must have 1 or 3 channels; got 2"):
        sharpness(colours[:, :2])


def test_confidence_and_effective_classes():
    one_hot, even = torch.eye(4).repeat(5, 1), torch.full((6, 4), 0.25)
    assert confidence(one_hot) == 1
    assert confidence(even) == 0.25
    assert effective_classes(one_hot) == pytest.approx(4)  # every class met, each with certainty
    assert effective_classes(even) == pytest.approx(4)
    assert effective_classes(one_hot[:1]) == pytest.approx(1)
    skewed = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0]])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_classes(skewed) == pytest.approx(expected)
    assert confidence(skewed) == pytest.approx(0.75)


# --- neighbours ---------------------------------------------------------------------------------


def test_two_sample_accuracy_of_equal_far_and_copied_samples():
    x = normal(60, 1, 3, 3)
    assert two_sample_accuracy(x, x + 100) == 1
    assert two_sample_accuracy(x, x + 1e-6) == 0  # the nearest of each is its copy
    pairs = [normal(2, 200, 4, seed=seed) for seed in range(20)]
    mean = sum(two_sample_accuracy(*pair) for pair in pairs) / 20
    assert abs(mean - 0.5) < 5 * (0.25 * 2 / 400 / 20) ** 0.5  # neighbours come in pairs: twice


def test_two_sample_accuracy_sees_a_shift_of_unequal_samples():
    x, y = normal(100, 2), normal(50, 2, seed=1) + 2
    points, right = [*x.tolist(), *y.tolist()], 0
    for i, point in enumerate(points):
        nearest = min((math.dist(point, other), j) for j, other in enumerate(points) if j != i)[1]
        right += (i < 100) == (nearest < 100)
    assert two_sample_accuracy(x, y) == pytest.approx(right / 150)
    assert 0.75 < right / 150 < 0.95


def test_knn_accuracy_is_by_vote_of_five():
    train = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.0, 102.0, 103.0, 104.0])[:, None]
    labels = torch.tensor([0, 1, 1, 0, 1, 2, 2, 2, 2, 2])
    codes = torch.tensor([[-1.0], [0.0], [103.0], [99.0]])
    # The nearest of the first two codes is of class 0, three of the five are of class 1.
    assert knn_accuracy(train, labels, codes, torch.tensor([1, 1, 2, 2])) == 1
    assert knn_accuracy(train, labels, codes, torch.tensor([0, 1, 2, 0])) == 0.5
