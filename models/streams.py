"""Random streams that belong to one purpose and one moment of a run."""

import numpy as np
import torch

__all__ = ["DUAL", "PRETRAIN", "SHUFFLE", "STEP", "stream"]

SHUFFLE, STEP, PRETRAIN, DUAL = range(4)  # the purposes


def stream(purpose, *moment, device="cpu"):
    """A generator that depends only on the seed of the run, ``purpose`` and ``moment``.

    torch's global stream is not touched, so nothing else changes when a purpose draws more or
    less; and a resumed run, at the same moment, draws what the uninterrupted one would have drawn.
    """
    key = np.random.SeedSequence((torch.initial_seed(), purpose, *moment))
    return torch.Generator(device).manual_seed(int(key.generate_state(1, np.uint64)[0]))
