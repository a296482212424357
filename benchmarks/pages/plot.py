"""Figures from records: time and error against size, one figure for each op, device and clock."""

import itertools

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from .. import CannotRun, cases, records
from ..case import Shape

MARKERS = "osD^vPX"


def draw(lines, mode, folder, allow_dirty=False):
    """Draw the newest records of one mode; returns the paths of the PNG files.

    Raises:
        CannotRun: no record to draw.
    """
    lines = [
        line
        for line in records.newest(lines, allow_dirty)
        if line["mode"] == mode and line["ms_p50"] is not None
    ]
    if not lines:
        raise CannotRun(f"no record of a committed tree with mode {mode!r} and a time")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    groups = _grouped(lines, "op", "device", "device_name", "threads", "clock")
    for (op, device, _, threads, clock), group in groups:
        paths.append(folder / records.figure_name(op, device, threads, clock, mode))
        figure = _figure(cases.family(op), group)
        figure.savefig(paths[-1], dpi=150)
        plt.close(figure)
    return paths


def _grouped(lines, *names):
    def key(line):
        return tuple(line[name] for name in names)

    return itertools.groupby(sorted(lines, key=key), key=key)


def _size(family, line):
    return family.size(Shape(*(line[letter] for letter in "BNDL"), "from a record", line["M"]))


def _figure(family, lines):
    lines = sorted(lines, key=lambda line: _size(family, line))
    facts = lines[-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    days = sorted({line["time"][:10] for line in lines})
    exponent = "" if family.p is None else f", p = {family.p}"
    names = [p.name for p in family.providers if any(li["provider"] == p.name for li in lines)]
    peers = {"pot": "POT", "geomloss": "GeomLoss"}
    versions = "".join(f", {peers[name]} {facts[name]}" for name in names if name in peers)
    figure.suptitle(
        f"{family.op}{exponent}, {facts['mode'].replace('_', ' ')}, float32\n"
        f"{facts['device_name']}, {facts['threads']} CPU thread(s), {facts['clock']} clock, "
        f"torch {facts['torch']}{versions}, {' to '.join(sorted({days[0], days[-1]}))}",
        fontsize=10,
    )
    for i, name in enumerate(names):
        style = {"color": f"C{i}", "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        own = [line for line in lines if line["provider"] == name]
        _times(left, family, own, style, name)
        _errors(right, family, own, style, name)
    left.set_ylabel("time, ms: median, bar from 20 % to 80 %")
    right.set_ylabel("largest error / largest entry of float64 reference")
    right.set_title("filled: value, hollow: gradient", fontsize=9)
    left.set_title("joined: shapes that differ in N only", fontsize=9)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel=family.size_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _times(axes, family, lines, style, name):
    """Every shape is a marker with its band; shapes that differ in N only are joined."""
    sizes = [_size(family, line) for line in lines]
    middle = [line["ms_p50"] for line in lines]
    band = [
        [line["ms_p50"] - line["ms_p20"] for line in lines],
        [line["ms_p80"] - line["ms_p50"] for line in lines],
    ]
    axes.errorbar(sizes, middle, band, linestyle="none", capsize=2, label=name, **style)
    for _, series in _grouped(lines, "B", "D", "L"):
        series = sorted(series, key=lambda line: _size(family, line))
        points = [_size(family, line) for line in series], [line["ms_p50"] for line in series]
        axes.plot(*points, color=style["color"], linewidth=1)


def _errors(axes, family, lines, style, name):
    """Value filled, gradient hollow; an error of exactly zero has no place on a log axis."""
    for kind, face in (("value", style["color"]), ("grad", "none")):
        points = [
            (_size(family, line), line[f"error_{kind}"]) for line in lines if line[f"error_{kind}"]
        ]
        if points:
            label = name if kind == "value" else None
            axes.plot(*zip(*points, strict=True), linestyle="none", mfc=face, label=label, **style)
