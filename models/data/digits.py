"""Scikit-learn's handwritten digits, part of its installation."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .items import Items, Tensors

__all__ = ["Digits"]

SPLIT_SEED = 0
N_TEST = 540


class Digits(Items):
    """1797 grey 8 x 8 digits, pixels in [0, 1]: 1257 to train on, 540 to test on.

    The split is stratified by class and always the same.

    Args:
        batch_size: images in a training step; a last, smaller batch is dropped.
    """

    title = "scikit-learn's handwritten digits, 8 x 8 pixels"
    shape = (1, 8, 8)
    classes = 10

    def __init__(self, batch_size: int = 100):
        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels / 16).float().reshape(-1, *self.shape)
        train, test = train_test_split(
            torch.arange(len(labels)), test_size=N_TEST, random_state=SPLIT_SEED, stratify=labels
        )
        labels = torch.from_numpy(labels)
        super().__init__(
            Tensors(images[train], labels[train]), Tensors(images[test], labels[test]), batch_size
        )
        self.save_hyperparameters(logger=False)
