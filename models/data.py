"""Images to learn from: scikit-learn's handwritten digits, part of its installation."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Sampler, TensorDataset

from .errors import require
from .streams import SHUFFLE, stream

__all__ = ["Digits"]

SPLIT_SEED = 0
N_TEST = 540


class Digits(L.LightningDataModule):
    """1797 grey 8 x 8 digits, pixels in [0, 1]: 1257 to train on, 540 to test on.

    The split is stratified by class and always the same. The test images serve as validation set
    too: nothing but the choice of the ``best`` checkpoint depends on them.

    Args:
        batch_size: images in a training step; a last, smaller batch is dropped.
    """

    def __init__(self, batch_size: int = 100):
        super().__init__()
        ok = 1 <= batch_size <= 1797 - N_TEST
        require(ok, "Digits", "batch_size", f"be in [1, {1797 - N_TEST}]", batch_size)
        self.batch_size = batch_size
        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels / 16).float().reshape(-1, 1, 8, 8)
        train, test = train_test_split(
            torch.arange(len(labels)), test_size=N_TEST, random_state=SPLIT_SEED, stratify=labels
        )
        labels = torch.from_numpy(labels)
        self.train = _Batches(images[train], labels[train])
        self.test = _Batches(images[test], labels[test])

    def train_dataloader(self):
        """Shuffled full batches."""
        return DataLoader(
            self.train,
            batch_size=self.batch_size,
            sampler=_Shuffle(len(self.train)),
            drop_last=True,
            collate_fn=_as_it_is,
        )

    def val_dataloader(self):
        """All test images in one batch."""
        return DataLoader(self.test, batch_size=len(self.test), collate_fn=_as_it_is)

    test_dataloader = val_dataloader


class _Shuffle(Sampler):
    """A random order that depends on seed and epoch only; Lightning calls ``set_epoch``."""

    def __init__(self, n):
        self.n, self.epoch = n, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(self.n, generator=stream(SHUFFLE, self.epoch)).tolist())

    def __len__(self):
        return self.n


class _Batches(TensorDataset):
    """Indexes a whole batch at once; worker processes would only slow this down."""

    def __getitems__(self, indices):
        return self[torch.as_tensor(indices)]


def _as_it_is(batch):
    return batch
