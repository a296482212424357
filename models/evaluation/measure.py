"""All figures of one trained model."""

import numpy as np
import torch

from ..data import EightGaussians
from ..errors import require
from ..evaluating import evaluating
from ..modes import mode_figures
from .classifier import classifier_features
from .codes import distances, prior_distances
from .features import in_batches
from .images import confidence, effective_classes, frechet, sharpness
from .laws import LAWS
from .neighbours import knn_accuracy, nearest_distance, two_sample_accuracy
from .survey import of_items, some_items

__all__ = ["evaluate"]

N_CODES = 2000  # at most, of each kind, in distances between laws of codes
N_PIXELS = 1000  # at most, of each kind, in the nearest-neighbour test


# Loaders draw from torch's global stream, whatever they load: it is put back.
@torch.random.fork_rng(devices=[])
@torch.no_grad()
def evaluate(model, data, *, law="prior", features=None, seed=0, n_samples=2000):
    """Figures of a model on the test items of its data, by key of ``METRICS``.

    Only those that apply: no image metric for points, none of a classifier without classes.
    Laws are those of the codes that the decoder was trained on: draws, where the encoder is random;
    reconstructions and nearest neighbours go by mean codes.

    Args:
        model: a trained :class:`models.autoencoder.Autoencoder`, on any device.
        data: an instance of :class:`models.data.Items`. Give the same one to several calls: the
            classifier is trained once for it.
        law: which codes are decoded, one of ``LAWS``: "prior" is the system itself, the others are
            baselines on its codes.
        features: in which the Frechet distance is taken; None is a classifier of ``data``.
        seed: of everything drawn here.
        n_samples: how many codes are decoded (of the law "codes", at most as many as there are).
    """
    laws = ", ".join(map(repr, LAWS))
    require(law in LAWS, "evaluate", "law", f"be one of {laws}", repr(law))
    require(n_samples >= 2, "evaluate", "n_samples", "be at least 2", n_samples)
    is_image = len(data.shape) == 3
    features = (features or classifier_features(data)) if is_image else None
    # A stream for each purpose: what does not depend on the law is the same beside every law.
    noise, drawn, subsets = _streams(seed, (model.device, "cpu", "cpu"))
    with evaluating(model):
        test, train = (
            of_items(model, part, noise, features, data.workers) for part in (data.test, data.train)
        )
        codes = LAWS[law](model, train["code"], n_samples, drawn)
        real_codes = LAWS["codes"](model, train["code"], n_samples, subsets)
        samples, decoded = (in_batches(_decoder(model), z) for z in (codes, real_codes))
    metrics = {"mse_per_pixel": test["error"].mean().item()}
    if is_image:
        metrics |= _of_features(features, samples, decoded, test, train)
        metrics |= _of_pixels(samples, data, test, subsets)
    else:
        metrics |= _of_points(samples, data, subsets)
    metrics |= _of_codes(codes, test, train, subsets)
    if law == "prior" and _decodes_the_prior(model):
        figures = prior_distances(test["code"], model.prior)
        metrics |= {f"prior_{name}": value for name, value in figures.items()}
    if data.classes:
        parts = (part[key] for part in (train, test) for key in ("mean", "label"))
        metrics["knn_accuracy"] = knn_accuracy(*parts)
    return metrics


def _streams(seed, devices):
    seeds = np.random.SeedSequence(seed).generate_state(len(devices), np.uint64)
    pairs = zip(devices, seeds.tolist(), strict=True)
    return [torch.Generator(device).manual_seed(s) for device, s in pairs]


def _decoder(model):
    return lambda codes: model.decoder(codes.to(model.device))


def _decodes_the_prior(model):
    """Whether nothing stands between the prior and the decoder."""
    points = model.prior.sample(2, torch.Generator().manual_seed(0)).to(model.device)
    return torch.equal(model.transport(points), points)


def _of_features(features, samples, decoded, test, train):
    of_samples, of_decoded = (in_batches(features.function, x) for x in (samples, decoded))
    metrics = {
        "fd": frechet(of_samples, test["feature"]),
        "fd_codes": frechet(of_decoded, test["feature"]),
        "fd_train": frechet(train["feature"], test["feature"]),
    }
    if features.probabilities is None:
        return metrics
    both = {"": in_batches(features.probabilities, samples), "_data": test["probability"]}
    for suffix, probabilities in both.items():
        metrics[f"confidence{suffix}"] = confidence(probabilities)
        metrics[f"classes{suffix}"] = effective_classes(probabilities)
    return metrics


def _of_pixels(samples, data, test, generator):
    n = min(N_PIXELS, len(samples), len(data.test), len(data.train))
    real, train = (some_items(part, n, generator) for part in (data.test, data.train))
    return {
        "one_nn": two_sample_accuracy(samples[:n], real),
        "one_nn_train": two_sample_accuracy(train, real),
        "sharpness": in_batches(sharpness, samples).mean().item(),
        "sharpness_reconstructions": test["decoded_sharpness"].mean().item(),
        "sharpness_data": test["sharpness"].mean().item(),
    }


def _of_points(samples, data, generator):
    n = min(N_CODES, len(samples), len(data.test), len(data.train))
    real, train = (some_items(part, n, generator) for part in (data.test, data.train))
    metrics = _named("sample", distances(real, samples[:n]), distances(real, train))
    if isinstance(data, EightGaussians):
        metrics |= mode_figures(samples, data.modes, data.sd)
    return metrics


def _of_codes(codes, test, train, generator):
    n = min(N_CODES, len(codes), len(test["code"]), len(train["code"]))
    picked = (
        part["code"][torch.randperm(len(part["code"]), generator=generator)[:n]]
        for part in (test, train)
    )
    test_codes, train_codes = picked
    unit = (test["code"] - test["code"].mean(0)).square().mean().sqrt()
    return {
        **_named("code", distances(test_codes, codes[:n]), distances(test_codes, train_codes)),
        "code_nearest": nearest_distance(codes[:n] / unit, train["code"] / unit),
        "code_nearest_test": nearest_distance(test_codes / unit, train["code"] / unit),
    }


def _named(what, figures, references):
    return {
        **{f"{what}_{name}": value for name, value in figures.items()},
        **{f"{what}_{name}_train": value for name, value in references.items()},
    }
