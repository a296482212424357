"""How a run ends that cannot go on: one line of why, which checkpoint is whole, how to continue."""

import math
import shlex
import sys
from contextlib import contextmanager

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import DistError

from . import report, runs

__all__ = ["Failure", "FiniteNumbers", "NotFinite", "is_interrupt", "told"]

# Exit codes: 1, or 128 plus the number of the signal, as shells have it.
FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


class Failure(Exception):
    """A run that stopped before its end; the message stands alone, ``code`` is the exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class NotFinite(ArithmeticError):
    """A loss or a weight is NaN or infinite."""


class FiniteNumbers(Callback):
    """Ends a run whose numbers are no longer finite, before they reach a checkpoint.

    Lightning calls the callbacks that write checkpoints after all others, so what is on the disk
    stays as the last good epoch left it.
    """

    def on_validation_end(self, trainer, pl_module):
        """Look at the loss on the test items."""
        if not trainer.sanity_checking and "val/loss" in trainer.callback_metrics:
            self._require({"val/loss": trainer.callback_metrics["val/loss"]}, trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        """Look at the terms of the objective over the epoch, and at the weights it ends with."""
        terms = {f"train/{key}": value for key, value in pl_module.epoch_means().items()}
        # A sum is finite unless a term of it is not, or all are near the largest number there is.
        weights = {name: value.detach().sum() for name, value in pl_module.named_parameters()}
        self._require({**terms, **weights}, trainer)

    @staticmethod
    def _require(values, trainer):
        values = {name: float(value) for name, value in values.items()}
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        # All processes stop, or none: one that goes on would wait for the others for ever.
        if not trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
            return
        what = f"{bad} is {values[bad]}" if bad else "another process met NaN"
        raise NotFinite(f"{what} in epoch {trainer.current_epoch + 1}")


@contextmanager
def told(folder, trainer):
    """Turn what may end a run from outside into a :class:`Failure`; a bug passes as it is."""
    try:
        yield
    except NotFinite as error:
        hint = "; it will fail there again unless something changes, such as --trainer."
        _fail(f"{error}", FAILED, folder, trainer, f"{hint}gradient_clip_val 1")
    except OSError as error:
        _fail(f"{type(error).__name__}: {error}", FAILED, folder, trainer)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        _fail("another process has ended or does not answer", FAILED, folder, trainer)
    except SIGTERMException:
        _fail("terminated", TERMINATED, folder, trainer)
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_interrupt(error):
            raise
        _fail("interrupted", INTERRUPTED, folder, trainer)


def is_interrupt(error):
    """Whether an exception comes from Ctrl-C, which Lightning answers with SystemExit."""
    return any(isinstance(e, KeyboardInterrupt) for e in (error, error.__context__))


def is_lost_process(error):
    """Whether an exception says that an exchange with other processes has failed."""
    return isinstance(error, DistError) or "gloo/transport" in str(error)  # which has no class


def _fail(why, code, folder, trainer, hint=""):
    """One process speaks for all."""
    if not trainer.is_global_zero:
        sys.exit(code)
    raise Failure(f"{why}; {saved(folder)}{hint}", code) from None


def saved(folder):
    """What a run has left behind that can be used, and how."""
    last = folder / runs.CHECKPOINTS / "last.ckpt" if folder else None
    if last is None or not last.is_file():
        return "no epoch was finished, nothing was saved"
    done, path = runs.read_checkpoint(last, "last.ckpt")["epoch"] + 1, report.readable(last)
    return (
        f"{path} is whole and holds {done} epoch{'s' * (done != 1)}; "
        f"go on with: python -m models fit --ckpt_path {shlex.quote(path)}"
    )
