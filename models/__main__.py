"""Command line: ``python -m models fit | validate | test | sample``.

Exit codes: 0 success; 2 bad input, said in one line on stderr.
"""

import argparse
import logging
import re
import sys
import warnings
from pathlib import Path

import torch

from . import cli, pictures, report, runs
from .errors import InputError, require

# The device survey and advertisements that Lightning prints as "info"; warnings still show.
QUIET_LOGGERS = ("lightning.pytorch", "lightning.fabric")
# Warnings nobody can act on, each with the reason.
NOT_APPLICABLE = (
    "The '.*_dataloader' does not have many workers",  # the digits lie in memory, batch at a time
    "Checkpoint directory .* exists and is not empty",  # a resumed run continues in its own folder
    "Be aware that when using `ckpt_path`, callbacks",  # to evaluate, none but the weights matter
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
)


def main():
    """Run the command line; returns the exit code."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in NOT_APPLICABLE:
                warnings.filterwarnings("ignore", message=message)
            if sys.argv[1:2] == ["sample"]:
                sample(sys.argv[2:])
            else:
                cli.CLI()
    except (InputError, argparse.ArgumentError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def one_line(message):
    """The message on one line; of jsonargparse's list of rejected types only the first reason."""
    message = " ".join(message.split())
    return re.sub(r"Does not validate .*? Errors: - (.+?) - Expected .*", r"\1", message)


def sample(argv):
    """Decode prior points with a trained model and save the picture."""
    parser = argparse.ArgumentParser(prog="python -m models sample", description=sample.__doc__)
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
    pictures.save(pictures.samples(images, model.prior), out)
    print(f"{options.n} samples of the {model.hparams.prior} prior: {report.readable(out)}")


if __name__ == "__main__":
    sys.exit(main())
