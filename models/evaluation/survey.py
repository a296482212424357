"""One pass over a dataset: what is kept of every item."""

import torch

from ..data.items import in_order
from .images import sharpness

__all__ = ["of_items", "some_items"]


def of_items(model, dataset, generator, features=None, workers=0):
    """Rows (N, ...) of all N items of a dataset by name, on the CPU.

    "label"; "mean" and "code", the code's mean and one draw of it, from ``generator``; "error", of
    the reconstruction from the mean, a mean over coordinates. With ``features``, of images, also
    "feature", "sharpness" and "decoded_sharpness", and "probability" where they know classes.
    """
    parts = [_batch(model, *batch, generator, features) for batch in in_order(dataset, workers)]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def _batch(model, items, labels, generator, features):
    posterior = model.posterior(items.to(model.device))
    decoded = model.decoder(posterior.mean).cpu()
    rows = {
        "label": labels,
        "mean": posterior.mean,
        "code": posterior.draw(generator),
        "error": (decoded - items).square().flatten(1).mean(1),
    }
    if features is None:
        return rows
    rows["feature"] = features.function(items)
    rows["sharpness"], rows["decoded_sharpness"] = sharpness(items), sharpness(decoded)
    if features.probabilities is not None:
        rows["probability"] = features.probabilities(items)
    return rows


def some_items(dataset, n, generator):
    """Pick n items of a dataset at random, none twice; all of them where there are no more."""
    picked = torch.randperm(len(dataset), generator=generator)[:n].tolist()
    return torch.stack([dataset[i][0] for i in picked])
