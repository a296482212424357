"""Where features come from: a classifier of the data, or the user."""

import pytest
import torch
from models_support import IGNORED, build, one_thread  # noqa: F401

from models.data import Digits, EightGaussians, Items
from models.data.items import Tensors
from models.errors import InputError
from models.evaluation import (
    classifier,
    classifier_features,
    given_features,
)

pytestmark = IGNORED


def column_means(images):
    return images.mean((1, 2))


def scalar(images):
    return images.mean()


def maps(images):
    return images


@pytest.fixture(scope="module")
def digits():
    """Digits and their classifier, which is trained once."""
    torch.set_num_threads(1)
    data = Digits()
    return data, classifier_features(data)


def test_classifier_knows_digits(digits):
    data, features = digits
    images, labels = data.test[:]
    probabilities = features.probabilities(images)
    assert features.name == "digits classifier, 32 features"
    assert features.accuracy > 0.95
    assert (probabilities.argmax(1) == labels).double().mean() == pytest.approx(features.accuracy)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(540))
    assert features.function(images).shape == (540, 32)
    assert features.function(images).min() == 0  # after the ReLU
    assert classifier_features(data) is features


def test_classifier_has_a_stream_of_its_own(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 3)
    images, found = Digits().test[:5][0], []
    for start, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        with torch.no_grad():  # as its caller may have it
            found.append(classifier_features(Digits(), seed).function(images))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.initial_seed() == start
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_classifiers_of_two_seeds_are_kept_apart(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 3)
    data = Digits()
    first, second = classifier_features(data, 0), classifier_features(data, 1)
    assert first is not second
    assert classifier_features(data, 0) is first


class Halves(Items):
    """28 x 28 colour pictures, bright on the left or on the right."""

    shape, classes, title = (3, 28, 28), 2, "halves"

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        images = 0.5 * torch.rand(120, *self.shape, generator=generator)
        labels = torch.arange(120) % 2
        for label in (0, 1):
            images[labels == label, :, :, 14 * label : 14 * label + 14] += 0.5
        super().__init__(Tensors(images[:80], labels[:80]), Tensors(images[80:], labels[80:]), 20)


def test_larger_images_go_through_convolutions(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 20)
    features = classifier_features(Halves())
    assert features.accuracy == 1
    assert features.function(Halves().test[:4][0]).shape == (4, 32)
    assert any(isinstance(module, torch.nn.Conv2d) for module in features.function)


def test_data_without_classes_need_features_of_the_user():
    data = Halves()
    data.classes = 0
    with pytest.raises(InputError, match="data must have images and classes .*; got Halves"):
        classifier_features(data)
    with pytest.raises(InputError, match="data must have images and classes"):
        classifier_features(EightGaussians())


def test_given_features():
    features = given_features(f"{__name__}:column_means")
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(features.function(images), images.mean((1, 2)))
    assert features.name == f"{__name__}:column_means"
    assert features.accuracy is features.probabilities is None
    for name in ("scalar", "maps"):
        with pytest.raises(InputError, match=r"result must be a tensor \(3, n_features\)"):
            given_features(f"{__name__}:{name}").function(images)


@pytest.mark.parametrize("path", ["math", "no_such_module:f", "math:no_such_name", "math:pi", ""])
def test_given_features_that_are_not_there(path):
    with pytest.raises(InputError, match="path must be package.module:function"):
        given_features(path)
