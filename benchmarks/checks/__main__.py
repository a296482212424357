"""Checks of a device that are no measurement: ``python -m benchmarks.checks NAME --out FILE``.

repeat   value and gradients have the same bits on every call
small    one small call for each Triton kernel, for compute-sanitizer to watch
graph    a CUDA graph's replay gives the eager call's bits, also on new inputs
compile  losses compile whole by Inductor and keep their results

Exit code 0: none failed; 1: some did; 2: the check cannot run here.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from .. import CannotRun
from ..guard import AGAIN

CHECKS = ("repeat", "small", "graph", "compile")


def main(arguments=None):
    """Run one check and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _need(options)
        from .. import resume
        from . import findings

        cases = _cases(options.check)(options.device, options.smoke)
        code = findings.run(options.check, cases, options.out, options.again)
    except CannotRun as error:
        print(f"benchmarks.checks {options.check}: {error}", file=sys.stderr)
        return 2
    if code == AGAIN:
        resume.leave()
    return code


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a few small cases")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines")
    parser.add_argument(
        "--continue", action="store_true", dest="again", help="leave out cases that FILE holds"
    )
    return parser


def _need(options):
    """Raise CannotRun unless the check can run on the device."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    if options.check == "graph" and options.device != "cuda":
        raise CannotRun("needs a GPU: the CPU has no CUDA graphs")
    if options.check == "small":
        if importlib.util.find_spec("triton") is None:
            raise CannotRun("needs Triton")
        if options.device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported


def _cases(check):
    """The function (device, smoke) -> pairs of a name and a function, by the name of a check."""
    from . import bits, compiled

    if check == "small":  # imports Triton, which need not be there for the others
        from .small import small

        return small
    found = {
        "repeat": bits.repeat,
        "graph": bits.graph,
        "compile": compiled.compile,
    }
    return found[check]


if __name__ == "__main__":
    sys.exit(main())
