"""A small WAE of either form, and points: what the tests of its parts share."""

import torch
from models_support import build

from models.systems import WAE

__all__ = ["randn", "wae"]


def wae(form="mmd", seed=0, **settings):
    """From one seed, with a narrow adversary unless told."""
    small = {"adversary_width": 16} if form == "gan" else {}
    return build(WAE, seed, form=form, **{**small, **settings})


def randn(*shape, seed=0, dtype=torch.float32):
    """Normal numbers from one seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
