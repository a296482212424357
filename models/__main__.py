"""Command line: ``python -m models fit | validate | test | sample | interpolate | compare``.

Exit codes: 0 success; 1 a run that could not go on (NaN, full disk, another process gone); 2 bad
input; 130 Ctrl-C; 143 terminated. Each but the first is said in one line on stderr. A bug ends in a
traceback.
"""

import argparse
import importlib
import re
import sys
import warnings

from . import cli
from .errors import InputError
from .failures import INTERRUPTED, Failure, is_interrupt

# Warnings nobody can act on, each with the reason.
NOT_APPLICABLE = (
    "The '.*_dataloader' does not have many workers",  # the digits lie in memory, batch at a time
    "Checkpoint directory .* exists and is not empty",  # a resumed run continues in its own folder
    "Be aware that when using `ckpt_path`, callbacks",  # to evaluate, none but the weights matter
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # the same
)


def main(argv=None):
    """Run the command line, that of this process by default; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            for message in NOT_APPLICABLE:
                warnings.filterwarnings("ignore", message=message)
            run(argv)
    except (InputError, argparse.ArgumentError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Failure as failure:
        print(f"stopped: {one_line(str(failure))}", file=sys.stderr)
        return failure.code
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_interrupt(error):
            raise
        print("stopped: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(argv):
    """One command: a module of its own, or one of LightningCLI's."""
    if argv and argv[0] in cli.OTHER_COMMANDS:
        importlib.import_module(f"{__package__}.{argv[0]}").main(argv[1:])
    else:
        cli.CLI(argv)


def one_line(message):
    """The message on one line; of jsonargparse's list of rejected types only the first reason."""
    message = " ".join(message.split())
    return re.sub(r"Does not validate .*? Errors: - (.+?) - Expected .*", r"\1", message)


if __name__ == "__main__":
    sys.exit(main())
