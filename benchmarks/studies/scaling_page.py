"""Figure and tables of ``scaling.py``: what was measured, and a model beside it."""

import matplotlib

from ..pages import page
from . import traffic

matplotlib.use("agg")
import matplotlib.pyplot as plt

MODELLED = tuple(2**k for k in range(9))  # ranks
STYLES = ("C0", "o"), ("C1", "s"), ("C2", "D")


def draw(lines, path):
    """Left the measured times, right the model of the traffic."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    facts = lines[0]
    _times(left, lines)
    left.set_title(
        f"measured: {facts['device_name']}, {facts['cores']} cores, gloo, one thread a rank\n"
        f"D = {facts['D']}, value and gradient, float32, torch {facts['torch']}, "
        f"{facts['run'][:10]}",
        fontsize=9,
    )
    _model(right, lines)
    right.set_title(
        "lines are a model, not a measurement: benchmarks/studies/traffic.py, ring exchanges,\n"
        "the same global batches; only the marks at 2 to 4 ranks are measured",
        fontsize=9,
    )
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel="ranks, the global batch being the same")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    ranks = _ranks(lines)
    left.set_xticks(ranks, map(str, ranks))
    right.set_xticks(MODELLED, map(str, MODELLED))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _ranks(lines):
    return sorted({line["ranks"] for line in lines})


def _series(lines):
    """Loss, N, whether it is the larger, and its records in the order of ranks."""
    for op in dict.fromkeys(line["op"] for line in lines):
        sizes = sorted({line["N"] for line in lines if line["op"] == op})
        for n in sizes:
            own = [line for line in lines if (line["op"], line["N"]) == (op, n)]
            yield op, n, n == sizes[-1], sorted(own, key=lambda line: line["ranks"])


def _style(lines, op):
    return STYLES[list(dict.fromkeys(line["op"] for line in lines)).index(op)]


def _times(axes, lines):
    for op, n, large, own in _series(lines):
        color, marker = _style(lines, op)
        ranks, middle = [li["ranks"] for li in own], [li["ms_p50"] for li in own]
        bars = [[li["ms_p50"] - li["ms_p20"] for li in own],
                [li["ms_p80"] - li["ms_p50"] for li in own]]  # fmt: skip
        style = {"color": color, "marker": marker, "mfc": color if large else "white"}
        axes.errorbar(ranks, middle, bars, capsize=2, label=f"{op}, N = M = {n}", **style)
        axes.plot(ranks, [middle[0] / r for r in ranks], ":", color=color, linewidth=1)
    axes.plot([], [], "k:", linewidth=1, label="ideal: time of one rank / ranks")
    cores = lines[0]["cores"]
    axes.axvline(cores, color="0.4", linestyle="--", linewidth=1)
    label = f"more ranks than\nthe {cores} cores from here on"
    axes.text(cores * 1.02, 0.02, label, fontsize=8, transform=axes.get_xaxis_transform())
    axes.set_ylabel("time, ms: median, bar from 20 % to 80 %")


def _model(axes, lines):
    for op, n, large, own in _series(lines):
        if not large:
            continue
        color, marker = _style(lines, op)
        ranks = MODELLED[1:]
        shares = [-(-n // r) for r in ranks]
        problems = [traffic.Problem(op, share, share, own[0]["D"], own[0]["L"]) for share in shares]
        model = [traffic.per_rank(p, r) / 1e6 for p, r in zip(problems, ranks, strict=True)]
        axes.plot(ranks, model, "--", color=color, label=f"{op}, N = M = {n}: model")
        own = [line for line in own if line["ranks"] > 1]
        found = [line["bytes_per_rank"] / 1e6 for line in own]
        style = {"color": color, "marker": marker, "linestyle": "none", "markersize": 5}
        axes.plot([li["ranks"] for li in own], found, label="measured over loopback", **style)
    axes.set_ylabel("sent by each rank in a forward and backward pass, MB")


# --- tables -------------------------------------------------------------------------------------


def tables(lines):
    """Times, and bytes measured beside the model, in Markdown."""
    facts = lines[0]
    loads = sorted({line["load"] for line in lines})
    ranks = _ranks(lines)
    head = ["loss", "N = M", *(f"{r} rank{'s' * (r > 1)}, ms" for r in ranks)]
    bytes_head = ["loss", "N = M", *(f"{r} ranks: MB, of model" for r in ranks[1:])]
    return "\n".join(
        [
            f"Run {facts['run']}, {facts['device_name']}, {facts['cores']} cores, one thread a "
            f"rank, gloo, torch {facts['torch']}, commit `{str(facts['commit'])[:10]}`"
            f"{' (edited)' * (facts['dirty'] is not False)}; load average before each set of "
            f"processes {loads[0]:.1f} to {loads[-1]:.1f}. D = {facts['D']}, L = {facts['L']}, "
            "value and gradient to `x`; medians.\n",
            page.table(head, _rows(lines, ranks, _time)),
            "Sent by each rank over the loopback device, and its ratio to the model:\n",
            page.table(bytes_head, _rows(lines, ranks[1:], _bytes)),
        ]
    )


def _rows(lines, ranks, cell):
    for op, n, _, own in _series(lines):
        by_ranks = {line["ranks"]: line for line in own}
        yield [f"`{op}`", str(n), *(cell(by_ranks[r]) if r in by_ranks else "–" for r in ranks)]


def _time(line):
    return f"{line['ms_p50']:.3g}"


def _bytes(line):
    return (
        f"{line['bytes_per_rank'] / 1e6:.3g}, {line['bytes_per_rank'] / line['bytes_modelled']:.2f}"
    )
