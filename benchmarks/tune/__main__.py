"""Time other values for what the launchers choose: ``python -m benchmarks.tune``.

Each candidate is a change to one choice of ``otkernels/kernels`` (``tables``). Worker
processes compile the candidates, all are checked against float64, and those that are right are
timed in turn. The result is read by a person, who edits the choice; nothing is tuned while a user's
program runs. See "Tuning" in docs/kernels.md.
"""

import argparse
import os
import sys
from pathlib import Path

from .. import CannotRun


def main(arguments=None):
    """Run and return the exit code: 0 done, 1 a present choice is wrong, 2 cannot run."""
    options = _parser().parse_args(arguments)
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported
    try:
        bad = _tune(options)
    except CannotRun as error:
        print(f"benchmarks tune: {error}", file=sys.stderr)
        return 2
    for name in bad:
        print(f"benchmarks tune: wrong or does not run as chosen: {name}", file=sys.stderr)
    return 1 if bad else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="two candidates of each on tiny sizes")
    parser.add_argument("--minutes", type=float, default=6.0, help="when to stop")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines are added to it")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="skip what it holds")
    parser.add_argument("--only", default="", metavar="REGEX", help="searched in table/op/shape")
    parser.add_argument("--workers", type=int, help="compiling processes (none on the CPU)")
    parser.add_argument("--commit", help="commit of this clean tree, where there is no .git")
    return parser


def _tune(options):
    import torch

    from . import timing

    if options.device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    if options.device == "cpu" and not options.smoke:
        raise CannotRun("--device cpu needs --smoke: interpreted kernels have no speed to tune")
    if options.go_on and options.out is None:
        raise CannotRun("--continue needs --out, the file to go on with")
    wanted = timing.select(options.smoke, options.only)
    if options.go_on:
        wanted = timing.unfinished(wanted, options.out, options.device, options.commit)
    workers = options.workers
    if workers is None:
        workers = 0 if options.device == "cpu" else max(1, min(8, (os.cpu_count() or 1) // 2))
    return timing.run(
        wanted,
        options.device,
        out=options.out,
        minutes=options.minutes,
        workers=workers,
        smoke=options.smoke,
        commit=options.commit,
    )


if __name__ == "__main__":
    sys.exit(main())
