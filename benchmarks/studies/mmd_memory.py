"""Peak memory of the MMD against N: ``python -m benchmarks.studies.mmd_memory``.

Value and gradient to x of a Gaussian kernel, D = 64, for otkernels and three peers, each in a fresh
process. Appends records to results/growth/mmd_memory_cpu.jsonl, and writes the figure and the table
of docs/benchmarks.md from them; with --plot only the last two.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import matplotlib

from .. import CannotRun, cases, records
from ..pages import page
from . import growth

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent.parent
RESULTS = HERE / "results" / "growth" / "mmd_memory_cpu.jsonl"
DOC = HERE.parent / "docs" / "benchmarks.md"
FIGURE = HERE.parent / "docs" / "figures" / "mmd_memory_cpu.png"

PROVIDERS = ("otkernels", "torch", "geomloss", "keops")
# The goal: what the call adds to its inputs, gradient included.
LIMIT_N, LIMIT_BYTES = 40_000, 200e6


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.mmd_memory")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes; for another --records")
    for name, path in (("records", RESULTS), ("figure", FIGURE), ("doc", DOC)):
        parser.add_argument(f"--{name}", type=Path, default=path, metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    try:
        if options.smoke and options.records == RESULTS:
            raise CannotRun("--smoke needs --records, so that tiny shapes are not published")
        shapes = "smoke" if options.smoke else "memory"
        if not options.plot:
            growth.peaks(shapes, options.records, chosen(shapes))
        lines = records.newest(records.read([options.records]), options.allow_dirty)
        if not lines:
            raise CannotRun("no record of a committed tree; --allow-dirty takes the others too")
        draw(lines, options.figure)
        page.write(options.doc, text(lines), "mmd-memory")
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.mmd_memory: {error}", file=sys.stderr)
        return 2
    return 0


def chosen(shapes):
    """The cases of a set of shapes, with the providers that are compared."""
    found = []
    for case in cases.select(shapes, f"^mmd/.*/{growth.MODE}$"):
        kept = tuple(p for p in case.family.providers if p.name in PROVIDERS)
        family = dataclasses.replace(case.family, providers=kept)
        found.append(dataclasses.replace(case, family=family))
    return found


def _call(line):
    """Bytes that the call adds to its inputs."""
    return line["total_bytes"] - line["inputs_bytes"]


def _inputs(line):
    """Bytes of both clouds."""
    return 8 * line["N"] * line["D"]


def draw(lines, path):
    """Peak above the inputs against N, with what one N x N matrix takes, and the goal."""
    facts = lines[-1]
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, style, own in _series(lines):
        sizes = [line["N"] for line in own]
        axes.plot(sizes, [_call(line) / 1e6 for line in own], label=name, **style)
        if name == "otkernels":
            matrix = [4 * n * n / 1e6 for n in sizes]
            axes.plot(sizes, matrix, "k:", linewidth=1, label="one N x N matrix alone")
            clouds = [_inputs(line) / 1e6 for line in own]
            axes.plot(sizes, clouds, "k--", linewidth=1, label="x and y, for comparison")
    axes.plot(LIMIT_N, LIMIT_BYTES / 1e6, "k_", markersize=20, label="goal")
    axes.set(xscale="log", yscale="log", xlabel="N points in each cloud")
    axes.set_ylabel("peak of value and gradient above the inputs, MB")
    axes.set_title(
        f"mmd, Gaussian kernel, D = {facts['D']}, value and gradient to x, float32\n"
        f"{facts['device_name']}, {facts['threads']} CPU thread(s), torch {facts['torch']}, "
        f"GeomLoss {facts['geomloss']}, KeOps {facts['pykeops']}, {facts['time'][:10]}",
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _series(lines):
    for i, name in enumerate(PROVIDERS):
        own = [line for line in lines if line["provider"] == name]
        if own:
            style = {"color": f"C{i}", "marker": "oDs^"[i], "markersize": 5}
            yield name, style, sorted(own, key=lambda line: line["N"])


def text(lines):
    """The table in Markdown, and whether the goal is met."""
    by_place = {(line["N"], line["provider"]): line for line in lines}
    rows = []
    for n in sorted({line["N"] for line in lines}):
        own = [by_place.get((n, name)) for name in PROVIDERS]
        cells = ("–" if line is None else f"{_call(line) / 1e6:.1f}" for line in own)
        rows.append([f"{n}", *cells])
    head = ["N", *(f"{name}, MB" for name in PROVIDERS)]
    ours = by_place.get((LIMIT_N, "otkernels"))
    return "\n".join([page.facts(lines), page.table(head, rows), _verdict(ours)])


def _verdict(line):
    goal = f"Goal: less than {LIMIT_BYTES / 1e6:.0f} MB above the inputs at N = {LIMIT_N}"
    if line is None:
        return f"{goal}: not measured.\n"
    met = "met" if _call(line) < LIMIT_BYTES else "**missed**"
    return f"{goal}: {met}, with {_call(line) / 1e6:.0f} MB.\n"


if __name__ == "__main__":
    sys.exit(main())
