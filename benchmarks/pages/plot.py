"""A figure for each family and machine: time against size with the roofline, error against size."""

import itertools
import textwrap

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from .. import cases, records
from . import family_page, page

MARKERS = "osD^vPX<>"
# The clock of full markers and, with hollow ones, that of eager calls on a GPU.
CLOCKS = {"cpu": ("wall",), "cuda": ("graph", "wall")}
WORDS = {"wall": "wall time", "graph": "CUDA graph"}
LOST = "faster than otkernels"
STEP = 1.035  # providers stand beside each other at a size


def draw(lines, folder, allow_dirty=False):
    """Draw the newest records; returns the paths of the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for machine, group in records.by_machine(records.newest(lines, allow_dirty)).items():
        for family in cases.FAMILIES:
            own = [line for line in group if line["op"] == family.op]
            if drawn(own):
                paths.append(folder / name(family, machine))
                figure = _figure(family, own)
                # Who has the file alone learns from it what the page says above the table.
                figure.savefig(paths[-1], dpi=150, metadata={"Description": page.facts(own)})
                plt.close(figure)
    return paths


def name(family, machine):
    """The file with the figure of a family on a machine of ``records.by_machine``."""
    return f"{family.op}_{machine}.png"


def drawn(lines):
    """Those of some records that a figure shows."""
    return [
        line
        for line in lines
        if line["mode"] == family_page.MAIN
        and line["clock"] in CLOCKS[line["device"]]
        and line["ms_p50"] is not None
    ]


def _figure(family, lines):
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    exponent = "" if family.p is None else f", p = {family.p}"
    facts = textwrap.fill(page.facts(lines).replace("**", ""), 175)
    figure.suptitle(
        f"{family.op}{exponent}: value and gradient, float32\n", fontsize=11, fontweight="bold"
    )
    figure.text(0.5, 0.955, facts, ha="center", va="top", fontsize=7.5)
    shown = sorted(drawn(lines), key=lambda line: family_page.size(family, line))
    names = [p.name for p in family.providers if any(li["provider"] == p.name for li in shown)]
    for i, provider in enumerate(names):
        style = {"color": f"C{i}", "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        own = [line for line in shown if line["provider"] == provider]
        _times(left, family, own, style, provider)
        _errors(right, family, own, style, STEP ** (i - (len(names) - 1) / 2))
    _roofline(left, family, shown)
    _losses(left, family, shown)
    _label(left, right, family, shown, names)
    return figure


def _label(left, right, family, shown, names):
    device = shown[0]["device"]
    full, *hollow = (WORDS[clock] for clock in CLOCKS[device])
    eager = f"full: {full}, hollow: eager {hollow[0]}; " if hollow else ""
    left.set_title(f"{eager}joined: shapes that differ in N only", fontsize=9)
    left.set_ylabel("time, ms: median, bar from 20 % to 80 %")
    right.set_title("full: value, hollow: gradient", fontsize=9)
    right.set_ylabel("largest error / largest entry of float64 reference")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel=family.size_label)
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    order = [name for name in (*names, "roofline", LOST) if name in by_label]
    left.legend([by_label[name] for name in order], order, fontsize=8)


def _times(axes, family, lines, style, provider):
    """Every shape is a marker with its band; shapes that differ in N only are joined."""
    label = provider
    for clock, hollow in zip(CLOCKS[lines[0]["device"]], (False, True), strict=False):
        own = [line for line in lines if line["clock"] == clock]
        if not own:
            continue
        sizes = [family_page.size(family, line) for line in own]
        times = [line["ms_p50"] for line in own]
        band = [
            [line["ms_p50"] - line["ms_p20"] for line in own],
            [line["ms_p80"] - line["ms_p50"] for line in own],
        ]
        face = "none" if hollow else style["color"]
        axes.errorbar(
            sizes, times, band, linestyle="none", capsize=2, label=label, mfc=face, **style
        )
        label = None
        _join(axes, family, own, "ms_p50", color=style["color"], linestyle="-:"[hollow])


def _join(axes, family, lines, field, **style):
    def key(line):
        return line["B"], line["D"], line["L"] or 0

    for _, series in itertools.groupby(sorted(lines, key=key), key=key):
        series = sorted(series, key=lambda line: family_page.size(family, line))
        sizes = [family_page.size(family, line) for line in series]
        axes.plot(sizes, [line[field] for line in series], linewidth=1, **style)


def _roofline(axes, family, lines):
    """A line of the lower bounds; older records have none."""
    bounds = {li["shape"]: li for li in lines if li.get("roofline_ms")}.values()
    if bounds:
        sizes = [family_page.size(family, line) for line in bounds]
        times = [line["roofline_ms"] for line in bounds]
        axes.plot(sizes, times, "k_", markersize=9, label="roofline")
        _join(axes, family, bounds, "roofline_ms", color="k", linestyle="--")


def _losses(axes, family, lines):
    """A ring around every peer that is faster than ours."""
    lost = family_page.losses(family, lines)
    if lost:
        sizes = [family_page.size(family, line) for line in lost]
        times = [line["ms_p50"] for line in lost]
        ring = {"facecolors": "none", "edgecolors": "red", "linewidths": 1.2}
        axes.scatter(sizes, times, s=110, label=LOST, zorder=3, **ring)


def _errors(axes, family, lines, style, beside):
    """Value full, gradient hollow; an error of exactly zero has no place on a log axis."""
    for kind, face in (("value", style["color"]), ("grad", "none")):
        points = {
            line["shape"]: (beside * family_page.size(family, line), line[f"error_{kind}"])
            for line in lines
            if line[f"error_{kind}"]
        }
        if points:
            axes.plot(*zip(*points.values(), strict=True), linestyle="none", mfc=face, **style)
