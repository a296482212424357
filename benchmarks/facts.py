"""Facts about a device, its measured rates and the peers at hand: ``python -m benchmarks.facts``.

Exit codes: 0 done; 2 there is no such device.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import os
import sys
from pathlib import Path

import torch

from . import CannotRun, rates, records

# What a peer's package is imported as.
PEERS = {
    "pot": "ot",
    "geomloss": "geomloss",
    "pykeops": "pykeops.torch",
    "cupy": "cupy",
    "torchmetrics": "torchmetrics",
    "flash_sinkhorn": "flash_sinkhorn",
}


def facts(device, commit=None):
    """Versions, sizes, rates and peers of a device as a dictionary of plain values.

    Args:
        device: "cpu" or "cuda".
        commit: see ``records.environment``.

    Raises:
        CannotRun: there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    return {
        "time": records.now(),
        **records.environment(device, commit),
        **_sizes(device),
        "rates": dataclasses.asdict(rates.measured(device)),
        "peers": {name: _peer(module) for name, module in PEERS.items()},
    }


def _sizes(device):
    if device == "cuda":
        chip = torch.cuda.get_device_properties(0)
        sizes = chip.L2_cache_size, chip.multi_processor_count, chip.total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        sizes = None, None, memory
    return dict(zip(("l2_bytes", "multiprocessors", "memory_bytes"), sizes, strict=True))


def _peer(module):
    """The version of a peer, or why it is missing."""
    try:
        # KeOps prints about CUDA when it is imported.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = importlib.import_module(module)
    except Exception as error:  # whatever stops a peer is its reason to be missing
        reason = f"{type(error).__name__}: {records.without_paths(str(error))}"
        return {"version": None, "missing": reason}
    package = sys.modules[found.__name__.partition(".")[0]]
    return {"version": getattr(package, "__version__", "unknown"), "missing": None}


def main(arguments=None):
    """Print the facts as JSON, also into a file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.facts", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: 1 on cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also written here")
    parser.add_argument("--commit", help="commit of this clean tree, where there is no .git")
    options = parser.parse_args(arguments)
    if threads := options.threads or (1 if options.device == "cpu" else None):
        torch.set_num_threads(threads)
    try:
        text = json.dumps(facts(options.device, options.commit), indent=1)
    except CannotRun as error:
        print(f"benchmarks facts: {error}", file=sys.stderr)
        return 2
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        part = options.out.with_suffix(".new")
        part.write_text(text + "\n")
        part.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
