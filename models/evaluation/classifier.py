"""A small classifier of the data themselves: the features that a Frechet distance is taken in."""

from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..data.items import in_order
from ..errors import require
from .features import Features

__all__ = ["classifier_features"]

STEPS, BATCH = 2000, 100
N_FEATURES = 32
CONVOLUTIONS_FROM = 28  # pixels a side

_kept = WeakKeyDictionary()  # of a data set, by seed: training takes seconds


def classifier_features(data, seed=0):
    """The 32 last hidden features of a classifier trained on ``data.train``.

    Smaller images go through an MLP (pixels-128-32-classes), images of 28 x 28 pixels and more
    through two convolutions of stride 2. It is trained once for each ``data`` object and seed, on
    the CPU, from a stream of its own; torch's global one is left as it was.
    """
    condition = "have images and classes (else give features of your own)"
    got = f"{type(data).__name__} of shape {data.shape} with {data.classes} classes"
    ok = len(data.shape) == 3 and data.classes > 1
    require(ok, "classifier_features", "data", condition, got)
    kept = _kept.setdefault(data, {})
    if seed not in kept:
        kept[seed] = _trained(data, seed)
    return kept[seed]


# Layers and loaders draw from torch's global stream: that of the CPU alone is seeded and put back.
@torch.random.fork_rng(devices=[])
@torch.enable_grad()
def _trained(data, seed):
    torch.default_generator.manual_seed(seed)
    net = _network(data.shape, data.classes)
    _fit(net, *_tensors(data.train), torch.Generator().manual_seed(seed))
    net.eval().requires_grad_(False)
    images, labels = _tensors(data.test)
    accuracy = (net(images).argmax(1) == labels).double().mean().item()
    name = f"{type(data).__name__.lower()} classifier, {N_FEATURES} features"
    return Features(name, net[:-1], accuracy, lambda images: net(images).softmax(1))


def _network(shape, classes):
    channels, height, width = shape
    if min(height, width) < CONVOLUTIONS_FROM:
        body, n = [nn.Flatten(), nn.Linear(channels * height * width, 128), nn.ReLU()], 128
    else:
        convolutions = [
            nn.Conv2d(channels, 16, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2),
            nn.ReLU(),
        ]
        body, n = [*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten()], 32 * 4 * 4
    head = [nn.Linear(n, N_FEATURES), nn.ReLU(), nn.Linear(N_FEATURES, classes)]
    return nn.Sequential(*body, *head)


def _fit(net, images, labels, generator):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        batch = torch.randint(len(images), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _tensors(dataset):
    """All images and labels of a dataset."""
    images, labels = zip(*in_order(dataset), strict=True)
    return torch.cat(images), torch.cat(labels)
