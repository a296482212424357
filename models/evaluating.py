"""Layers such as batch normalisation act differently in training; measuring must not train them."""

from contextlib import contextmanager

__all__ = ["evaluating"]


@contextmanager
def evaluating(model):
    """The model in evaluation mode, and back in the modes that its modules were in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
