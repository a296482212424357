"""``python -m models sample``: decode prior points with a trained model and save the picture."""

import argparse
from pathlib import Path

import torch

from . import pictures, report, runs
from .errors import require

__all__ = ["main"]


def main(argv):
    """Read the options, draw, save, say where."""
    description = "Decode prior points with a trained model and save the picture."
    parser = argparse.ArgumentParser(prog="python -m models sample", description=description)
    parser.add_argument("--ckpt", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--n", type=int, default=64, help="number of images (64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    parser.add_argument("--out", type=Path, help="PNG file (samples_seed<seed>.png in the run)")
    options = parser.parse_args(argv)
    require(options.n >= 1, "sample", "--n", "be at least 1", options.n)
    model = runs.load(options.ckpt)
    folder = runs.run_of(options.ckpt) or Path()
    out = options.out or folder / f"samples_seed{options.seed}.png"
    require(out.suffix == ".png", "sample", "--out", "end in .png", repr(str(out)))
    runs.make_writable(out.parent)
    images = model.sample(options.n, torch.Generator().manual_seed(options.seed))
    pictures.save(pictures.samples(images, report.law(model)), out)
    print(f"{options.n} samples from {report.law(model)}: {report.readable(out)}")
