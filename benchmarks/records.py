"""Records: one JSON line a measurement, appended and never edited; no host names, no paths."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("triton", "numpy", "pot", "geomloss", "pykeops", "torchmetrics", "flash-sinkhorn")
CUPY = ("cupy", "cupy-cuda12x", "cupy-cuda13x")  # one package for each version of CUDA


def append(path, records):
    """Add records to a file of JSON lines, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def drop_unfinished(path):
    """Cut off a last line without its end, which a killed process left; True if there was one."""
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(path, len(whole))  # at once: what is whole is never at risk
    return whole != text


def read(paths):
    """All records of some files, in the order they were written."""
    lines = [line for path in paths for line in path.read_text().splitlines() if line]
    return [json.loads(line) for line in lines]


def newest(lines, allow_dirty=False):
    """Of each machine, op, shape and mode all records of the newest run from a committed tree.

    Ratios are then taken within one interleaved run, and no time comes from code that nobody else
    can check out. Runs of the same commit before it add what was missing there and not tried again.
    """

    def key(line):
        names = ("device", "device_name", "threads", "op", "shape", "mode")
        return tuple(line[name] for name in names)

    kept = [line for line in lines if allow_dirty or line["dirty"] is False]
    last = {}
    for line in kept:
        last[key(line)] = max(line["run"], last.get(key(line), ""))
    newest_run = [line for line in kept if line["run"] == last[key(line)]]
    tried = {(*key(line), line["provider"]) for line in newest_run}
    commits = {(*key(line), line["commit"]) for line in newest_run}
    # A provider that ended its process is missing in that run, and left out of those after it.
    given_up = {
        (*key(line), line["provider"]): line
        for line in kept
        if line.get("missing") and (*key(line), line["commit"]) in commits
    }
    return newest_run + [line for place, line in given_up.items() if place not in tried]


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
    import torch  # not above: whoever starts and watches the processes reads records without it

    versions = {name: _version(name) for name in PACKAGES}
    versions["cupy"] = next(filter(None, map(_version, CUPY)), None)
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


def by_machine(lines):
    """Records by a name of the machine, such as "cpu"; longer if there are several of a device."""
    kinds = {}
    for line in lines:
        kind = line["device"], line["device_name"], line["threads"]
        kinds.setdefault(kind, []).append(line)
    devices = [device for device, _, _ in kinds]
    named = {}
    for (device, name, threads), own in sorted(kinds.items()):
        words = re.findall(r"[a-z0-9]+", name.lower())
        longer = "-".join([device, *words, f"{threads}threads"])
        named[device if devices.count(device) == 1 else longer] = own
    return named


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git():
    """Commit of the tree and whether its code differs from it; (None, None) if git cannot say."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None, None
    code = ["otkernels", "benchmarks", ":!benchmarks/results"]
    try:
        commit, edits = (
            _output("git", "rev-parse", "HEAD"),
            _output("git", "status", "-s", "--", *code),
        )
    except subprocess.CalledProcessError:  # such as a copied tree that belongs to somebody else
        return None, None
    return commit, bool(edits)


def _source_digest():
    """A short hash of the library's source files."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "otkernels").rglob("*.py")):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def _device_name(device):
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def _driver():
    if shutil.which("nvidia-smi") is None:
        return None
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        return _output(*query).splitlines()[0]
    except (subprocess.CalledProcessError, IndexError):  # a container may lack what it asks
        return None


def _output(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
