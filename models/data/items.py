"""What every data set here is: items to train on and to test on, and how they are batched."""

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ..errors import InputError, require
from ..streams import SHUFFLE, stream

__all__ = ["Items", "Tensors", "in_order"]

EVALUATION_BATCH = 1000


class Items(L.LightningDataModule):
    """Datasets ``train`` and ``test`` of (item, label), always split in the same way.

    The test items serve as validation set too: the choice of the ``best`` checkpoint depends on
    them, and so do some settings of models/configs, which say so.

    Args:
        train: dataset of (item, label).
        test: the same, never trained on.
        batch_size: items in a training step; a last, smaller batch is dropped.
        workers: processes that load items.

    Attributes:
        title: what the data are, for headings.
        shape: of an item: (channels, height, width) of an image, (dim,) of a point.
        classes: the number of classes, 0 where the labels mean nothing.
    """

    title = "items"
    shape = ()
    classes = 0

    def __init__(self, train, test, batch_size, workers=0):
        super().__init__()
        name, limit = type(self).__name__, len(train)
        require(1 <= batch_size <= limit, name, "batch_size", f"be in [1, {limit}]", batch_size)
        require(workers >= 0, name, "workers", "be at least 0", workers)
        self.train, self.test = train, test
        self.batch_size, self.workers = batch_size, workers

    def train_dataloader(self):
        """Shuffled full batches."""
        return Loader(
            self.train,
            batch_size=self.batch_size,
            sampler=_Shuffle(len(self.train)),
            drop_last=True,
            **_loading(self.train, self.workers),
        )

    def val_dataloader(self):
        """All test items in their order."""
        return in_order(self.test, self.workers)

    test_dataloader = val_dataloader


def in_order(dataset, workers=0):
    """Batches of all items of a dataset, in their order."""
    return Loader(dataset, batch_size=EVALUATION_BATCH, **_loading(dataset, workers))


class Loader(DataLoader):
    """Repeats what a worker process says about the user's files as if said in this process."""

    def __iter__(self):
        try:
            yield from super().__iter__()
        except InputError as error:  # from a worker its text is a traceback, the message at the end
            raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None


def _loading(dataset, workers):
    """How items become batches; processes are kept, for starting them takes seconds."""
    collate = {"collate_fn": _as_it_is} if isinstance(dataset, Tensors) else {}
    return {"num_workers": workers, "persistent_workers": workers > 0, **collate}


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


class Tensors(TensorDataset):
    """Items and labels that lie in memory; a whole batch is indexed at once."""

    def __getitems__(self, indices):
        return self[torch.as_tensor(indices)]


def _as_it_is(batch):
    return batch
