"""Time and peak memory against N, up to a million points: ``python -m benchmarks growth``.

Value and gradient to x of sliced Wasserstein, D = 16, L = 64, for otkernels and two peers.
"""

import dataclasses
import math
import subprocess

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from .. import CannotRun, cases, memory, records, run
from ..pages import page

PROVIDERS = ("otkernels", "torch", "pot")
# The largest N of a peer: POT holds more than two gigabytes there.
LARGEST = {"pot": 2**18}
MODE = "forward_backward"
# The goal: all memory beyond interpreter and imports, at the largest N.
LIMIT_N, LIMIT_BYTES = 1_000_000, 300e6


def chosen(shapes):
    """The cases of a set of shapes, each with the providers that go so far."""
    return [
        dataclasses.replace(case, family=dataclasses.replace(case.family, providers=kept))
        for case in cases.select(shapes, f"^sliced_wasserstein/.*/{MODE}$")
        if (kept := tuple(p for p in case.family.providers if _goes_to(p.name, case.shape.N)))
    ]


def _goes_to(provider, n):
    return provider in PROVIDERS and n <= LARGEST.get(provider, math.inf)


def time(shapes, out, seconds):
    """Time all cases interleaved, as ``python -m benchmarks run`` does; returns the wrong ones."""
    return run.run_cases(chosen(shapes), "cpu", out=out, seconds=seconds)


def peaks(shapes, out, wanted=None):
    """Take the peak memory of each case and provider in a process of its own.

    Cases are those of :func:`chosen`, or the wanted ones of the same set of shapes.
    """
    facts = {"run": records.now(), **records.environment("cpu")}
    for case in chosen(shapes) if wanted is None else wanted:
        for provider in case.family.providers:
            try:
                peak = memory.peak_cpu(shapes, case, provider.name)
            except subprocess.CalledProcessError as error:
                if provider.ours:
                    raise
                reason = error.stderr.strip().splitlines()[-1:]
                print(f"{case.shape.name:20} {provider.name:10} not run: {reason}", flush=True)
                continue
            sizes = {letter: getattr(case.shape, letter) for letter in "BNDL"}
            line = {"op": case.family.op, "provider": provider.name, "mode": case.mode}
            line |= {"shape": case.shape.name, **sizes, "dtype": "float32"}
            line |= {f"{name}_bytes": size for name, size in dataclasses.asdict(peak).items()}
            records.append(out, [facts | {"time": records.now()} | line])
            print(f"{case.shape.name:20} {provider.name:10} {peak.data / 1e6:9.1f} MB", flush=True)


# --- figures ------------------------------------------------------------------------------------


def draw_time(lines, path):
    """Time against N on logarithmic axes, with the line c N log N through our last point."""
    figure, axes = _axes(lines, "time, ms: median, bar from 20 % to 80 %")
    for name, style, own in _series(lines):
        middle = [line["ms_p50"] for line in own]
        low = [line["ms_p50"] - line["ms_p20"] for line in own]
        high = [line["ms_p80"] - line["ms_p50"] for line in own]
        sizes = [line["N"] for line in own]
        axes.errorbar(sizes, middle, [low, high], capsize=2, label=name, **style)
        if name == "otkernels":
            factor = middle[-1] / _n_log_n(sizes[-1])
            law = [factor * _n_log_n(n) for n in sizes]
            axes.plot(sizes, law, "k--", linewidth=1, label="N log N", zorder=3)
    _save(figure, axes, path)


def draw_memory(lines, path):
    """Peak memory beyond the imports against N, with what the data alone take, and the goal."""
    figure, axes = _axes(lines, "peak beyond interpreter and imports, MB")
    for name, style, own in _series(lines):
        sizes = [line["N"] for line in own]
        axes.plot(sizes, [_data(line) / 1e6 for line in own], label=name, **style)
        if name == "otkernels":
            held = [12 * line["N"] * line["D"] / 1e6 for line in own]
            axes.plot(sizes, held, "k--", linewidth=1, label="x, y and the gradient alone")
    axes.plot(LIMIT_N, LIMIT_BYTES / 1e6, "k_", markersize=20, label="goal")
    _save(figure, axes, path)


def _axes(lines, label):
    if not lines:
        raise CannotRun("no record of a committed tree to draw")
    facts = lines[-1]
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    axes.set(xlabel="N points in each cloud", ylabel=label)
    axes.set_title(
        f"sliced_wasserstein, D = {facts['D']}, L = {facts['L']}, value and gradient, float32\n"
        f"{facts['device_name']}, {facts['threads']} CPU thread(s), torch {facts['torch']}, "
        f"POT {facts['pot']}, {facts['time'][:10]}",
        fontsize=9,
    )
    return figure, axes


def _series(lines):
    """Name, style and records in the order of N of each provider."""
    for name, color, marker in zip(PROVIDERS, ("C0", "C2", "C4"), "oDv", strict=True):
        own = [line for line in lines if line["provider"] == name]
        if own:
            style = {"color": color, "marker": marker, "markersize": 5}
            yield name, style, sorted(own, key=lambda line: line["N"])


def _save(figure, axes, path):
    axes.set(xscale="log", yscale="log")  # after the data, which then set the limits
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


# --- tables -------------------------------------------------------------------------------------


def text(times, memories):
    """Both tables in Markdown, each under what it was measured with."""
    parts = []
    if times:
        head = ["N", *(f"{name}, ms" for name in PROVIDERS), "otkernels, ns / (L N log₂ N)"]
        parts += [page.facts(times), page.table(head, _rows(times, _time, _unit))]
    if memories:
        head = ["N", *(f"{name}, MB" for name in PROVIDERS), "otkernels with imports, MB"]
        parts += [page.facts(memories), page.table(head, _rows(memories, _megabytes, _total))]
        parts += [_verdict(memories)]
    return "\n".join(parts)


def _rows(lines, cell, last):
    by_place = {(line["N"], line["provider"]): line for line in lines}
    for n in sorted({line["N"] for line in lines}):
        own = [by_place.get((n, name)) for name in PROVIDERS]
        yield [f"{n}", *("–" if line is None else cell(line) for line in own), last(own[0])]


def _time(line):
    return f"{line['ms_p50']:.3g}" if line["ms_p50"] < 1000 else f"{line['ms_p50']:.0f}"


def _unit(line):
    return f"{1e6 * line['ms_p50'] / line['L'] / _n_log_n(line['N']):.2f}"


def _n_log_n(n):
    return n * math.log2(n)


def _megabytes(line):
    return f"{_data(line) / 1e6:.1f}"


def _total(line):
    return f"{line['total_bytes'] / 1e6:.0f}"


def _data(line):
    return line["total_bytes"] - line["imports_bytes"]


def _verdict(lines):
    """Whether the goal is met, in words."""
    found = [li for li in lines if (li["provider"], li["N"]) == ("otkernels", LIMIT_N)]
    goal = f"Goal: less than {LIMIT_BYTES / 1e6:.0f} MB beyond the imports at N = {LIMIT_N}"
    if not found:
        return f"{goal}: not measured.\n"
    (line,) = found
    met = "met" if _data(line) < LIMIT_BYTES else "**missed**"
    inputs, call = (
        (line[a] - line[b]) / 1e6
        for a, b in (("inputs_bytes", "imports_bytes"), ("total_bytes", "inputs_bytes"))
    )
    return f"{goal}: {met}, with {inputs:.0f} MB for the inputs and {call:.0f} MB for the call.\n"
