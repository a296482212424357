"""Float32 error against offset of the points: ``python -m benchmarks.studies.accuracy``.

Kernel losses of clouds that lie far from the origin, against float64. Measures, appends records to
results/accuracy/<device>.jsonl, and writes the figure and the table of docs/benchmarks.md from
them; with --plot only the last two.
"""

import argparse
import statistics
import sys
from pathlib import Path

import matplotlib
import torch

import otkernels

from .. import CannotRun, records
from ..families import kernel_reference, mmd
from ..measure import Call, check
from ..pages import page

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent.parent
DOCS = HERE.parent / "docs"

OFFSETS = (0, 1, 10, 100, 1000)  # added to every coordinate of both clouds
POINTS, DIMENSION = 512, 32
KERNELS = {
    "gaussian": kernel_reference.gaussian,
    "laplacian": kernel_reference.laplacian,
    "energy": kernel_reference.energy,
}
MODE = "forward_backward"


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.accuracy")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--draws", type=int, default=20, help="clouds for each offset")
    parser.add_argument("--records", type=Path, metavar="FILE", help="default: results/accuracy")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="default: docs/figures")
    parser.add_argument("--doc", type=Path, default=DOCS / "benchmarks.md", metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    device = options.device
    path = options.records or HERE / "results" / "accuracy" / f"{device}.jsonl"
    figure = options.figure or DOCS / "figures" / f"accuracy_{device}.png"
    try:
        if not options.plot:
            measure(path, device, options.draws)
        lines = newest(records.read([path]), options.allow_dirty)
        draw(lines, figure)
        shown = f"![error against offset](figures/{figure.name})\n\n{table(lines)}"
        page.write(options.doc, shown, f"accuracy-{device}")
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.accuracy: {error}", file=sys.stderr)
        return 2
    return 0


def newest(lines, allow_dirty):
    """The records of the newest run, by default of those on a committed tree."""
    lines = [line for line in lines if allow_dirty or line["dirty"] is False]
    if not lines:
        raise CannotRun("no record of a committed tree; --allow-dirty takes the others too")
    last = max(line["run"] for line in lines)
    return [line for line in lines if line["run"] == last]


# --- providers ----------------------------------------------------------------------------------


def _ours(kernel):
    options = {} if kernel == "energy" else {"bandwidth": DIMENSION**0.5}
    return lambda x, y: otkernels.mmd(x, y, kernel=kernel, **options)


def _torch(kernel):
    """The formula as it is often written: by torch.cdist, which does not centre."""
    s = DIMENSION**0.5
    profile = {
        "gaussian": lambda r: torch.exp(r.square() / (-2 * s**2)),
        "laplacian": lambda r: torch.exp(-r / s),
        "energy": lambda r: -r,
    }[kernel]

    def mean(p, q):
        return profile(torch.cdist(p, q)).mean()

    return lambda x, y: mean(x, x) + mean(y, y) - 2 * mean(x, y)


PROVIDERS = {
    "otkernels": _ours,
    "torch.cdist": _torch,
    "geomloss": lambda kernel: mmd.geomloss(kernel, "tensorized"),
}

# --- measure ------------------------------------------------------------------------------------


def measure(out, device, draws):
    """Append one record for each kernel, offset and provider."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    torch.set_num_threads(1)
    facts = {"run": records.now(), **records.environment(device)}
    for kernel in KERNELS:
        for offset in OFFSETS:
            each = errors(kernel, offset, device, draws)
            lines = [facts | {"time": records.now()} | line for line in each]
            records.append(out, lines)
            found = (f"{line['provider']} {line['value_median']:.0e}" for line in lines)
            print(f"{kernel:10} offset {offset:4}", *found, sep="  ", flush=True)


def clouds(offset, draw):
    """Two clouds of float32 numbers around an offset: what is rounded there is given, no error."""
    generator = torch.Generator().manual_seed(draw)
    x, y = (torch.randn(POINTS, DIMENSION, generator=generator) for _ in range(2))
    return x * torch.linspace(0.5, 1.5, DIMENSION) + 0.5 + offset, y + offset


def errors(kernel, offset, device, draws):
    """Records: median and largest of the relative errors over some draws of the clouds."""
    functions = {name: make(kernel) for name, make in PROVIDERS.items()}
    found = {name: [] for name in functions}
    for draw in range(draws):
        x, y = (t.to(device) for t in clouds(offset, draw))
        expected = kernel_reference.expect(x, y, KERNELS[kernel], (mmd.scale(x),))
        for name, function in functions.items():
            found[name].append(check(Call(function, (x, y), MODE), expected))
    for name, each in found.items():
        values, grads = [e.value for e in each], [e.grad for e in each]
        yield {
            "kernel": kernel, "offset": offset, "provider": name, "mode": MODE, "dtype": "float32",
            "N": POINTS, "D": DIMENSION, "draws": draws,
            "value_median": statistics.median(values), "value_largest": max(values),
            "grad_median": statistics.median(grads), "grad_largest": max(grads),
        }  # fmt: skip


# --- draw ---------------------------------------------------------------------------------------


def _series(lines, kernel, provider):
    """Records of one curve in the order of the offsets."""
    own = [li for li in lines if (li["kernel"], li["provider"]) == (kernel, provider)]
    return sorted(own, key=lambda line: line["offset"])


def draw(lines, path):
    """A column for each kernel, values above gradients; median, bar up to the largest error."""
    figure, rows = plt.subplots(
        2, len(KERNELS), figsize=(12, 7), layout="constrained", sharex=True, sharey=True
    )
    facts = lines[0]
    figure.suptitle(
        f"Error against float64 on the same points, N = M = {facts['N']}, D = {facts['D']}, "
        f"float32, {facts['draws']} draws\n"
        f"{facts['device_name']}, torch {facts['torch']}, GeomLoss {facts['geomloss']}, "
        f"{facts['run'][:10]}",
        fontsize=10,
    )
    for axes, kernel in zip(rows[0], KERNELS, strict=True):
        axes.set_title(kernel, fontsize=9)
    for row, kind, label in zip(rows, ("value", "grad"), ("value", "gradient to x"), strict=True):
        row[0].set_ylabel(f"relative error of the {label}")
        for axes, kernel in zip(row, KERNELS, strict=True):
            _panel(axes, lines, kernel, kind)
    for axes in rows[-1]:
        axes.set_xlabel("offset of every coordinate")
    rows[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes, lines, kernel, kind):
    places = range(len(OFFSETS))
    for i, provider in enumerate(PROVIDERS):
        own = _series(lines, kernel, provider)
        middle = [line[f"{kind}_median"] for line in own]
        above = [line[f"{kind}_largest"] - line[f"{kind}_median"] for line in own]
        style = {"color": f"C{i}", "marker": "osD"[i], "markersize": 5, "linewidth": 1}
        bars = [[0] * len(own), above]
        axes.errorbar(places, middle, bars, capsize=2, label=provider, **style)
    axes.set_xticks(places, [str(offset) for offset in OFFSETS])
    axes.set_yscale("log")
    axes.grid(alpha=0.3)


def table(lines):
    """The largest errors in Markdown."""
    head = ["kernel", "offset", *PROVIDERS]
    rows = []
    for kernel in KERNELS:
        for place, offset in enumerate(OFFSETS):
            own = (_series(lines, kernel, provider)[place] for provider in PROVIDERS)
            cells = (f"{li['value_largest']:.0e} / {li['grad_largest']:.0e}" for li in own)
            rows.append([kernel, f"{offset}", *cells])
    draws = f"Largest error of value / of gradient over {lines[0]['draws']} draws.\n"
    return "\n".join([page.facts(lines), draws, page.table(head, rows)])


if __name__ == "__main__":
    sys.exit(main())
