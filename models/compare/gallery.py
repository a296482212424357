"""Pictures side by side: one strip a row of the table, all from the same noise and test items."""

import torch
from matplotlib.figure import Figure

from .. import pictures
from ..data.items import in_order
from ..evaluation import LAWS
from ..interpolate import interpolate

__all__ = ["draw"]

SEED = 0
COLUMNS, ROWS = 20, 2  # images in a strip
STEPS = 10  # of an interpolation; two of them fill a line
N_POINTS = 1000
INK = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}  # of grey images
PANELS = 4  # scatter plots side by side


def draw(models, data, folder):
    """Write the pictures that apply; returns (file name, heading, caption) of each.

    Args:
        models: [(row, model)] in the order of the table.
        data: what the models were trained on.
        folder: where the pictures go.
    """
    makers = IMAGES if len(data.shape) == 3 else POINTS
    written = []
    for name, (make, heading, caption) in makers.items():
        pictures.save(make(models, data), folder / f"{name}.png")
        written.append((f"{name}.png", heading, caption))
    return written


@torch.no_grad()
def _decoded(models, data, n):
    """{title: n decoded codes} of every row; the noise is the same for all."""
    items = {}
    for row, model in models:
        needed = row.law != "prior"
        train = torch.cat([model.encode(x) for x, _ in in_order(data.train)]) if needed else None
        codes = LAWS[row.law](model, train, n, torch.Generator().manual_seed(SEED))
        items[row.title] = model.decoder(codes)
    return items


def _systems(models):
    """One (title, model) a system: rows that differ only in what they decode share it."""
    own = {}
    for row, model in models:
        own.setdefault(row.system, (row.title.split(",")[0] if _shares(row, models) else row.title,
                                    model))  # fmt: skip
    return list(own.values())


def _shares(row, models):
    return sum(other.system == row.system for other, _ in models) > 1


def _samples(models, data):
    n = ROWS * COLUMNS
    strips = {"test images": _items(data.test, n), **_decoded(models, data, n)}
    return _strips(strips, COLUMNS)


@torch.no_grad()
def _reconstructions(models, data):
    test = _items(data.test, COLUMNS)
    decoded = {title: model(test) for title, model in _systems(models)}
    return _strips({"test images": test, **decoded}, COLUMNS)


def _interpolations(models, data):
    first, second = _items(data.test, 4).split(2)
    paths = {title: interpolate(model, first, second, steps=STEPS).flatten(0, 1)
             for title, model in _systems(models)}  # fmt: skip
    return _strips(paths, 2 * STEPS)


def _items(dataset, n):
    return torch.stack([dataset[i][0] for i in range(min(n, len(dataset)))])


def _strips(strips, columns):
    """One mosaic a line, its name at the left."""
    mosaics = {title: pictures.mosaic(items, columns) for title, items in strips.items()}
    heights = [m.shape[0] / m.shape[1] for m in mosaics.values()]
    figure = Figure((11, 8.6 * sum(heights) + 0.14 * len(heights)), layout="compressed")
    panels = figure.subplots(len(mosaics), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, mosaic) in zip(panels, mosaics.items(), strict=True):
        axes.imshow(mosaic, **INK)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
    return figure


def _scatters(models, data):
    clouds = {"test points": _items(data.test, N_POINTS), **_decoded(models, data, N_POINTS)}
    lines = -(-len(clouds) // PANELS)
    figure = Figure((11, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, PANELS, squeeze=False, sharex=True, sharey=True).flat
    reach = 1.3 * clouds["test points"].abs().max().item()
    for axes, (title, points) in zip(panels, clouds.items(), strict=False):
        axes.scatter(*points[:, :2].T, s=2)
        outside = (points[:, :2].abs() > reach).any(1).sum().item()
        axes.set_title(title + (f" ({outside} outside)" if outside else ""), fontsize=10)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for axes in list(panels)[len(clouds) :]:
        axes.set_visible(False)
    return figure


IMAGES = {
    "samples": (
        _samples, "Samples", "Test images, then what each row decodes, all from the same noise.",
    ),
    "reconstructions": (
        _reconstructions, "Reconstructions",
        "Test images, then what is left of them after passing through the code.",
    ),
    "interpolations": (
        _interpolations, "Interpolations",
        "Decoded points on the line between the codes of two test images, for two pairs; the same "
        "pairs in every line.",
    ),
}  # fmt: skip
POINTS = {
    "samples": (
        _scatters, "Samples",
        "Test points, then what each row decodes, all from the same noise; the first two "
        "coordinates.",
    ),
}  # fmt: skip
