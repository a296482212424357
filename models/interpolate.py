"""``python -m models interpolate``: what lies between the codes of two test images."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from . import pictures, report, runs
from .errors import require
from .systems import StackedWAE
from .two_stages import TwoStages

__all__ = ["PATHS", "figure", "interpolate", "levels", "main"]


def linear(first, second, steps):
    """Points (n, steps, d) at equal distances on the lines from first to second, (n, d) both."""
    t = _times(first, steps)
    return (1 - t) * first[:, None] + t * second[:, None]


def spherical(first, second, steps):
    """Points (n, steps, d) at equal angles on great arcs, see :func:`linear`.

    Shoemake 1985, "Animating rotation with quaternion curves", section 3.3. In high dimensions the
    points of a Gaussian lie close to a sphere, which straight lines leave. Parallel points take
    the line, the limit of the arc; so do opposite ones, which no arc joins rather than another.
    """
    t = _times(first, steps)
    cosine = torch.cosine_similarity(first, second).clamp(-1, 1)[:, None, None]
    angle = cosine.acos()
    arc = ((1 - t) * angle).sin() * first[:, None] + (t * angle).sin() * second[:, None]
    straight = angle.sin() < 1e-3  # the arc of unit length and its chord differ by 1e-7
    return torch.where(straight, linear(first, second, steps), arc / angle.sin())


PATHS = {"linear": linear, "spherical": spherical}
ROUND = ("gaussian", "sphere")  # priors whose points lie on or near a sphere around 0


def _times(points, steps):
    return torch.linspace(0, 1, steps, dtype=points.dtype, device=points.device)[None, :, None]


def levels(model):
    """The latent spaces that items can be encoded to: (encode, decode) by name, the last default.

    "codes" are those that the decoder takes; "second" those of the second level of a
    :class:`StackedWAE`. The map of latent OT has no inverse, so its noise is no level.
    """
    found = {"codes": (model.encode, model.decoder)}
    if isinstance(model, StackedWAE):
        found["second"] = (lambda items: model.encode_second(model.encode(items)), model.generate)
    return found


@torch.no_grad()
def interpolate(model, first, second, steps=9, path="linear", level=None):
    """Decode equally spaced points on paths between the codes of pairs of items.

    Args:
        model: an :class:`Autoencoder`.
        first: (n, *shape) items where the paths begin.
        second: (n, *shape) items where they end.
        steps: points on each path, both ends included.
        path: "linear" or "spherical"; the latter only where a round prior pulls the codes.
        level: one of :func:`levels`; None is the last.

    Returns:
        (n, steps, *shape) items.
    """
    known = levels(model)
    level = list(known)[-1] if level is None else level
    names, paths = ", ".join(map(repr, known)), ", ".join(map(repr, PATHS))
    require(level in known, "interpolate", "level", f"be one of {names}", repr(level))
    require(path in PATHS, "interpolate", "path", f"be one of {paths}", repr(path))
    require(steps >= 2, "interpolate", "steps", "be at least 2", steps)
    free = level == "codes" and (isinstance(model, TwoStages) or model.hparams.weight == 0)
    ok = path == "linear" or (model.prior.name in ROUND and not free)
    condition = f"be 'linear' where the law of the {level} is not pulled to a round prior"
    require(ok, "interpolate", "path", condition, repr(path))
    encode, decode = known[level]
    codes = PATHS[path](encode(first), encode(second), steps)
    return decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def figure(first, between, second, title):
    """Rows of images (n, steps, c, h, w) between the originals (n, c, h, w) of both ends."""
    rows = torch.cat([first[:, None], between, second[:, None]], 1)
    n, columns = rows.shape[:2]
    height, width = rows.shape[-2] + 1, rows.shape[-1] + 1
    size = (0.62 * columns + 1.2, 0.62 * n * height / width + 1.2)
    whole = Figure(size, layout="constrained")
    axes = whole.subplots()
    picture = pictures.mosaic(rows.flatten(0, 1), columns)
    shown = axes.imshow(picture, **pictures.GREY)
    if picture.ndim == 2:  # colours need no scale
        whole.colorbar(shown, label=pictures.INK_LABEL, shrink=0.8)
    share = [f"{t:.2g}" for t in np.linspace(0, 1, columns - 2)]
    axes.set_xticks(width * (np.arange(columns) + 0.5) - 1, ["test", *share, "test"])
    axes.set_yticks(height * (np.arange(n) + 0.5) - 1, range(1, n + 1))
    axes.set(xlabel="share of the way; test: the image itself", ylabel="pair", title=title)
    return whole


def parser():
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m models interpolate", description=__doc__)
    parser.add_argument("--ckpt", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of test images (8)")
    parser.add_argument("--steps", type=int, default=9, help="points on a path, with its ends (9)")
    parser.add_argument("--path", default="linear", help="linear (default) or spherical")
    parser.add_argument("--level", help="codes or, for StackedWAE, second (its default)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of the pairs (0)")
    parser.add_argument("--out", type=Path, help="PNG file (interpolate_seed<seed>.png in the run)")
    return parser


def main(argv):
    """Write the picture of a checkpoint."""
    options = parser().parse_args(argv)
    model, data = runs.load(options.ckpt), runs.load_data(options.ckpt)
    got = f"items of shape {data.shape}"
    require(len(data.shape) == 3, "interpolate", "--ckpt", "be of a run on images", got)
    limit = len(data.test) // 2
    ok = 1 <= options.pairs <= limit
    require(ok, "interpolate", "--pairs", f"be in [1, {limit}]", options.pairs)
    folder = runs.run_of(options.ckpt) or Path()
    out = options.out or folder / f"interpolate_seed{options.seed}.png"
    require(out.suffix == ".png", "interpolate", "--out", "end in .png", repr(str(out)))
    first, second = _pairs(data.test, options.pairs, torch.Generator().manual_seed(options.seed))
    between = interpolate(model, first, second, options.steps, options.path, options.level)
    level = options.level or list(levels(model))[-1]
    title = f"{options.path} paths between {level} of {type(model).__name__}"
    runs.make_writable(out.parent)
    pictures.save(figure(first, between, second, title), out)
    print(f"{options.pairs} {title}: {report.readable(out)}")


def _pairs(dataset, n, generator):
    """Items (n, *shape) and (n, *shape), all different, drawn from a dataset."""
    order = torch.randperm(len(dataset), generator=generator)[: 2 * n].tolist()
    items = torch.stack([dataset[i][0] for i in order])
    return items[:n], items[n:]
