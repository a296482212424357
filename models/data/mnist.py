"""MNIST and Fashion-MNIST: from their published files, or downloaded once."""

import os
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import fetch_openml

from ..errors import InputError, require
from .idx import read_idx
from .items import Items, Tensors

__all__ = ["MNIST", "FashionMNIST"]

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = tuple(name for pair in FILES.values() for name in pair)
N_TRAIN, N_TEST = 60_000, 10_000  # of the download: the split that was published
SIDE = 28


class MNIST(Items):
    """Grey 28 x 28 handwritten digits, pixels in [0, 1]: 60 000 to train on, 10 000 to test on.

    Read from the four published files (``train-images-idx3-ubyte`` and so on, with or without
    ``.gz``) where they are in ``root``. Otherwise the same images are downloaded by scikit-learn's
    ``fetch_openml`` and kept there as one compressed file. Its parser holds the images twice in
    double precision, 0.9 GB, that one time. Afterwards they take 55 MB: they stay bytes until a
    batch is made of them.

    Args:
        root: folder of the files.
        batch_size: images in a training step; a last, smaller batch is dropped.
    """

    title = "MNIST, handwritten digits, 28 x 28 pixels"
    shape = (1, SIDE, SIDE)
    classes = 10
    openml = "mnist_784", 1  # name and version

    def __init__(self, root: str = "datasets/mnist", batch_size: int = 100):
        root = str(root)
        folder = Path(root)
        found = {name: _find(folder, name) for name in NAMES}
        missing = [name for name, path in found.items() if path is None]
        if len(missing) == len(NAMES):
            train, test = self._downloaded(folder)
        else:
            condition = f"hold all of {', '.join(NAMES)} (or .gz) or none"
            got = f"{root!r} without {', '.join(missing)}"
            require(not missing, type(self).__name__, "root", condition, got)
            train, test = (_read(*(found[name] for name in pair)) for pair in FILES.values())
        super().__init__(Pixels(*train), Pixels(*test), batch_size)
        self.save_hyperparameters(logger=False)

    def _downloaded(self, folder):
        """(images, labels) to train on and to test on, from the network only the first time."""
        path = folder / f"{self.openml[0]}.npz"
        if not path.is_file():
            self._download(path)
        images, labels = _load(path)
        return [(images[part], labels[part]) for part in (slice(N_TRAIN), slice(N_TRAIN, None))]

    def _download(self, path):
        """Fetch images and labels and keep them in ``path``, which appears when it is complete."""
        name, version = self.openml
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as parts:
                # liac-arff: the parser that needs no pandas.
                options = {"as_frame": False, "parser": "liac-arff", "data_home": parts}
                data = fetch_openml(name, version=version, **options)
                images = data.data.astype(np.uint8).reshape(-1, SIDE, SIDE)
                complete = Path(parts) / path.name
                np.savez_compressed(complete, images=images, labels=data.target.astype(np.uint8))
                os.replace(complete, path)
        # scikit-learn raises ValueError for what arrives damaged.
        except (OSError, HTTPException, EOFError, zlib.error, ValueError) as error:
            raise InputError(
                f"{type(self).__name__}: {name} could not be downloaded ({error}); put "
                f"{', '.join(NAMES)} (or .gz) into {str(path.parent)!r} instead"
            ) from error


class FashionMNIST(MNIST):
    """Grey 28 x 28 pictures of clothes, pixels in [0, 1]: 60 000 to train on, 10 000 to test on.

    The files have the names of MNIST's and are sought in the same way: give each its own folder.

    Args:
        root: folder of the files.
        batch_size: images in a training step; a last, smaller batch is dropped.
    """

    title = "Fashion-MNIST, pictures of clothes, 28 x 28 pixels"
    openml = "Fashion-MNIST", 1

    def __init__(self, root: str = "datasets/fashion_mnist", batch_size: int = 100):
        super().__init__(root, batch_size)


class Pixels(Tensors):
    """Grey images (n, h, w) of bytes that are handed out as (n, 1, h, w) in [0, 1], with labels."""

    def __init__(self, images, labels):
        super().__init__(torch.tensor(images).unsqueeze(-3), torch.tensor(labels).long())

    def __getitem__(self, index):
        images, labels = super().__getitem__(index)
        return images / 255, labels


def _find(folder, name):
    """The path of a published file, or None."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read(*paths):
    """Images (n, 28, 28) and labels (n,) from the files of one split."""
    images, labels = (read_idx(path) for path in paths)
    _check(images, labels, " and ".join(repr(str(path)) for path in paths))
    return images, labels


def _load(path):
    """Images and labels of both splits, from the file that a download has left."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{str(path)!r} ({error}); delete it to download it again"
        raise InputError(f"MNIST: the file must be readable; got {got}") from error
    _check(images, labels, repr(str(path)))
    condition = f"hold {N_TRAIN + N_TEST} images"
    require(len(images) == N_TRAIN + N_TEST, "MNIST", str(path), condition, len(images))
    return images, labels


def _check(images, labels, where):
    matching = labels.shape == images.shape[:1]
    ok = images.size > 0 and images.shape[1:] == (SIDE, SIDE) and matching
    condition = f"hold as many labels as images of {SIDE} x {SIDE} pixels"
    got = f"images {images.shape} and labels {labels.shape} in {where}"
    require(ok, "MNIST", "root", condition, got)
    condition = "hold labels from 0 to 9"
    require(labels.max() < MNIST.classes, "MNIST", "root", condition, f"{labels.max()} in {where}")
