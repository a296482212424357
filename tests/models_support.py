"""What the tests of ``models`` share: short runs, and the warnings of other people's libraries.

A test file that trains begins with::

    from models_support import IGNORED, build, one_thread, trained  # noqa: F401

    pytestmark = IGNORED
"""

import contextlib
import io
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import models.__main__ as command_line
from models.autoencoder import Autoencoder
from models.data import Digits
from models.streams import STEP, stream

__all__ = ["IGNORED", "ROOT", "Mapped", "Witness", "build", "call", "one_thread", "trained"]

ROOT = Path(__file__).parent.parent
# Lightning advises worker processes; the data lie in memory. The rest is between libraries.
IGNORED = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The '.*_dataloader' does not have many workers",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "Checkpoint directory .* exists and is not empty",
        ":jsonargparse._deprecated.JsonargparseDeprecationWarning",
    )
]


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(*arguments):
    """Run the command line in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def build(cls, seed=0, **settings):
    """A system from one seed."""
    L.seed_everything(seed, verbose=False)
    return cls(**settings)


def trained(model, epochs, callbacks=(), data=None, trainer=None, **fit):
    """The model after a few epochs, on digits unless told, with what is logged at the end.

    ``trainer`` holds further arguments of the Trainer, ``fit`` those of its method.
    """
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **(trainer or {}),
    )
    trainer.fit(model, data or Digits(), **fit)
    return model, trainer.callback_metrics


class Mapped(Autoencoder):
    """Prior points go through a map before they are decoded."""

    def transport(self, points):
        return 2 * points + 3


class Witness(L.Callback):
    """Writes down what one of several processes has seen, for a test to read."""

    def on_train_start(self, trainer, module):
        last = [*module.decoder.parameters()][-2]
        generator = stream(STEP, module.global_rank, 0)
        self.seen = {"untrained": last.detach().clone(), "draw": torch.rand(4, generator=generator)}
        self.items = []

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.current_epoch == 0:
            self.items.append(batch[0].flatten(1))

    def on_train_end(self, trainer, module):
        sampler = type(trainer.train_dataloader.sampler).__name__
        seen = {**self.seen, "sampler": sampler, "items": torch.cat(self.items)}
        # The folder that process 0 has chosen; Lightning tells it to the others.
        folder = Path(trainer.checkpoint_callback.dirpath).parent
        torch.save({**seen, "state": module.state_dict()}, folder / f"rank{module.global_rank}.pt")
