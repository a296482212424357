"""How a run says that it goes on where there is no terminal for a progress bar."""

import math
import time

from lightning.pytorch.callbacks import Callback

__all__ = ["Lines"]

SHOWN = ("val/loss", "val/mse_per_pixel", "val/prior_distance")


class Lines(Callback):
    """One line for about every tenth of the epochs."""

    def on_train_start(self, trainer, pl_module):
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module):
        """Say where the run is, by its training loss and the figures of the last validation."""
        done, planned = trainer.current_epoch + 1, trainer.max_epochs
        every = math.ceil(planned / 10) if planned > 0 else 10
        if not trainer.is_global_zero or (done % every and done != planned):
            return
        values = {**trainer.callback_metrics, "train/loss": pl_module.epoch_means()["loss"]}
        figures = (f"{key} {values[key]:.4g}" for key in ("train/loss", *SHOWN) if key in values)
        of = f" of {planned}" if planned > 0 else ""
        seconds = time.perf_counter() - self._start
        print(f"epoch {done}{of}: {', '.join(figures)} ({seconds:.0f} s)", flush=True)
