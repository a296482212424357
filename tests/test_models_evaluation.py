"""All figures of a trained model at once, and their table."""

import math

import pytest
import torch
from models_support import IGNORED, Mapped, build, one_thread  # noqa: F401

from models.autoencoder import Autoencoder
from models.data import Digits, EightGaussians
from models.errors import InputError
from models.evaluation import (
    LAWS,
    METRICS,
    Features,
    classifier_features,
    evaluate,
    given_features,
    table,
)
from models.evaluation.codes import prior_distances
from models.evaluation.images import effective_classes, frechet, sharpness
from models.evaluation.neighbours import knn_accuracy
from models.evaluation.survey import of_items, some_items

pytestmark = IGNORED


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def digits():
    """Digits and their classifier, which is trained once."""
    torch.set_num_threads(1)
    data = Digits()
    return data, classifier_features(data)


# --- evaluate -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures(digits):
    """All laws of an untrained autoencoder."""
    model = build(Autoencoder)
    data, features = digits
    return model, {law: evaluate(model, data, law=law, features=features) for law in LAWS}


def test_figures_are_known_and_finite(figures):
    _, laws = figures
    points = {key for key in METRICS if key.startswith("sample_")} | {"modes", "within", "tv"}
    assert set(laws["prior"]) == set(METRICS) - points
    assert all(math.isfinite(value) for found in laws.values() for value in found.values())
    for law in set(LAWS) - {"prior"}:
        assert set(laws["prior"]) - set(laws[law]) == {k for k in METRICS if k.startswith("prior_")}


def test_what_does_not_depend_on_the_law_does_not(figures):
    _, laws = figures
    fixed = [key for key in laws["gaussian"] if key.endswith(("_data", "_train"))]
    fixed += ["mse_per_pixel", "fd_codes", "knn_accuracy", "sharpness_reconstructions"]
    for key in fixed:
        assert laws["gaussian"][key] == laws["unit"][key] == laws["mixture"][key], key
    assert laws["gaussian"]["fd"] != laws["unit"]["fd"]
    # All training codes, in two orders.
    assert laws["codes"]["fd"] == pytest.approx(laws["codes"]["fd_codes"], rel=1e-5)


@torch.no_grad()
def test_figures_are_those_of_model_and_data(figures, digits):
    model, laws = figures
    data, features = digits
    (train, train_labels), (test, labels) = data.train[:], data.test[:]
    found = laws["codes"]
    codes = model.encode(train)
    decoded = model.decoder(codes)
    expected = {
        "mse_per_pixel": (model(test) - test).square().mean(),
        "fd": frechet(features.function(decoded), features.function(test)),
        "fd_train": frechet(features.function(train), features.function(test)),
        "confidence": features.probabilities(decoded).max(1).values.mean(),
        "confidence_data": features.probabilities(test).max(1).values.mean(),
        "classes": effective_classes(features.probabilities(decoded)),
        "classes_data": effective_classes(features.probabilities(test)),
        "sharpness": sharpness(decoded).mean(),
        "sharpness_reconstructions": sharpness(model(test)).mean(),
        "sharpness_data": sharpness(test).mean(),
        "knn_accuracy": knn_accuracy(codes, train_labels, model.encode(test), labels),
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), rel=1e-4), key
    from_prior = prior_distances(model.encode(test), model.prior)
    for key, value in from_prior.items():
        assert laws["prior"][f"prior_{key}"] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    assert laws["prior"]["one_nn"] == 1  # noise of an untrained network is no digit
    assert 0.4 < found["one_nn_train"] < 0.6
    assert found["code_sw2"] < 3 * found["code_sw2_train"]
    assert laws["prior"]["code_gw2"] > 10


def test_evaluation_repeats_and_leaves_everything_as_it_was(figures, digits):
    model, laws = figures
    data, features = digits
    model.train()
    model.encoder.eval()  # as it is in a second stage
    before = torch.get_rng_state()
    again = evaluate(model, data, features=features)
    assert again == laws["prior"]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.decoder.training
    assert not model.encoder.training
    assert evaluate(model, data, features=features, seed=1)["fd"] != again["fd"]


def test_batch_statistics_are_not_those_of_the_samples():
    class Normalised(Autoencoder):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.decoder.insert(0, torch.nn.BatchNorm1d(8))

    model = build(Normalised).train()
    statistics = model.decoder[0].running_mean.clone()
    evaluate(model, Digits(), features=Features("ink", lambda x: x.mean((2, 3)).repeat(1, 2)))
    assert torch.equal(model.decoder[0].running_mean, statistics)


def test_features_without_classes_leave_class_figures_out():
    found = evaluate(build(Autoencoder), Digits(), features=given_features(f"{__name__}:columns"))
    assert not {key for key in found if key.startswith(("confidence", "classes"))}
    assert found["fd"] > found["fd_train"]


def columns(images):
    return images.mean(2).flatten(1)


@torch.no_grad()
def test_a_system_with_a_map_is_measured_by_what_it_decodes(digits):
    data, features = digits
    model = build(Mapped)
    found = evaluate(model, data, features=features)
    assert not {key for key in found if key.startswith("prior_")}
    test = of_items(model, data.test, torch.Generator().manual_seed(0))["code"]
    scale = (test - test.mean(0)).square().mean().sqrt()
    gap = (3 - test.mean(0)).square().sum() / scale**2  # codes are small: the means are apart
    assert found["code_gw2"] > float(gap)


def test_codes_of_a_random_encoder_are_draws(digits):
    data, features = digits
    model = build(Autoencoder, random_encoder=True)
    torch.nn.init.zeros_(model.encoder[-1].weight)
    torch.nn.init.zeros_(model.encoder[-1].bias)  # now the code of every image is N(0, I)
    found = evaluate(model, data, features=features)
    for name in ("sw2", "gw2"):
        assert found[f"prior_{name}"] < 2 * found[f"prior_{name}_floor"]
        assert found[f"code_{name}"] < 3 * found[f"code_{name}_train"]
    assert found["knn_accuracy"] < 0.2  # means that say nothing


def test_neighbours_go_by_means(digits):
    data, features = digits
    model = build(Autoencoder, random_encoder=True)
    torch.nn.init.zeros_(model.encoder[-1].weight[8:])
    torch.nn.init.constant_(model.encoder[-1].bias[8:], 10.0)  # draws drown in noise of sd 148
    assert evaluate(model, data, features=features)["knn_accuracy"] > 0.5


class Perfect(Autoencoder):
    """Decodes points of the data."""

    def transport(self, points):
        data = EightGaussians()
        pick = torch.randint(2000, (len(points),), generator=torch.Generator().manual_seed(5))
        return data.train[pick][0]


def test_points():
    data = EightGaussians()
    settings = {"latent_dim": 2, "network": "identity", "shape": (2,)}
    found = evaluate(build(Perfect, **settings), data)
    assert found["mse_per_pixel"] == 0
    assert found["modes"] == 8
    assert found["within"] > 0.97
    assert found["sample_sw2"] < 3 * found["sample_sw2_train"]
    assert not {key for key in found if key.startswith(("fd", "one_nn", "sharp", "conf", "class"))}
    noise = evaluate(build(Autoencoder, **settings), data)
    assert noise["within"] < 0.5
    assert noise["sample_sw2"] > 10 * noise["sample_sw2_train"]
    # Data on a circle of radius 2 have variance 2 + 0.1^2 an axis, noise 1: both in these units.
    expected = 2 * (1 - 2.01**-0.5) ** 2
    assert noise["sample_gw2"] == pytest.approx(expected, rel=0.15)


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(InputError, match="law must be one of 'prior', 'unit', 'gaussian'"):
        evaluate(build(Autoencoder), Digits(), law="normal")
    with pytest.raises(InputError, match="n_samples must be at least 2; got 1"):
        evaluate(build(Autoencoder), Digits(), n_samples=1)


def test_some_items_are_different_ones():
    data = Digits()
    images = some_items(data.test, 50, torch.Generator().manual_seed(0))
    assert images.shape == (50, 1, 8, 8)
    assert len(images.unique(dim=0)) == 50
    assert (images[:10] != data.test[:10][0]).any()
    assert len(some_items(data.test, 9999, torch.Generator().manual_seed(0))) == 540


# --- the table ----------------------------------------------------------------------------------


def test_every_reference_is_a_metric_and_every_metric_has_words():
    for key, metric in METRICS.items():
        assert metric.reference in ("", *METRICS), key
        assert metric.better in ("low", "high", "none"), key
        assert metric.name, key
        assert metric.description, key
        format(0.5, metric.format)
    assert not any("FID" in f"{m.name} {m.description}" for m in METRICS.values())


def test_table_has_values_beside_references(figures, digits):
    found = figures[1]["prior"]
    text = table(found, digits[1])
    rows = {line[:42].strip(): line[42:].split() for line in text.splitlines()[1:-1]}
    assert rows["FD (features^2)"] == [f"{found['fd']:.2f}", f"{found['fd_train']:.2f}"]
    assert rows["1-NN two-sample accuracy"][1] == f"{found['one_nn_train']:.3f}"
    assert rows["5-NN accuracy of codes"] == [f"{found['knn_accuracy']:.3f}"]
    assert "sharpness, data (intensity^2)" not in rows
    assert "digits classifier, 32 features; not FID" in text.splitlines()[-1]
