"""Float32 error against condition of covariances: ``python -m benchmarks.studies.conditioning``.

Gaussian Wasserstein distances between ill-conditioned covariances, between multiples of one and
between clouds, against float64. Measures, appends records to results/conditioning/<device>.jsonl,
and writes the figure and the table of docs/verification.md from them; with --plot only the last
two.
"""

import argparse
import math
import sys
from pathlib import Path

import matplotlib
import torch

import otkernels

from .. import CannotRun, records
from ..pages import page
from . import ill_conditioned
from .accuracy import newest

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent.parent
DOCS = HERE.parent / "docs"

CONDITIONS = tuple(10**k for k in range(9))
# Rounded to float32, a covariance of a larger one has eigenvalues that rounding made.
LAST_COVARIANCE = 10**6
LOWEST, HIGHEST = 1e-9, 3.0  # ends of the axis of errors; a mark on one of them is beyond it
ENDS = "median", "largest"  # over the draws
TITLES = {
    "covariances": "two covariances",
    "multiples": "a covariance and 4 times it",
    "clouds": f"two clouds of {ill_conditioned.POINTS} points",
}


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.conditioning")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--draws", type=int, default=20, help="problems for each condition")
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="default: results/conditioning"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="default: docs/figures")
    parser.add_argument("--doc", type=Path, default=DOCS / "verification.md", metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    device = options.device
    path = options.records or HERE / "results" / "conditioning" / f"{device}.jsonl"
    figure = options.figure or DOCS / "figures" / f"conditioning_{device}.png"
    try:
        if not options.plot:
            measure(path, device, options.draws)
        lines = newest(records.read([path]), options.allow_dirty)
        draw(lines, figure)
        shown = f"![error against condition](figures/{figure.name})\n\n{table(lines)}"
        page.write(options.doc, shown, f"conditioning-{device}")
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.conditioning: {error}", file=sys.stderr)
        return 2
    return 0


# --- providers ----------------------------------------------------------------------------------


def _ours(kind, x, y, impl=None):
    if kind == "clouds":
        return otkernels.gaussian_wasserstein(x, y, impl=impl)
    zero = x.new_zeros(len(x))
    return otkernels.bures_wasserstein(zero, x, zero, y, impl=impl)


def _definition(kind, x, y):
    return _ours(kind, x, y, impl="torch")


def _eigh(kind, x, y):
    """What someone who knows torch writes."""
    means = 0.0
    if kind == "clouds":
        means = (x.mean(0) - y.mean(0)).square().sum()
        x, y = (torch.cov(t.mT, correction=0) for t in (x, y))
    values, vectors = torch.linalg.eigh(y)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    roots = torch.linalg.eigvalsh(root @ x @ root).clamp(min=0).sqrt()
    return means + x.trace() + y.trace() - 2 * roots.sum()


def _pot(kind, x, y):
    from ot import gaussian

    if kind == "clouds":
        return gaussian.empirical_bures_wasserstein_distance(x, y, reg=0.0) ** 2
    zero = x.new_zeros(len(x))
    return gaussian.bures_wasserstein_distance(zero, zero, x, y) ** 2


PROVIDERS = {
    "otkernels": _ours,
    "definition": _definition,
    "torch.eigh": _eigh,
    "pot": _pot,
}

# --- measure ------------------------------------------------------------------------------------


def measure(out, device, draws):
    """Append one record for each kind of problem, condition and provider."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("needs a GPU, and torch.cuda.is_available() is False here")
    torch.set_num_threads(1)
    facts = {"run": records.now(), **records.environment(device)}
    for kind in TITLES:
        for condition in CONDITIONS:
            if kind != "clouds" and condition > LAST_COVARIANCE:
                continue
            each = errors(kind, condition, device, draws)
            lines = [facts | {"time": records.now()} | line for line in each]
            records.append(out, lines)
            found = (f"{line['provider']} {_text(line['grad_median'])}" for line in lines)
            print(f"{kind:12} {condition:9}", *found, sep="  ", flush=True)


def errors(kind, condition, device, draws):
    """Records: median and largest error over some draws; None where that is not a number."""
    found = {name: [] for name in PROVIDERS}
    for number in range(draws):
        given = [t.to(device) for t in ill_conditioned.problem(kind, condition, number)]
        expected = ill_conditioned.truth(kind, *given)
        for name, function in PROVIDERS.items():
            found[name].append(_error(function, kind, given, expected))
    for name, each in found.items():
        line = {
            "kind": kind, "condition": condition, "provider": name, "dtype": "float32",
            "D": ill_conditioned.DIMENSION, "draws": draws,
            "no_number": sum(math.isnan(grad) for _, grad in each),
        }  # fmt: skip
        if kind == "clouds":
            line["N"] = ill_conditioned.POINTS
        for what, numbers in zip(("value", "grad"), zip(*each, strict=True), strict=True):
            # What is not a number is worse than any error.
            ordered = sorted(math.inf if math.isnan(number) else number for number in numbers)
            line[f"{what}_median"] = _number(ordered[len(ordered) // 2])
            line[f"{what}_largest"] = _number(ordered[-1])
        yield line


def _number(error):
    """JSON has no infinity."""
    return error if math.isfinite(error) else None


def _error(function, kind, given, expected):
    """Of the value relative to both traces; of the worse gradient relative to its map's part."""
    value, traces, grads, sizes = expected
    leaves = [t.clone().requires_grad_() for t in given]
    got = function(kind, *leaves)
    got.backward()
    wrong = [
        (torch.linalg.matrix_norm(leaf.grad.double() - grad) / size).item()
        for leaf, grad, size in zip(leaves, grads, sizes, strict=True)
    ]
    of_grad = math.nan if any(map(math.isnan, wrong)) else max(wrong)
    return ((got.detach().double() - value).abs() / traces).item(), of_grad


# --- draw ---------------------------------------------------------------------------------------


def _series(lines, kind, provider):
    """Records of one curve in the order of the conditions."""
    own = [li for li in lines if (li["kind"], li["provider"]) == (kind, provider)]
    return sorted(own, key=lambda line: line["condition"])


def draw(lines, path):
    """A column for each kind, values above gradients; median, bar up to the largest error."""
    figure, rows = plt.subplots(
        2, len(TITLES), figsize=(12, 7), layout="constrained", sharex=True, sharey=True
    )
    facts = lines[0]
    figure.suptitle(
        f"Error against float64 on the same numbers, D = {facts['D']}, float32, "
        f"{facts['draws']} draws\n{facts['device_name']}, torch {facts['torch']}, "
        f"POT {facts['pot']}, {facts['run'][:10]}",
        fontsize=10,
    )
    for axes, title in zip(rows[0], TITLES.values(), strict=True):
        axes.set_title(title, fontsize=9)
    labels = "error of the value / both traces", "error of the gradient / its part by the map"
    for row, what, label in zip(rows, ("value", "grad"), labels, strict=True):
        row[0].set_ylabel(label)
        for axes, kind in zip(row, TITLES, strict=True):
            _panel(axes, lines, kind, what)
    for axes in rows[-1]:
        axes.set_xlabel("condition of the covariances")
    rows[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes, lines, kind, what):
    for i, provider in enumerate(PROVIDERS):
        style = {"color": f"C{i}", "marker": "os^D"[i], "markersize": 5, "linewidth": 1}
        own = _series(lines, kind, provider)
        middle, largest = ([_shown(li[f"{what}_{of}"]) for li in own] for of in ENDS)
        above = [high - low for high, low in zip(largest, middle, strict=True)]
        # Side by side, for some lie on each other.
        places = [line["condition"] * 1.08 ** (i - 1.5) for line in own]
        bars = [[0] * len(own), above]
        axes.errorbar(places, middle, bars, capsize=2, label=provider, clip_on=False, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(CONDITIONS[0] / 2, CONDITIONS[-1] * 2)
    axes.set_xticks(CONDITIONS[::2])
    axes.set_ylim(LOWEST, HIGHEST)
    axes.grid(alpha=0.3)


def _shown(error):
    return HIGHEST if error is None else min(max(error, LOWEST), HIGHEST)


def table(lines):
    """The largest errors in Markdown."""
    head = ["problem", "condition", *PROVIDERS]
    rows = []
    for kind, title in TITLES.items():
        for place, first in enumerate(_series(lines, kind, "otkernels")):
            own = (_series(lines, kind, provider)[place] for provider in PROVIDERS)
            cells = (" / ".join(_text(li[f"{w}_largest"]) for w in ("value", "grad")) for li in own)
            rows.append([title, f"{first['condition']:.0e}", *cells])
    draws = f"Largest error of value / of gradient over {lines[0]['draws']} draws.\n"
    return "\n".join([page.facts(lines), draws, page.table(head, rows)])


def _text(error):
    return "NaN" if error is None else f"{error:.0e}"


if __name__ == "__main__":
    sys.exit(main())
