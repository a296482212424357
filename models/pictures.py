"""The pictures of a run, each a matplotlib figure with labelled axes.

Items are images (n, channels, h, w), grey or colour, or points (n, dim). A law is the name of what
points were drawn from: a :class:`~models.priors.Prior` or text.
"""

import math
import textwrap

import numpy as np
import torch
from matplotlib.figure import Figure

__all__ = ["curves", "latent", "latent_grid", "mosaic", "reconstructions", "samples", "save"]

DPI = 110
GREY = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
INK_LABEL = "intensity (1 = full ink)"
LINE = 0.2  # intensity of the lines between images
COLUMNS = 16  # of the reconstructions
REFERENCE = "0.75"  # the colour of what others are compared with
# matplotlib's ten, with black in the place of a grey that is too close to the reference.
CLASSES = [f"C{k}" if k != 7 else "black" for k in range(10)]
# Panels of the curves: title, label of the vertical axis, metrics.
PANELS = (
    ("objective", "loss", ("train/loss", "val/loss")),
    ("reconstruction", "squared error", ("train/reconstruction", "val/reconstruction")),
    ("codes to prior", "distance", ("train/penalty", "val/prior_distance", "val/prior_floor")),
)
SPREAD = ("codes to prior", "other terms")  # over orders of magnitude
NAMES = {
    "train/loss": "train",
    "val/loss": "test",
    "train/reconstruction": "train",
    "val/reconstruction": "test",
    "val/prior_distance": "test: sliced W2^2",
    "val/prior_floor": "floor: prior to prior",
}
KNOWN_TERMS = (*NAMES, "train/penalty")


def save(figure, path):
    """Write the figure as PNG."""
    figure.savefig(path, dpi=DPI)


# --- items ----------------------------------------------------------------------------------------


def mosaic(images, columns, gap=1, ink=LINE):
    """Images (n, c, h, w) side by side, ``columns`` a row, lines of ``gap`` pixels between.

    The result is (height, width) for grey images and (height, width, 3) for colour.
    """
    n, channels, height, width = images.shape
    rows, height, width = math.ceil(n / columns), height + gap, width + gap
    cells = np.full((rows * columns, height, width, channels), float(ink))
    cells[n:] = 0 if channels == 1 else 1  # the paper
    cells[:n, : height - gap, : width - gap] = images.permute(0, 2, 3, 1).cpu().numpy()
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    whole = grid.reshape(rows * height, columns * width, channels)
    whole = whole[: rows * height - gap, : columns * width - gap]
    return whole[..., 0] if channels == 1 else whole


def samples(items, law, data=None):
    """Items decoded from points of ``law``; points (n, dim) beside those of ``data`` (m, dim)."""
    title = f"{len(items)} samples decoded from: {law}"
    if items.dim() == 2:
        return _clouds(title, *(() if data is None else [("test data", data)]), ("samples", items))
    columns = math.ceil(math.sqrt(len(items)))
    rows = math.ceil(len(items) / columns)
    figure = Figure((6.4, 5.4 * rows / columns + 0.8), layout="constrained")
    axes = figure.subplots()
    _show(axes, mosaic(items, columns))
    axes.set(xlabel="x (pixels)", ylabel="y (pixels)")
    axes.set_title(textwrap.fill(title, 60))
    return figure


def reconstructions(items, decoded):
    """Rows of originals (n, c, h, w), each above the row of their reconstructions; or points."""
    if items.dim() == 2:
        title = f"{len(items)} test points and their reconstructions"
        return _clouds(title, ("originals", items), ("reconstructions", decoded))
    pairs = zip(items.split(COLUMNS), decoded.split(COLUMNS), strict=True)
    rows = [mosaic(images, COLUMNS) for pair in pairs for images in pair]
    line = np.full_like(rows[0][:1], LINE)
    picture = np.concatenate([part for row in rows for part in (line, row)][1:])
    height, width = items.shape[2] + 1, items.shape[3] + 1
    figure = Figure((9.6, 0.52 * len(rows) * height / width + 0.8), layout="constrained")
    axes = figure.subplots()
    _show(axes, picture)
    names = ["original", "reconstruction"] * (len(rows) // 2)
    axes.set_yticks(height * (np.arange(len(names)) + 0.5) - 1, names)
    axes.set_xticks(width * (np.arange(COLUMNS) + 0.5) - 1, range(1, COLUMNS + 1))
    axes.set(xlabel="test image (number in its row)", ylabel="pairs of rows")
    return figure


def _show(axes, picture, **options):
    """Draw a mosaic; grey ones as ink on paper, with a scale."""
    if picture.ndim == 3:
        axes.imshow(picture, interpolation="nearest", **options)
        return
    shown = axes.imshow(picture, **GREY, **options)
    axes.figure.colorbar(shown, label=INK_LABEL, shrink=0.8)


def _clouds(title, *clouds):
    """Named sets of points (n, dim) in one plane, the first one in grey below the others."""
    figure = Figure((6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    for k, (name, points) in enumerate(clouds):
        style = (
            {"s": 14, "color": REFERENCE} if k == 0 and len(clouds) > 1 else {"s": 4, "color": "C0"}
        )
        axes.scatter(*_plane(points).T, label=name, linewidths=0, **style)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.set_title(textwrap.fill(title, 60))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=2)
    return figure


def _plane(points):
    """The first two coordinates (n, 2) of points (n, dim); the second is 0 where there is none."""
    return torch.nn.functional.pad(points, (0, 1))[:, :2].cpu()


# --- the latent space -----------------------------------------------------------------------------


def latent(codes, labels, points, law):
    """Codes (n, d) over points (m, d) of ``law``: the first two coordinates.

    Colours are the classes of ``labels`` (n,), which is None where there are none.
    """
    dim = codes.shape[1]
    if dim == 1:  # the class takes the place of the second coordinate
        second = torch.zeros(len(codes)) if labels is None else labels
        codes = torch.stack([codes[:, 0], second.to(codes.dtype)], 1)
        points = torch.stack([points[:, 0], torch.full_like(points[:, 0], -1)], 1)
    figure = Figure((7, 6), layout="constrained")
    axes = figure.subplots()
    name = textwrap.fill(str(law), 16)
    axes.scatter(*points[:, :2].T, s=5, color=REFERENCE, label=name)
    if labels is None:
        axes.scatter(*codes[:, :2].T, s=8, color="C0", label="test codes")
    for label in () if labels is None else labels.unique().tolist():
        style = {"color": CLASSES[label % len(CLASSES)], "label": str(label)}
        axes.scatter(*codes[labels == label, :2].T, s=12, **style)
    second = "class (grey: -1)" if dim == 1 else "$z_2$ (latent units)"
    axes.set(xlabel="$z_1$ (latent units)", ylabel=second)
    axes.set_aspect("auto" if dim == 1 else "equal")
    axes.set_title(f"{len(codes)} test codes, coordinates 1 and 2 of {max(dim, 2)}")
    title = None if labels is None else "class"
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title=title)
    return figure


def latent_grid(decode, points, side=20):
    """What each place of a 2-D latent space decodes to, over the square that holds its points.

    Args:
        decode: images of codes (n, 2).
        points: codes (m, 2) that are sampled; the square leaves out the last 1 % on each side.
        side: places in a row.
    """
    low, high = points.quantile(torch.tensor([0.01, 0.99], device=points.device), dim=0).cpu()
    centre, reach = (low + high) / 2, float((high - low).max() / 2)
    steps = reach * (2 * torch.arange(side) + 1 - side) / side
    z2, z1 = torch.meshgrid(centre[1] + steps.flip(0), centre[0] + steps, indexing="ij")
    images = decode(torch.stack([z1.flatten(), z2.flatten()], 1))
    figure = Figure((7.2, 6.2), layout="constrained")
    axes = figure.subplots()
    (x, y), r = centre.tolist(), reach
    _show(axes, mosaic(images, side, ink=0), extent=(x - r, x + r, y - r, y + r))
    axes.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
    axes.set_title(f"decoded latent plane, {side} x {side} places")
    return figure


# --- curves ---------------------------------------------------------------------------------------


def curves(rows, penalty_name):
    """Every term that was trained on and what was tested, over epochs; rows as in metrics.csv."""
    trained = dict.fromkeys(key for row in rows for key in row if key.startswith("train/"))
    others = [key for key in trained if key not in KNOWN_TERMS]
    names = {**NAMES, "train/penalty": f"train: {penalty_name}"}
    names.update({key: key.removeprefix("train/").replace("_", " ") for key in others})
    panels = [*PANELS, ("other terms", "value", others)] if others else PANELS
    figure = Figure((9, 8) if others else (11, 4.2), layout="constrained")
    places = figure.subplots(*((2, 2) if others else (1, 3))).flat
    for axes, (title, unit, keys) in zip(places, panels, strict=True):
        lowest = _lines(axes, rows, {key: names[key] for key in keys})
        if title in SPREAD:
            # An unbiased statistic is negative half of the time where laws match.
            axes.set_yscale("log") if lowest > 0 else axes.set_yscale("symlog", linthresh=0.01)
        axes.set(xlabel="epochs completed", ylabel=unit, title=title)
        axes.set_xlim(0, max(1, *(row["epochs"] for row in rows)))
    return figure


def _lines(axes, rows, names):
    """A line for each metric that the rows have; returns the lowest value."""
    lowest = math.inf
    for key, name in names.items():
        known = [(row["epochs"], row[key]) for row in rows if row.get(key) is not None]
        if known:
            style = {"linestyle": "--", "color": "0.4"} if key.endswith("_floor") else {}
            axes.plot(*zip(*known, strict=True), label=textwrap.fill(name, 24), **style)
            lowest = min(lowest, *(value for _, value in known))
    if lowest < math.inf:  # below the panel, where it hides nothing
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return lowest
