import math

import numpy as np
import pytest
import torch
from models_support import IGNORED, build, one_thread  # noqa: F401

from models.autoencoder import Autoencoder
from models.data import Digits, EightGaussians, Items
from models.data.items import Tensors
from models.errors import InputError
from models.evaluation import (
    LAWS,
    METRICS,
    Features,
    classifier,
    classifier_features,
    evaluate,
    given_features,
    table,
)
from models.evaluation.codes import distances, prior_distances
from models.evaluation.images import confidence, effective_classes, frechet, sharpness
from models.evaluation.neighbours import knn_accuracy, two_sample_accuracy
from models.evaluation.survey import of_items, some_items
from models.priors import Prior
from otkernels import gaussian_wasserstein_to_normal

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


# --- codes --------------------------------------------------------------------------------------

FIGURES = ("mmd", "sw2", "gw2")


def test_distances_are_in_units_of_the_codes():
    codes, shift = 3 * normal(500, 4) @ torch.diag(torch.tensor([1.0, 1, 2, 4]).double()), 2.0
    scale = (codes - codes.mean(0)).square().mean().sqrt()
    figures = distances(codes, codes + shift)
    assert figures["gw2"] == pytest.approx(float(4 * shift**2 / scale**2))
    assert figures["sw2"] == pytest.approx(float(shift**2 / scale**2), rel=0.3)  # 200 directions
    moved = distances(7 * codes - 3, 7 * (codes + shift) - 3)
    assert moved == pytest.approx(figures, rel=1e-9)


def test_distances_of_one_point_in_place_of_the_points():
    codes = normal(400, 4)
    points = codes.mean(0).expand(400, 4)
    figures = distances(codes, points)
    assert figures["gw2"] == pytest.approx(4)  # the trace of the covariance
    assert figures["sw2"] == pytest.approx(1, abs=0.02)


def test_mmd_of_codes_is_the_unbiased_sum_over_seven_kernels():
    codes, points = 5 * normal(12, 3) + 2, 4 * normal(9, 3, seed=1)
    centre = codes.mean(0)
    scale = (codes - centre).square().mean().sqrt()
    x, y = (codes - centre) / scale, (points - centre) / scale
    total = 0.0
    for c in (0.1, 0.2, 0.5, 1, 2, 5, 10):
        c0 = c * 2 * 3

        def mean(a, b, pairs, c0=c0):
            values = [c0 / (c0 + float((a[i] - b[j]).square().sum())) for i, j in pairs]
            return sum(values) / len(values)

        inside = [[(i, j) for i in range(n) for j in range(n) if i != j] for n in (12, 9)]
        across = [(i, j) for i in range(12) for j in range(9)]
        total += mean(x, x, inside[0]) + mean(y, y, inside[1]) - 2 * mean(x, y, across)
    assert distances(codes, points)["mmd"] == pytest.approx(total, rel=1e-10)


def test_rotation_of_both_leaves_mmd_and_gaussian_distance():
    codes, points = normal(300, 6) + 1, normal(200, 6, seed=1) @ normal(6, 6, seed=2)
    rotation = torch.linalg.qr(normal(6, 6, seed=3)).Q
    before, after = distances(codes, points), distances(codes @ rotation, points @ rotation)
    for name in ("mmd", "gw2"):
        assert after[name] == pytest.approx(before[name], rel=1e-9)
    assert after["sw2"] == pytest.approx(before["sw2"], rel=0.1)  # in expectation only


def test_distances_to_the_prior_of_shifts_and_scales():
    prior, z = Prior("gaussian", 8), normal(2000, 8, dtype=torch.float32)
    shifted, scaled = prior_distances(z + 0.5, prior), prior_distances(z / 2, prior)
    # What calibration gave for the MMD; the others in closed form, sum over 8 axes or mean.
    assert shifted["mmd"] == pytest.approx(0.27, abs=0.02)
    assert scaled["mmd"] == pytest.approx(0.43, abs=0.02)
    # 8 * 0.25 times the mean of 200 squares of a coordinate on the sphere, of variance 14 / 640.
    assert shifted["sw2"] == pytest.approx(0.25, abs=4 * 2 * (14 / 640 / 200) ** 0.5)
    assert scaled["sw2"] == pytest.approx(0.25, abs=0.02)
    assert [shifted["gw2"], scaled["gw2"]] == pytest.approx([2, 2], rel=0.05)


def test_distances_to_the_prior_scale_with_it():
    z = normal(600, 3, dtype=torch.float32) + 0.3
    one, three = (prior_distances(s * z, Prior("gaussian", 3, float(s))) for s in (1, 3))
    assert three["mmd"] == pytest.approx(one["mmd"], rel=1e-4)
    for name in ("sw2", "sw2_floor", "gw2", "gw2_floor"):
        assert three[name] == pytest.approx(9 * one[name], rel=1e-4), name


def test_floors_are_what_a_perfect_match_gives():
    prior, n = Prior("gaussian", 8), 500
    matches = [
        prior_distances(normal(n, 8, seed=s, dtype=torch.float32), prior) for s in range(7, 17)
    ]
    for name in ("sw2", "gw2"):
        mean = sum(match[name] for match in matches) / 10
        assert mean == pytest.approx(matches[0][f"{name}_floor"], rel=0.25)
    mean = sum(match["mmd"] for match in matches) / 10
    assert abs(mean) < 0.002  # a tenth of a per cent of a collapsed cloud's
    assert set(prior_distances(normal(50, 2).float(), Prior("ring", 2))) == {"sw2", "sw2_floor"}


def alternative(name, seed):
    """1000 points of the plane, of N(0, I) or of a law that differs from it in one way."""
    z = normal(1000, 2, seed=seed)
    if name == "shift":
        return z + 0.5
    if name == "scale":
        return z / 2
    if name == "correlation":  # coordinates of variance 1
        return z @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double()
    if name == "mixture":  # mean 0 and covariance I, as N(0, I)
        z[:, 0] = 0.97 * torch.sign(normal(1000, seed=seed + 99)) + 0.0591**0.5 * z[:, 0]
    return z


SEEN = {
    "match": set(),
    "shift": {"mmd", "sw2", "gw2", "diagonal"},
    "scale": {"mmd", "sw2", "gw2", "diagonal"},
    "correlation": {"mmd", "sw2", "gw2"},
    "mixture": {"mmd", "sw2"},
}


def to_normal(z):
    """Figures of points (n, 2) against N(0, I); "diagonal" is that of the WWAE's short form."""
    found = prior_distances(z.float(), Prior("gaussian", 2))
    found["diagonal"] = float(gaussian_wasserstein_to_normal(z, diagonal=True))
    return {key: found[key] for key in (*FIGURES, "diagonal")}


@pytest.fixture(scope="module")
def nulls():
    """Eight perfect matches."""
    return [to_normal(normal(1000, 2, seed=100 + s)) for s in range(8)]


@pytest.mark.parametrize("name", SEEN)
def test_what_every_distance_sees(name, nulls):
    value = to_normal(alternative(name, seed=1))
    for key in value:
        largest = max(abs(null[key]) for null in nulls)
        if key in SEEN[name]:
            assert value[key] > 4 * largest, key
        else:
            assert value[key] < 3 * largest, key


# --- laws ---------------------------------------------------------------------------------------


def drawn(law, codes, n, seed=0, model=None):
    return LAWS[law](model, codes, n, torch.Generator().manual_seed(seed))


def test_fitted_gaussian_has_the_moments_of_the_codes():
    codes = normal(300, 3, dtype=torch.float32) @ normal(3, 3, seed=1, dtype=torch.float32) + 2
    z = drawn("gaussian", codes, 50_000)
    assert z.dtype == codes.dtype
    torch.testing.assert_close(z.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(z.T.cov(), codes.T.cov(), atol=0.1, rtol=0.03)
    flat = codes * torch.tensor([1.0, 1.0, 0.0])  # a coordinate that the encoder does not use
    assert drawn("gaussian", flat, 50)[:, 2].abs().max() < 1e-5


def test_unit_law_has_one_scale():
    codes = normal(300, 3, dtype=torch.float32) * torch.tensor([1.0, 2.0, 3.0]) + 5
    z = drawn("unit", codes, 50_000)
    variance = (codes - codes.mean(0)).square().mean()
    torch.testing.assert_close(z.mean(0), codes.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(z.T.cov(), variance * torch.eye(3), atol=0.15, rtol=0)


def test_mixture_finds_clusters_and_comes_in_random_order():
    centres = 10 * torch.arange(10.0)[:, None]
    codes = centres.repeat(30, 2) + 0.1 * normal(300, 2, dtype=torch.float32)
    z = drawn("mixture", codes, 400)
    assert (z[:, :1] - centres.T).abs().min(1).values.max() < 1  # of the 10 clusters, none between
    stays = ((z[1:] - z[:-1]).abs()[:, 0] < 5).double().mean()
    assert stays < 0.2  # a tenth of the steps of a random order end in the cluster they came from
    with pytest.raises(InputError, match="codes must be at least 10; got 9"):
        drawn("mixture", codes[:9], 5)


def test_real_codes_are_drawn_once_each():
    codes = torch.arange(40.0)[:, None]
    z = drawn("codes", codes, 15)
    assert len(z.unique()) == 15
    assert set(z[:, 0].tolist()) <= set(codes[:, 0].tolist())
    assert len(drawn("codes", codes, 99).unique()) == 40


class Mapped(Autoencoder):
    """Prior points go through a map before they are decoded."""

    def transport(self, points):
        return 2 * points + 3


@pytest.mark.parametrize(("cls", "mean", "sd"), [(Autoencoder, 0, 1), (Mapped, 3, 2)])
def test_prior_law_is_what_the_system_decodes(cls, mean, sd):
    z = drawn("prior", None, 5000, model=build(cls))
    assert abs(z.mean() - mean) < 5 * sd / 40_000**0.5
    assert z.std() == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_laws_repeat_and_leave_the_global_stream_alone(law):
    model, codes = build(Autoencoder, latent_dim=2), normal(50, 2, dtype=torch.float32)
    before = torch.get_rng_state()
    first, again, other = (drawn(law, codes, 20, seed, model) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort(0).values, other.sort(0).values)  # not in another order only
    assert torch.equal(torch.get_rng_state(), before)


# --- features -----------------------------------------------------------------------------------


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
