"""What a run leaves behind: pictures, metrics.csv and the page that shows them."""

import csv
import html
import os
import platform
import sys
from pathlib import Path
from string import Template

import lightning
import torch
from torch.utils.data import default_collate

import otkernels

from . import pictures
from .autoencoder import Autoencoder

__all__ = ["law", "objective", "readable", "write"]

PAGE = Path(__file__).parent / "page.html"
N_SHOWN = 64
N_POINTS = 2000  # dots in a picture, at most
ENCODED = 250  # at a time: large images take much memory on their way through a network
# How the table names the metrics it knows; any other by its own name.
NAMES = {
    "mse_per_pixel": "test squared error per pixel (coordinate)",
    "reconstruction": "test squared error per image (point)",
    "loss": "loss on the test items",
}


def objective(model):
    """The loss of ``model`` and how it is reduced, in one line."""
    return model.objective_text()


def law(model):
    """What samples are decoded from, in words."""
    moved = type(model).transport is not Autoencoder.transport
    return model.points_name or (f"transported {model.prior}" if moved else str(model.prior))


def write(folder, model, data, trainer):
    """Write everything into ``folder``; returns the closing words for the terminal."""
    rows = [row for row in history(folder) if row["epochs"] <= trainer.current_epoch]
    write_csv(rows, folder / "metrics.csv")
    shown = draw(folder, model, data, rows)
    table = summary(rows, model)
    text = page(folder, model, data, table, shown)
    (folder / "index.html").write_text(text, encoding="utf-8")
    lines = [f"{'':<52}{'untrained':>11}{'trained':>11}{'floor':>11}"]
    lines += [f"{name:<52}{a:>11}{b:>11}{c:>11}" for name, a, b, c in table]
    return "\n".join([*lines, f"Look at {readable(folder / 'index.html')}"])


def readable(path):
    """The path as seen from here, or in full where that would climb out of this folder."""
    relative = os.path.relpath(path)
    return str(Path(path).resolve()) if relative.startswith("..") else relative


def history(folder):
    """One row an epoch from the logs of all sessions; where two overlap the later one counts.

    ``epochs`` is the number of epochs completed: 0 is the untrained model.
    """
    rows = {}
    sessions = sorted((folder / "logs" / "csv").glob("version_*/metrics.csv"), key=_session)
    for path in sessions:
        with path.open(newline="") as file:
            session = list(csv.DictReader(file))
        first = min(int(row["epoch"]) for row in session)
        rows = {epoch: row for epoch, row in rows.items() if epoch < first}
        for row in session:
            known = {key: float(value) for key, value in row.items() if value != ""}
            epoch = int(known.pop("epoch"))
            merged = rows.setdefault(epoch, {"epochs": epoch + 1})
            merged.update(known, step=int(known["step"]))
    return [rows[epoch] for epoch in sorted(rows)]


def _session(path):
    return int(path.parent.name.removeprefix("version_"))


def write_csv(rows, path):
    """One line an epoch; a metric that an epoch lacks is left empty."""
    keys = sorted(set().union(*rows) - {"epochs", "step"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epochs", "step", *keys])
        writer.writeheader()
        writer.writerows(rows)


def summary(rows, model):
    """Rows (name, untrained, trained, floor) of text, from the first and last evaluation.

    Every metric has a row; that of ``x_distance`` shows ``x_floor`` beside it.
    """
    evaluated = [row for row in rows if "val/loss" in row]
    if not evaluated:
        return []
    names = {**NAMES, "prior_distance": model.distance_name}
    first, last = evaluated[0], evaluated[-1]
    untrained = first if first["epochs"] == 0 else {}
    measured = [key.removeprefix("val/") for key in last if key.startswith("val/")]
    keys = [key for key in names if key in measured]
    keys += sorted(key for key in measured if key not in names and not key.endswith("_floor"))
    table = []
    for key in keys:
        prefix = key.removesuffix("_distance")
        floor = last.get(f"val/{prefix}_floor") if prefix != key else None
        values = (untrained.get(f"val/{key}"), last[f"val/{key}"], floor)
        shown = ("" if value is None else f"{value:.4g}" for value in values)
        table.append((names.get(key, key.replace("_", " ")), *shown))
    return table


@torch.no_grad()
def draw(folder, model, data, rows):
    """Write the pictures; returns their names."""
    model = model.cpu().eval()
    items, labels = first(data.test, N_POINTS)
    codes = torch.cat([model.encode(part) for part in items.split(ENCODED)])
    generator = torch.Generator().manual_seed(0)
    points = model.transport(model.prior.sample(N_POINTS, generator))
    images = items.dim() == 4
    new = model.sample(N_SHOWN if images else len(items), generator)
    half = items[: N_SHOWN // 2] if images else items
    classes = labels if data.classes > 0 else None
    figures = {
        "latent": pictures.latent(codes, classes, points, law(model)),
        "samples": pictures.samples(new, law(model), items),
        "reconstructions": pictures.reconstructions(half, model(half)),
        "losses": pictures.curves(rows, model.penalty_name),
    }
    if images and codes.shape[1] == 2:
        figures["latent_grid"] = pictures.latent_grid(model.decoder, points)
    for name, figure in figures.items():
        pictures.save(figure, folder / f"{name}.png")
    return [name for name in CAPTIONS if name in figures]


def first(dataset, n):
    """The first n items (n, ...) and labels (n,) of a dataset, or all it has."""
    return default_collate([dataset[k] for k in range(min(n, len(dataset)))])


CAPTIONS = {
    "latent": (
        "Where the test $items lie in latent space",
        "Each coloured dot is the code of one test $item, its colour the class where there are "
        "classes; the encoder never sees them. Grey dots are what samples are decoded from: $law. "
        "In a matched latent space the colours cover the grey region, evenly where the grey is "
        "even, and nothing else.",
    ),
    "samples": (
        "Samples",
        "Decoded from: $law. New $items, not copies of the data. Poor ones come from places "
        "between the clusters above.",
    ),
    "reconstructions": (
        "Originals beside reconstructions",
        "Test $items, never trained on, and what is left of them after passing through the code.",
    ),
    "latent_grid": (
        "The latent plane, decoded",
        "Each cell shows what the decoder makes of the point at its centre; the axes are those of "
        "the first picture.",
    ),
    "losses": (
        "Loss curves",
        "The training objective, its first term, and how far the codes are from the prior (train: "
        "epoch means over batches, test: all test $items). The dashed floor is the distance "
        "between two samples of the prior itself, each as large as the test set; the train "
        "penalty is in units of its own and, taken on smaller batches, has a floor of its own. "
        "Where a system has other terms, a fourth panel shows them.",
    ),
}


def page(folder, model, data, table, shown):
    """The page as text; its pictures are files beside it."""
    item = "image" if len(data.shape) == 3 else "point"
    words = {"item": item, "items": f"{item}s", "law": law(model)}
    sections = [section(name, words) for name in shown]
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in table]
    versions = (
        f"otkernels {otkernels.__version__}, torch {torch.__version__}, lightning "
        f"{lightning.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} "
        f"threads"
    )
    command = " ".join(["python -m models", *sys.argv[1:]])
    texts = {
        "title": f"{folder.name}: {type(model).__name__}",
        "data": data.title[0].upper() + data.title[1:],
        "objective": objective(model),
        "model": f"{model.hparams.latent_dim}-D latent space, {model.prior}",
        "n_test": str(len(data.test)),
        "items": words["items"],
        "command": command,
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "versions": versions,
        "seed": str(torch.initial_seed()),
    }
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        {key: html.escape(text) for key, text in texts.items()},
        rows="\n".join(f"<tr>{row}</tr>" for row in cells),
        sections="\n".join(sections),
    )


def section(name, words):
    """One picture with heading and caption."""
    heading, caption = (html.escape(Template(t).substitute(words)) for t in CAPTIONS[name])
    return (
        f"<section><h2>{heading}</h2><p>{caption}</p>"
        f'<img src="{name}.png" alt="{heading}"></section>'
    )
