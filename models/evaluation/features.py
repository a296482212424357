"""Functions of images under which samples and data are compared."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..data.items import EVALUATION_BATCH
from ..errors import InputError, require

__all__ = ["Features", "given_features", "in_batches"]


@dataclass(frozen=True)
class Features:
    """Images (n, c, h, w) with pixels in [0, 1] -> features (n, f).

    Attributes:
        name: stands beside every Frechet distance that is taken in these features.
        function: the map.
        accuracy: test accuracy, where it comes from a classifier.
        probabilities: images -> class probabilities (n, k), where it comes from a classifier.
    """

    name: str
    function: Callable
    accuracy: float | None = None
    probabilities: Callable | None = None


def given_features(path):
    """The features of a function of the user's, given as ``package.module:function``.

    The name of the Frechet distance is this path: whoever gives an Inception network knows which.
    """
    module, _, name = path.partition(":")
    condition = "be package.module:function, that can be imported"
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        got = f"{path!r} ({error})"
        raise InputError(f"given_features: path must {condition}; got {got}") from error
    require(callable(function), "given_features", "path", condition, repr(path))

    def checked(images):
        features = function(images)
        ok = isinstance(features, torch.Tensor) and features.shape[:1] == images.shape[:1]
        got = tuple(getattr(features, "shape", ())) or type(features).__name__
        ok = ok and features.ndim == 2
        require(ok, path, "result", f"be a tensor ({len(images)}, n_features)", got)
        return features

    return Features(path, checked)


@torch.no_grad()
def in_batches(function, rows):
    """``function`` of rows (n, ...), a batch at a time, on the CPU."""
    return torch.cat([function(batch).cpu() for batch in rows.split(EVALUATION_BATCH)])
