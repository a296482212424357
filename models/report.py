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

import otkernels

from . import pictures

__all__ = ["objective", "readable", "write"]

PAGE = Path(__file__).parent / "page.html"
N_SHOWN = 64
N_PRIOR = 2000
# What the table shows: metric, its name, and whether the floor belongs to it.
TABLE = {
    "val/mse_per_pixel": "test reconstruction, mean squared error per pixel",
    "val/reconstruction": "test reconstruction, squared error per image",
    "val/prior_distance": "sliced W2^2 of the test codes to the prior",
}


def objective(model):
    """The loss of ``model`` and how it is reduced, in one line."""
    loss = "loss = squared error summed over an image, averaged over the batch"
    if model.hparams.weight == 0:
        return f"{loss} (weight 0: plain autoencoder)"
    return f"{loss} + {model.hparams.weight:g} x {model.penalty_name}(codes, prior), a mean"


def write(folder, model, data, trainer):
    """Write everything into ``folder``; returns the closing words for the terminal."""
    rows = [row for row in history(folder) if row["epochs"] <= trainer.current_epoch]
    write_csv(rows, folder / "metrics.csv")
    shown = draw(folder, model, data, rows)
    table = summary(rows)
    (folder / "index.html").write_text(page(folder, model, table, shown), encoding="utf-8")
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


def summary(rows):
    """Rows (name, untrained, trained, floor) of text, from the first and last evaluation."""
    evaluated = [row for row in rows if "val/loss" in row]
    first, last = evaluated[0], evaluated[-1]
    untrained = first if first["epochs"] == 0 else {}
    table = []
    for key, name in TABLE.items():
        floor = last["val/prior_floor"] if key == "val/prior_distance" else None
        values = (untrained.get(key), last[key], floor)
        table.append((name, *("" if value is None else f"{value:.4g}" for value in values)))
    return table


@torch.no_grad()
def draw(folder, model, data, rows):
    """Write the pictures; returns (file, heading, caption) of each."""
    model = model.cpu().eval()
    prior = model.prior
    images, labels = data.test[:]
    codes = model.encode(images)
    generator = torch.Generator().manual_seed(0)
    half = images[: N_SHOWN // 2]
    figures = {
        "latent": pictures.latent(codes, labels, prior.sample(N_PRIOR, generator), prior),
        "samples": pictures.samples(model.sample(N_SHOWN, generator), prior),
        "reconstructions": pictures.reconstructions(half, model(half)),
        "losses": pictures.curves(rows, model.penalty_name),
    }
    if prior.dim == 2:
        figures["latent_grid"] = pictures.latent_grid(model.decoder, prior)
    for name, figure in figures.items():
        pictures.save(figure, folder / f"{name}.png")
    return [name for name in CAPTIONS if name in figures]


CAPTIONS = {
    "latent": (
        "Where the test images lie in latent space",
        "Each dot is the code of one test image, coloured by its digit; grey dots are drawn from "
        "the prior. The encoder never sees the labels. A matched latent space covers the grey "
        "region, evenly where the grey is even, and nothing else.",
    ),
    "samples": (
        "Samples",
        "Points drawn from the prior and decoded: new images, not copies of the data. Blurred or "
        "ambiguous ones come from places between the clusters above.",
    ),
    "reconstructions": (
        "Originals beside reconstructions",
        "Test images, never trained on, above what is left of them after passing through the code.",
    ),
    "latent_grid": (
        "The latent plane, decoded",
        "Each cell shows what the decoder makes of the point at its centre; the axes are those of "
        "the first picture.",
    ),
    "losses": (
        "Loss curves",
        "Left the training objective, in the middle its first term, on the right the distance of "
        "the codes from the prior (log scale; train: epoch means over batches, test: all "
        "test images). The dashed floor is the distance between two samples of the prior itself, "
        "each as large as the test set; the train penalty, taken on smaller batches, has a higher "
        "floor of its own.",
    ),
}


def page(folder, model, table, shown):
    """The page as text; its pictures are files beside it."""
    sections = [
        f"<section><h2>{CAPTIONS[name][0]}</h2><p>{CAPTIONS[name][1]}</p>"
        f'<img src="{name}.png" alt="{CAPTIONS[name][0]}"></section>'
        for name in shown
    ]
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in table]
    versions = (
        f"otkernels {otkernels.__version__}, torch {torch.__version__}, lightning "
        f"{lightning.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} "
        f"threads"
    )
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{folder.name}: {type(model).__name__}"),
        objective=html.escape(objective(model)),
        model=html.escape(f"{model.prior.dim}-D latent space, {model.prior.name} prior"),
        rows="\n".join(f"<tr>{row}</tr>" for row in cells),
        sections="\n".join(sections),
        command=html.escape(" ".join(["python -m models", *sys.argv[1:]])),
        config=html.escape((folder / "config.yaml").read_text(encoding="utf-8")),
        versions=html.escape(versions),
        seed=torch.initial_seed(),
    )
