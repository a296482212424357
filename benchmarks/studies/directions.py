"""Error against number of directions by method: ``python -m benchmarks.studies.directions``.

Measures, appends records to results/directions/cpu.jsonl, and writes the figure and the tables of
docs/directions.md from them; with --plot only the last two.
"""

import argparse
import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import otkernels

from .. import CannotRun, clocks, records
from .. import measure as timing
from ..pages import page

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent.parent
RESULTS = HERE / "results" / "directions" / "cpu.jsonl"
DOC = HERE.parent / "docs" / "directions.md"
FIGURE = HERE.parent / "docs" / "figures" / "directions.png"

METHODS = ("gaussian", "orthogonal", "sobol")
# What is compared: how directions are drawn, and whether a control variate is subtracted.
ESTIMATES = {method: (method, False) for method in METHODS} | {
    "gaussian, control variate": ("gaussian", True),
}
DIMENSIONS = (3, 16, 64)
SIZES = tuple(2**k for k in range(3, 11))
TABLE_SIZES = (16, 128, 1024)
POINTS, LOSS_POINTS = 256, 1024  # of each cloud, for errors and for times
PAIRS = {
    "shifted": "shifted clouds of different shape",
    "same law": "two samples of one law",
}
# Timed: the draws, and beside them the loss that uses them at a common size.
TIMED = ((3, 128), (16, 128), (64, 128), (64, 1024), (784, 128))
TRUTH_NODES, CHUNK = 2**20, 2**14


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.directions")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--randomisations", type=int, default=200, help="draws for each point")
    parser.add_argument("--seconds", type=float, default=5.0, help="time budget of each timing")
    for name, path in (("records", RESULTS), ("figure", FIGURE), ("doc", DOC)):
        parser.add_argument(f"--{name}", type=Path, default=path, metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    try:
        if not options.plot:
            measure(options.records, options.randomisations, options.seconds)
        lines = newest(records.read([options.records]), options.allow_dirty)
        draw(lines, options.figure)
        page.write(options.doc, tables(lines))
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.directions: {error}", file=sys.stderr)
        return 2
    return 0


def newest(lines, allow_dirty):
    """The records of the newest run, by default of those on a committed tree."""
    lines = [line for line in lines if allow_dirty or line["dirty"] is False]
    if not lines:
        raise CannotRun("no record of a committed tree; --allow-dirty takes the others too")
    return select(lines, run=max(line["run"] for line in lines))


# --- measure ------------------------------------------------------------------------------------


def measure(out, randomisations, seconds):
    """Append one record for each error and each time; each problem's as soon as it is done."""
    torch.set_num_threads(1)
    facts = {"run": records.now(), **records.environment("cpu")}
    for pair in PAIRS:
        for d in DIMENSIONS:
            lines = [facts | line for line in errors(pair, d, randomisations)]
            records.append(out, lines)
            print(pair, f"D={d}", f"truth {lines[0]['truth']:.6g}", flush=True)
    for d, n in TIMED:
        lines = [facts | line for line in times(d, n, seconds)]
        records.append(out, lines)
        print(f"D={d} L={n}", *(f"{li['method']} {li['ms_p50']:.3g} ms" for li in lines))


def clouds(pair, d):
    """Two clouds (POINTS, d) in float64, always the same ones: see docs/directions.md."""
    stream = torch.Generator().manual_seed(d)
    x, y, rotation = (
        torch.randn(rows, d, generator=stream, dtype=torch.float64) for rows in (POINTS, POINTS, d)
    )
    if pair == "shifted":
        axes = torch.linalg.qr(rotation).Q
        shift = torch.randn(d, generator=stream, dtype=torch.float64)
        spread = torch.logspace(-1, 1, d, base=2, dtype=torch.float64)
        x = (x * spread) @ axes + 2 * shift / shift.norm()
    return x, y


def errors(pair, d, randomisations):
    """Records: root mean square of estimate / truth - 1 for each estimate and size of draw."""
    x, y = clouds(pair, d)
    truth, truth_error = sphere_mean(x, y)
    for name, (method, control) in ESTIMATES.items():
        for n in SIZES:
            stream = torch.Generator().manual_seed(n)
            options = {"method": method, "generator": stream, "dtype": torch.float64}
            draws = (otkernels.sample_projections(d, n, **options) for _ in range(randomisations))
            found = torch.stack([cost(x, y, theta, control) for theta in draws])
            error = found / truth - 1
            square = error.square()
            rms = square.mean().sqrt().item()
            yield {
                "kind": "error", "pair": pair, "N": POINTS, "D": d, "L": n, "method": name,
                "rms": rms,
                "rms_error": square.std().item() / randomisations**0.5 / (2 * rms),
                "bias": error.mean().item(),
                "bias_error": error.std().item() / randomisations**0.5,
                "randomisations": randomisations,
                "truth": truth, "truth_error": truth_error / truth,
            }  # fmt: skip


def cost(x, y, theta, control=False):
    """The loss along given directions."""
    if control:
        options = {"projections": theta, "control_variate": True}
        return otkernels.sliced_wasserstein_with_info(x, y, **options).value
    return otkernels.sliced_wasserstein(x, y, projections=theta)


def sphere_mean(x, y):
    """The loss over the whole sphere and its error, without the methods that are compared.

    The part of the mean difference m is |m|^2 / d. The rest is in three dimensions a midpoint rule
    on the half sphere, with the difference to a quarter of the nodes as its error, and beyond a
    mean over NumPy's normal vectors, with its standard error.
    """
    d = x.shape[-1]
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    shift = (x_mean - y_mean).square().sum().item() / d
    if d == 3:
        grids = _grid(TRUTH_NODES), _grid(TRUTH_NODES // 4)
        fine, coarse = (torch.stack([cost(x, y, theta) for theta in grid]).mean() for grid in grids)
        return shift + fine.item(), (fine - coarse).abs().item()
    stream, chunks = np.random.default_rng(d), TRUTH_NODES // CHUNK
    normal = (torch.from_numpy(stream.standard_normal((d, CHUNK))) for _ in range(chunks))
    means = torch.stack([cost(x, y, theta / theta.norm(dim=0)) for theta in normal])
    return shift + means.mean().item(), means.std().item() / len(means) ** 0.5


def _grid(nodes):
    """Midpoint nodes of the half sphere, as sqrt(nodes) circles (3, sqrt(nodes))."""
    side = math.isqrt(nodes)
    middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    angle = 2 * math.pi * middle
    circle = torch.stack([angle.cos(), angle.sin()])
    radius = (1 - middle.square()).sqrt()
    heights = zip(middle, radius, strict=True)
    return [torch.cat([r * circle, h.expand(1, side)]) for h, r in heights]


class _Timed:
    """A function of no arguments, in the form that ``measure.interleave`` calls."""

    def __init__(self, function):
        self.function = function

    def reset(self):
        """Nothing is kept between calls."""

    def __call__(self):
        return self.function()


def times(d, n, seconds):
    """Records: time to draw (d, n) in float32, and of the loss and its gradient, interleaved."""
    x = torch.randn(LOSS_POINTS, d, generator=torch.Generator().manual_seed(0))
    y, theta = x.flip(-1).contiguous(), otkernels.sample_projections(d, n)
    x.requires_grad_()

    def loss():
        torch.autograd.grad(otkernels.sliced_wasserstein(x, y, projections=theta), x)

    calls = {
        method: _Timed(lambda method=method: otkernels.sample_projections(d, n, method=method))
        for method in METHODS
    }
    calls["loss"] = _Timed(loss)
    for call in calls.values():
        timing.warm_up(call)
    for name, readings in timing.interleave(calls, clocks.host, seconds).items():
        p20, p50, p80 = np.quantile(readings["wall"], (0.2, 0.5, 0.8)).tolist()
        yield {
            "kind": "time", "D": d, "L": n, "method": name,
            "N": LOSS_POINTS if name == "loss" else None, "dtype": "float32",
            "ms_p20": p20, "ms_p50": p50, "ms_p80": p80, "repetitions": len(readings["wall"]),
        }  # fmt: skip


# --- draw ---------------------------------------------------------------------------------------


def select(lines, **wanted):
    """The records whose fields have the wanted values."""
    return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]


def draw(lines, path):
    """One panel for each pair of clouds and dimension."""
    style = {"figsize": (12, 7.5), "layout": "constrained", "sharex": True}
    figure, rows = plt.subplots(len(PAIRS), len(DIMENSIONS), **style)
    facts = select(lines, kind="error")[0]
    figure.suptitle(
        "sliced_wasserstein, p = 2: relative root mean square error over "
        f"{facts['randomisations']} draws\n"
        f"N = {facts['N']}, float64, torch {facts['torch']}, {facts['run'][:10]}",
        fontsize=10,
    )
    for row, (pair, title) in zip(rows, PAIRS.items(), strict=True):
        for axes, d in zip(row, DIMENSIONS, strict=True):
            _panel(axes, select(lines, kind="error", pair=pair, D=d))
            axes.set_title(f"{title}, D = {d}", fontsize=9)
        row[0].set_ylabel("relative error, bar: one standard error")
        row[0].legend(fontsize=8)  # the other panels have points where a legend would go
    for axes in rows[-1]:
        axes.set_xlabel("directions, L")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes, lines):
    sizes = np.array(SIZES)
    for i, name in enumerate(ESTIMATES):
        own = [select(lines, method=name, L=n)[0] for n in SIZES]
        rms, bar = ([line[field] for line in own] for field in ("rms", "rms_error"))
        style = {"color": f"C{i}", "marker": "osD^"[i], "markersize": 5, "linewidth": 1}
        axes.errorbar(sizes, rms, bar, capsize=2, label=name, **style)
    start = 1.6 * max(line["rms"] for line in lines)
    slopes = {0.5: "L^{-1/2}", 1.0: "L^{-1}", 1.5: "L^{-3/2}"}
    for (slope, label), dash in zip(slopes.items(), ("--", "-.", ":"), strict=True):
        if slope < 1.5 or lines[0]["D"] == 3:
            guide = start * (sizes / sizes[0]) ** -slope
            axes.plot(sizes, guide, dash, color="0.6", linewidth=1, label=f"${label}$")
    axes.set(yscale="log", ylim=(min(line["rms"] for line in lines) / 2, None))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.grid(alpha=0.3)


def tables(lines):
    """The errors, their biases and the times in Markdown."""
    facts, found = lines[0], select(lines, kind="error")
    plain = [line for line in found if line["method"] in METHODS]
    bias = max(plain, key=_bias)
    parts = [
        f"Run {facts['run']}, {facts['device_name']}, one thread, torch {facts['torch']}, "
        f"commit `{str(facts['commit'])[:10]}`{' (edited)' * (facts['dirty'] is not False)}.\n",
        f"Relative root mean square error, {found[0]['randomisations']} draws:\n",
        *_error_table(found),
        f"\nWithout control variate, the largest of the {len(plain)} mean errors is "
        f"{_bias(bias):.1f} standard errors, that of the truth included "
        f"({bias['method']}, {bias['pair']}, D = {bias['D']}, L = {bias['L']}).\n",
        "Milliseconds to draw (D, L) in float32, and for the loss with its gradient to `x`, "
        f"N = {LOSS_POINTS}; medians, in brackets 20 % and 80 %:\n",
        *_time_table(select(lines, kind="time")),
        "",
    ]
    return "\n".join(parts)


def _bias(line):
    return abs(line["bias"]) / math.hypot(line["bias_error"], line["truth_error"])


def _error_table(lines):
    yield "| clouds | D | L | " + " | ".join(ESTIMATES) + " | its bias | error of the truth |"
    yield "| --- " * (5 + len(ESTIMATES)) + "|"
    for pair, title in PAIRS.items():
        for d in DIMENSIONS:
            for n in TABLE_SIZES:
                own = [select(lines, pair=pair, D=d, L=n, method=m)[0] for m in ESTIMATES]
                cells = " | ".join(f"{li['rms']:.2e} ± {li['rms_error']:.0e}" for li in own)
                bias = f"{own[-1]['bias']:.0e} ± {own[-1]['bias_error']:.0e}"
                truth = f"{own[0]['truth_error']:.0e}"
                yield f"| {title} | {d} | {n} | {cells} | {bias} | {truth} |"


def _time_table(lines):
    names = (*METHODS, "loss")
    yield "| D | L | " + " | ".join(names) + " |"
    yield "| --- " * (2 + len(names)) + "|"
    cell = "{ms_p50:.3g} ({ms_p20:.3g}, {ms_p80:.3g})"
    for d, n in TIMED:
        own = [select(lines, D=d, L=n, method=name)[0] for name in names]
        yield f"| {d} | {n} | " + " | ".join(cell.format(**line) for line in own) + " |"


if __name__ == "__main__":
    sys.exit(main())
