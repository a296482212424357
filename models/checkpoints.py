"""Which states of a run are kept, and how they are written so that a file is whole or absent."""

import io
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from . import runs

__all__ = ["WholeFiles", "keepers"]


class WholeFiles(TorchCheckpointIO):
    """Checkpoints by way of a second file: a full disk or Ctrl-C leaves the older one as it was.

    Lightning's own writer goes by way of the system's folder for temporary files. Where that is on
    another disk, as it often is, its last step is a copy, which can break off half-way.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write ``checkpoint`` to ``path``, which until then keeps its older contents."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_whole(path, buffer.getbuffer())


def keepers(folder):
    """Callbacks that keep the last and the best state, ``last.ckpt`` and ``best.ckpt``.

    Two, because ``save_last=True`` of one writes only when the best improves.
    """
    place = {"dirpath": folder / runs.CHECKPOINTS, "enable_version_counter": False}
    return [
        ModelCheckpoint(filename="best", monitor="val/loss", **place),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **place),
    ]
