"""The pictures of a run, each a matplotlib figure with labelled axes."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure

__all__ = ["curves", "latent", "latent_grid", "mosaic", "reconstructions", "samples", "save"]

DPI = 110
INK = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
INK_LABEL = "intensity (1 = full ink)"
COLUMNS = 16  # of the reconstructions


def save(figure, path):
    """Write the figure as PNG."""
    figure.savefig(path, dpi=DPI)


def mosaic(images, columns, gap=1, ink=0.2):
    """Images (n, 1, h, w) side by side, ``columns`` a row, lines of ``gap`` pixels between."""
    n, _, height, width = images.shape
    rows, height, width = math.ceil(n / columns), height + gap, width + gap
    cells = np.full((rows * columns, height, width), float(ink))
    cells[n:] = 0
    cells[:n, : height - gap, : width - gap] = images[:, 0].cpu().numpy()
    grid = cells.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    whole = grid.reshape(rows * height, columns * width)
    return whole[: rows * height - gap, : columns * width - gap]


def samples(images, prior):
    """A near-square grid of decoded prior points (n, 1, h, w)."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure((6.4, 5.4 * rows / columns + 0.8), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(mosaic(images, columns), **INK)
    axes.set(xlabel="x (pixels)", ylabel="y (pixels)")
    axes.set_title(f"{len(images)} decoded points of the {prior.name} prior")
    figure.colorbar(shown, label=INK_LABEL, shrink=0.8)
    return figure


def reconstructions(images, decoded):
    """Rows of originals (n, 1, h, w), each above the row of their reconstructions."""
    rows = [row for pair in zip(images.split(COLUMNS), decoded.split(COLUMNS), strict=True)
            for row in pair]  # fmt: skip
    figure = Figure((9.6, 0.52 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(mosaic(torch.cat(rows), COLUMNS), **INK)
    height, width = images.shape[2] + 1, images.shape[3] + 1
    names = ["original", "reconstruction"] * (len(rows) // 2)
    axes.set_yticks(height * (np.arange(len(names)) + 0.5) - 1, names)
    axes.set_xticks(width * (np.arange(COLUMNS) + 0.5) - 1, range(1, COLUMNS + 1))
    axes.set(xlabel="test image (number in its row)", ylabel="pairs of rows")
    figure.colorbar(shown, label=INK_LABEL, shrink=0.8)
    return figure


def latent(codes, labels, points, prior):
    """Codes (n, d), coloured by class, over prior points (m, d): the first two coordinates."""
    if prior.dim == 1:  # the class takes the place of the second coordinate
        codes = torch.stack([codes[:, 0], labels.to(codes.dtype)], 1)
        points = torch.stack([points[:, 0], torch.full_like(points[:, 0], -1)], 1)
    figure = Figure((7, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*points[:, :2].T, s=5, color="0.8", label=f"{prior.name}\nprior")
    for label in labels.unique().tolist():
        axes.scatter(*codes[labels == label, :2].T, s=12, color=f"C{label}", label=str(label))
    second = "class (prior: -1)" if prior.dim == 1 else "$z_2$ (latent units)"
    axes.set(xlabel="$z_1$ (latent units)", ylabel=second)
    axes.set_aspect("auto" if prior.dim == 1 else "equal")
    axes.set_title(f"{len(codes)} test codes, coordinates 1 and 2 of {max(prior.dim, 2)}")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="class")
    return figure


def latent_grid(decode, prior, side=20):
    """What each place of a 2-D latent space decodes to, over the region that the prior covers."""
    reach = 2.0 if prior.name == "gaussian" else 1.0
    centre = reach * (2 * torch.arange(side) + 1 - side) / side
    z2, z1 = torch.meshgrid(centre.flip(0), centre, indexing="ij")
    images = decode(torch.stack([z1.flatten(), z2.flatten()], 1))
    figure = Figure((7.2, 6.2), layout="constrained")
    axes = figure.subplots()
    extent = (-reach, reach, -reach, reach)
    shown = axes.imshow(mosaic(images, side, ink=0), extent=extent, **INK)
    axes.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
    axes.set_title(f"decoded latent plane, {side} x {side} places")
    figure.colorbar(shown, label=INK_LABEL, shrink=0.8)
    return figure


def curves(rows, penalty_name):
    """Objective, reconstruction and distance to the prior over epochs; rows as in metrics.csv."""
    figure = Figure((11, 3.6), layout="constrained")
    panels = {
        "objective": ("loss (squared intensity per image)", "train/loss", "val/loss"),
        "reconstruction": (
            "squared error per image (intensity$^2$)",
            "train/reconstruction",
            "val/reconstruction",
        ),
        "codes to prior": (
            "sliced $W_2^2$ (latent units$^2$)",
            "train/penalty",
            "val/prior_distance",
            "val/prior_floor",
        ),
    }
    names = {
        "train/penalty": f"train: {penalty_name}",
        "val/prior_distance": "test: sliced W2^2",
        "val/prior_floor": "floor: prior to prior",
    }
    for axes, (title, (unit, *keys)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for key in keys:
            known = [(row["epochs"], row[key]) for row in rows if row.get(key) is not None]
            style = {"linestyle": "--", "color": "0.4"} if key == "val/prior_floor" else {}
            label = names.get(key, "train" if key.startswith("train") else "test")
            axes.plot(*zip(*known, strict=True), label=label, **style) if known else None
        scale = "log" if "W_2" in unit else "linear"
        axes.set(xlabel="epochs completed", ylabel=unit, title=title, yscale=scale)
        axes.legend()
    return figure
