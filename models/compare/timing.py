"""How long training takes, without validation and start-up."""

import time

from lightning.pytorch.callbacks import Callback

__all__ = ["EpochTimer"]


class EpochTimer(Callback):
    """Adds up the wall time of training in ``seconds`` and counts the ``epochs``.

    What a system does between its stages counts; validation does not, nor do checkpoints and logs
    that are written between two epochs.
    """

    def __init__(self):
        self.seconds, self.epochs = 0.0, 0

    @property
    def seconds_per_epoch(self):
        """The mean over all epochs."""
        return self.seconds / self.epochs

    def on_train_epoch_start(self, trainer, pl_module):
        """Start the clock; systems act in the hook of the same name, which runs later."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer, pl_module):
        """Stop it: validation runs inside an epoch."""
        if not trainer.sanity_checking:
            self._stop()

    def on_validation_end(self, trainer, pl_module):
        """Go on."""
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module):
        """Stop."""
        self._stop()
        self.epochs += 1

    def _stop(self):
        self.seconds += time.perf_counter() - self._since
