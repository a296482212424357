"""Records: one JSON line a measurement, appended and never edited; no host names, no paths."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def append(path, records):
    """Add records to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def read(paths):
    """All records of some files, in the order they were written."""
    lines = [line for path in paths for line in path.read_text().splitlines() if line]
    return [json.loads(line) for line in lines]


def newest(lines, allow_dirty=False):
    """Of each machine, op, shape and mode all records of the newest run from a committed tree.

    Ratios are then taken within one interleaved run, and no time comes from code that nobody else
    can check out.
    """

    def key(line):
        names = ("device", "device_name", "threads", "op", "shape", "mode")
        return tuple(line[name] for name in names)

    kept = [line for line in lines if allow_dirty or line["dirty"] is False]
    last = {}
    for line in kept:
        last[key(line)] = max(line["run"], last.get(key(line), ""))
    return [line for line in kept if line["run"] == last[key(line)]]


def now():
    """UTC time to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def without_paths(text, limit=200):
    """The first line of a message, with no folder names in it."""
    first = (text.strip().splitlines() or ["no message"])[0]
    return re.sub(r"(?:/[^\s/:'\"]+)+/", ".../", first)[:limit]


@functools.cache
def environment(device, commit=None):
    """Facts that hold for all records of a process.

    Args:
        device: "cpu" or "cuda".
        commit: the commit of a clean tree, where there is no .git to ask; its caller vouches for
            it, and ``source`` lets anyone check.
    """
    versions = {name: _version(name) for name in ("triton", "numpy", "pot", "geomloss", "pykeops")}
    git_commit, dirty = _git()
    return {
        "device": device,
        "device_name": _device_name(device),
        "driver": _driver() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "commit": git_commit or commit,
        "dirty": False if commit and git_commit is None else dirty,
        "source": _source_digest(),
    }


def figure_name(op, device, threads, clock, mode):
    """The file that ``plot`` draws of these records and that ``report`` shows."""
    suffix = "" if threads == 1 or device == "cuda" else f"_{threads}threads"
    return f"{op}_{device}_{clock}_{mode}{suffix}.png"


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git():
    """Commit of the tree and whether its code differs from it; (None, None) without git."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None, None
    code = ["otkernels", "benchmarks", ":!benchmarks/results"]
    return _output("git", "rev-parse", "HEAD"), bool(_output("git", "status", "-s", "--", *code))


def _source_digest():
    """A short hash of the library's source files."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "otkernels").rglob("*.py")):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def _device_name(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def _driver():
    if shutil.which("nvidia-smi") is None:
        return None
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return _output(*query).splitlines()[0]


def _output(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
