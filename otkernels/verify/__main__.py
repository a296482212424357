"""Command line of ``python -m otkernels.verify``: what runs, the table, the JSON, the exit code."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from . import report
from .check import FAIL, check, truth
from .entry import DTYPES
from .inputs import draw, given
from .ops import OPS
from .peers import load

IMPLS = ("torch", "cpu", "triton")
PACKAGES = (
    *("otkernels", "torch", "triton", "numpy"),
    *("POT", "geomloss", "pykeops", "scipy", "scikit-learn", "torchmetrics"),
)
QUICK_POINTS = 64
# Triton's interpreter takes 0.1 s for a row of 32 points.
INTERPRETED_POINTS = 64
# Coordinates of the differences of all pairs of points; in float64, and more than one such array.
HELD_COORDINATES = 2**27


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    """Verify what the arguments ask for; the exit code is 1 if anything fails."""
    parser = _parser()
    args = parser.parse_args(arguments)
    device = _device(parser, args.device)
    ops = [op for op in OPS if op.name in args.op and set(op.dtypes) & set(args.dtype)]
    clouds = _clouds(parser, args)
    if clouds:
        kind = "numbers" if clouds[0].ndim == 1 else "points"
        ops = [op for op in ops if op.yours == kind]
        if not ops:
            parser.error(f"--op: {' '.join(args.op)} does not take {kind}, which --x and --y hold")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: no folder for {args.json}")
    impls, not_run = _impls(args.impl, device)
    environment = _environment(device)
    rows = []
    for op in ops if impls else ():
        print(report.heading(op))
        for row in _rows(op, args, clouds, impls, not_run):
            print(report.line(row), flush=True)
            rows.append(row)
    if not rows:
        why = "; ".join(f"{entry['what']}: {entry['reason']}" for entry in not_run)
        parser.error(f"nothing could run; {why}")
    print(report.summary(rows, not_run, environment))
    if args.json:
        record = {
            "environment": environment,
            "rows": [report.plain(row) for row in rows],
            "not_run": not_run,
        }
        args.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return int(any(row.verdict == FAIL for row in rows))


def _parser():
    parser = _Parser(
        prog="python -m otkernels.verify",
        description="Compare otkernels, value and gradient, with float64 formulas and libraries.",
        epilog="Exit code: 0 everything passes, 1 something fails, 2 bad arguments.",
    )
    names = list(dict.fromkeys(op.name for op in OPS))
    parser.add_argument("--op", nargs="+", choices=names, default=names, metavar="OP")
    parser.add_argument("--impl", nargs="+", choices=IMPLS, default=IMPLS, metavar="IMPL")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE")
    parser.add_argument("--device", help="cpu or cuda[:i]; cuda where there is one")
    parser.add_argument(
        "--x", type=Path, metavar="A.npy", help="your points (N, D), or numbers (N,)"
    )
    parser.add_argument(
        "--y", type=Path, metavar="B.npy", help="your points (M, D), or numbers (M,)"
    )
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_POINTS} points")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return parser


def _device(parser, name):
    available = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if available else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        parser.error(f"--device: must be cpu or cuda[:i]; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        parser.error(
            f"--device: {name} is not here; torch sees {torch.cuda.device_count()} of them"
        )
    return device


def _clouds(parser, args):
    """The user's two clouds in float64, or None."""
    if (args.x is None) != (args.y is None):
        parser.error("--x and --y must be given together")
    if args.x is None:
        return None
    x, y = (_cloud(parser, option, getattr(args, option)) for option in ("x", "y"))
    if x.shape[1:] != y.shape[1:]:
        parser.error(f"--y: must have as many features as --x {x.shape}; got {y.shape}")
    return x, y


def _cloud(parser, option, path):
    try:
        cloud = np.load(path, allow_pickle=False)
    except OSError as error:
        parser.error(f"--{option}: cannot read {path}: {error.strerror or error}")
    except (ValueError, EOFError):
        parser.error(f"--{option}: {path} is not a .npy file of numbers")
    if not isinstance(cloud, np.ndarray) or cloud.dtype.kind != "f":
        got = getattr(cloud, "dtype", type(cloud).__name__)
        parser.error(f"--{option}: must hold one array of floating numbers; got {got}")
    if cloud.ndim not in (1, 2) or 0 in cloud.shape:
        parser.error(f"--{option}: must have shape (N, D) or (N,), not empty; got {cloud.shape}")
    if not np.isfinite(cloud).all():
        parser.error(f"--{option}: must hold finite numbers")
    return cloud.astype(np.float64)


def _impls(names, device):
    """Where each implementation runs, and why the others do not."""
    places, not_run = {}, []
    for name in names:
        reason = _missing_triton(device) if name == "triton" else ""
        if reason:
            not_run.append({"what": name, "reason": reason})
        else:
            places[name] = "cpu" if name == "cpu" else device
    return places, not_run


def _missing_triton(device):
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda" or _interpreted():
        return ""
    return (
        "needs a CUDA or ROCm device (with TRITON_INTERPRET=1 set before the start, Triton's "
        f"interpreter runs cases of up to {INTERPRETED_POINTS} projected points on the CPU)"
    )


def _interpreted():
    return os.environ.get("TRITON_INTERPRET") == "1"


def _rows(op, args, clouds, impls, not_run):
    """The rows of one op, as they are computed; adds to ``not_run`` what had to be left out."""
    peer = load(op.peer) if op.peer else None
    left_out = 0
    for make, settings in _inputs(op, args, clouds):
        for dtype in (dtype for dtype in args.dtype if dtype in op.dtypes):
            inputs = make(getattr(torch, dtype))
            reason = _impossible(op, inputs)
            if reason:
                not_run.append({"what": f"{op.name} in {dtype}", "reason": reason})
                continue
            slow = _interpreted() and inputs.projected(settings[0]) > INTERPRETED_POINTS
            runs = {impl: place for impl, place in impls.items() if impl != "triton" or not slow}
            left_out += len(settings) * (len(impls) - len(runs))
            for setting in settings if runs else ():
                true = truth(op, inputs, setting, peer)
                for impl, place in runs.items():
                    yield check(op, impl, place, inputs, setting, true)
    if left_out:
        reason = f"over {INTERPRETED_POINTS} projected points: too slow in Triton's interpreter"
        what = f"{left_out} rows of triton, {op.name} against {op.against}"
        not_run.append({"what": what, "reason": reason})


def _impossible(op, inputs):
    """Why a comparison cannot be made, or nothing."""
    if not inputs.finite():
        return "the numbers overflow this dtype"
    if op.pairwise and inputs.coordinates_of_pairs() > HELD_COORDINATES:
        return f"all pairs of points have more than {HELD_COORDINATES} coordinates"
    return ""


def _inputs(op, args, clouds):
    """Pairs: a function from dtype to inputs, settings."""
    if clouds:
        yield (lambda dtype: given(op, *clouds, dtype)), op.settings
        return
    for case in op.cases:
        if case.n <= QUICK_POINTS or not args.quick:
            settings = op.settings if case.all_settings else op.settings[:1]
            yield (lambda dtype, case=case: draw(op, case, dtype)), settings


def _environment(device):
    cuda = device.type == "cuda"
    return {name: _version(name) for name in PACKAGES} | {
        "Python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
