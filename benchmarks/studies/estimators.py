"""Estimators of the MMD against the exact one, and the permutation test: their error, time, power.

``python -m benchmarks.studies.estimators`` measures, appends records to
results/estimators/cpu.jsonl, and writes the figure and the tables of docs/estimators.md from them;
with --plot only the last two.
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
from .directions import newest, select

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent.parent
RESULTS = HERE / "results" / "estimators" / "cpu.jsonl"
DOC = HERE.parent / "docs" / "estimators.md"
FIGURE = HERE.parent / "docs" / "figures" / "estimators.png"

KERNELS = ("gaussian", "laplacian", "imq")
FEATURES = tuple(2**k for k in range(4, 13))
TABLE_FEATURES = (16, 64, 256, 1024, 4096)
PAIRS = {"shifted": "shifted clouds", "same law": "two samples of one law"}
D, POINTS, LARGE = 16, 256, 10_000
TIMED_MODES = {"forward": "value", "forward_backward": "value and gradient to x"}
SHIFT = 0.5  # length of the mean difference of the large samples
WIDTH = 4.0  # their bandwidth, about their median distance over sqrt(2)
TESTED = ("gaussian", "laplacian", "energy")
TEST_SIZE, TEST_D, PERMUTATIONS = 50, 5, 199
TEST_FACTS = f"N = M = {TEST_SIZE}, D = {TEST_D}, {PERMUTATIONS} permutations"
SHIFTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LEVELS = (0.01, 0.05, 0.1)
TIMED_TEST = 1000  # points of each sample of the test that is timed, with as many permutations


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.estimators")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--draws", type=int, default=200, help="frequencies drawn for each point")
    parser.add_argument("--samples", type=int, default=100, help="large samples drawn")
    parser.add_argument("--tests", type=int, default=2000, help="tests for each shift")
    parser.add_argument("--seconds", type=float, default=60.0, help="time budget of each timing")
    for name, path in (("records", RESULTS), ("figure", FIGURE), ("doc", DOC)):
        parser.add_argument(f"--{name}", type=Path, default=path, metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    try:
        if not options.plot:
            measure(options)
        lines = newest(records.read([options.records]), options.allow_dirty)
        draw(lines, options.figure)
        page.write(options.doc, tables(lines))
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.estimators: {error}", file=sys.stderr)
        return 2
    return 0


# --- measure ------------------------------------------------------------------------------------


def measure(options):
    """Append one record for each error, rate and time; each part's as soon as it is done."""
    torch.set_num_threads(1)
    facts = {"run": records.now(), **records.environment("cpu")}
    parts = [feature_errors(pair, kernel, options.draws) for pair in PAIRS for kernel in KERNELS]
    parts += [rejections(kernel, options.tests) for kernel in TESTED]
    parts += [large_errors(options.samples), large_times(options.seconds)]
    parts += [permutation_times(options.seconds)]
    for part in parts:
        for line in part:
            records.append(options.records, [facts | line])
            print(*(f"{k}={v}" for k, v in line.items()), flush=True)


def feature_errors(pair, kernel, draws):
    """Records: relative root mean square error of random features against the exact MMD^2."""
    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, POINTS, D, generator=stream, dtype=torch.float64)
    y = y + 2 / D**0.5 if pair == "shifted" else y
    options = {"kernel": kernel, "bandwidth": otkernels.median_bandwidth(x, y)}
    truth = otkernels.mmd(x, y, impl="torch", **options)
    for n in FEATURES:
        stream.manual_seed(n)
        options |= {"n_features": n, "generator": stream}
        found = [otkernels.mmd_random_features(x, y, **options) for _ in range(draws)]
        error = torch.stack(found) / truth - 1
        bias = {"bias": error.mean().item(), "bias_error": error.std().item() / draws**0.5}
        line = {"kind": "features", "pair": pair, "kernel": kernel, "F": n, "draws": draws}
        yield line | rms(error) | bias


def rms(error):
    """Root mean square of independent errors, and its standard error."""
    square = error.square()
    value = square.mean().sqrt().item()
    return {"rms": value, "rms_error": square.std().item() / len(error) ** 0.5 / (2 * value)}


def rejections(kernel, tests):
    """Records: how often the permutation test rejects, by shift and level."""
    for shift in SHIFTS:
        stream = torch.Generator().manual_seed(int(10 * shift))
        x, y = torch.randn(2, tests, TEST_SIZE, TEST_D, generator=stream)
        y[..., 0] += shift
        options = {"n_permutations": PERMUTATIONS, "generator": stream}
        p = otkernels.mmd_test(x, y, kernel=kernel, **options).p_value
        rates = {f"rejects_{level:g}": (p <= level).double().mean().item() for level in LEVELS}
        yield {"kind": "test", "kernel": kernel, "shift": shift, "tests": tests} | rates


def large_estimates():
    """Name -> unbiased estimate of the Gaussian kernel's MMD^2 of two samples."""
    s = WIDTH
    found = {"mmd": lambda x, y: otkernels.mmd(x, y, bandwidth=s, unbiased=True)}
    for n in (20, 200, 2000):
        found[f"mmd_blocks, block_size={n}"] = lambda x, y, n=n: (
            otkernels.mmd_blocks(x, y, block_size=n, bandwidth=s).value
        )
    for n in (64, 256, 1024):
        found[f"mmd_random_features, n_features={n}"] = lambda x, y, n=n: (
            otkernels.mmd_random_features(x, y, n_features=n, bandwidth=s, unbiased=True)
        )
    return found


def large_samples(stream):
    """Two normal samples (LARGE, D), and MMD^2 between their laws in closed form."""
    x, y = torch.randn(2, LARGE, D, generator=stream)
    same = (WIDTH**2 / (WIDTH**2 + 2)) ** (D / 2)
    truth = 2 * same * -math.expm1(-(SHIFT**2) / (2 * (WIDTH**2 + 2)))
    return x, y + SHIFT / D**0.5, truth


def large_errors(samples):
    """Records: relative root mean square error of each estimate against the truth of the laws."""
    stream = torch.Generator().manual_seed(1)
    drawn = [large_samples(stream) for _ in range(samples)]
    torch.manual_seed(2)
    for name, estimate in large_estimates().items():
        error = [estimate(x, y).double() / truth - 1 for x, y, truth in drawn]
        line = {"kind": "large error", "estimate": name, "samples": samples}
        yield line | rms(torch.stack(error))


def large_times(seconds):
    """Records: time of each estimate, and of it with its gradient to x, interleaved."""
    x, y, _ = large_samples(torch.Generator().manual_seed(1))
    calls = {
        (name, mode): timing.Call(estimate, (x, y), mode)
        for name, estimate in large_estimates().items()
        for mode in TIMED_MODES
    }
    for (name, mode), line in times(calls, seconds):
        yield {"kind": "large time", "estimate": name, "mode": mode} | line


def permutation_times(seconds):
    """Records: time of a permutation test, and of one exact MMD of its samples."""
    stream = torch.Generator().manual_seed(0)
    clouds = torch.randn(2, TIMED_TEST, D, generator=stream).unbind()
    options = {"bandwidth": WIDTH, "n_permutations": TIMED_TEST, "generator": stream}
    functions = {"mmd": large_estimates()["mmd"]}
    functions["mmd_test"] = lambda x, y: otkernels.mmd_test(x, y, **options).p_value
    calls = {name: timing.Call(f, clouds, "forward") for name, f in functions.items()}
    for name, line in times(calls, seconds):
        yield {"kind": "test time", "call": name} | line


def times(calls, seconds):
    """(name, fields of a record) of calls in turn."""
    for call in calls.values():
        timing.warm_up(call)
    for name, readings in timing.interleave(calls, clocks.host, seconds).items():
        ms = {f"ms_p{q}": float(np.percentile(readings["wall"], q)) for q in (20, 50, 80)}
        yield name, ms | {"repetitions": len(readings["wall"])}


# --- draw ---------------------------------------------------------------------------------------


def draw(lines, path):
    """Errors of random features for both pairs of clouds, and the power of the test."""
    figure, (*left, right) = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
    for axes, (pair, title) in zip(left, PAIRS.items(), strict=True):
        _errors(axes, select(lines, kind="features", pair=pair))
        axes.set_title(f"random features, {title}, D = {D}", fontsize=9)
    left[0].set_ylabel("relative RMS error, bar: one standard error")
    _power(right, select(lines, kind="test"))
    for axes in (*left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _errors(axes, lines):
    sizes = np.array(FEATURES)
    for kernel, marker in zip(KERNELS, "osD", strict=True):
        own = [select(lines, kernel=kernel, F=n)[0] for n in FEATURES]
        error, bar = ([line[field] for line in own] for field in ("rms", "rms_error"))
        axes.errorbar(sizes, error, bar, marker=marker, markersize=5, capsize=2, label=kernel)
    guide = 1.5 * max(line["rms"] for line in lines) * (sizes / sizes[0]) ** -0.5
    axes.plot(sizes, guide, "--", color="0.6", linewidth=1, label="$F^{-1/2}$")
    axes.set(yscale="log", xlabel="features, F")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes], fontsize=8)


def _power(axes, lines):
    for kernel, marker in zip(TESTED, "os^", strict=True):
        own = [select(lines, kernel=kernel, shift=shift)[0] for shift in SHIFTS]
        rates = np.array([line["rejects_0.05"] for line in own])
        bar = np.sqrt(rates * (1 - rates) / own[0]["tests"])
        axes.errorbar(SHIFTS, rates, bar, marker=marker, markersize=5, capsize=2, label=kernel)
    axes.axhline(0.05, color="0.6", linestyle="--", linewidth=1, label="level, 5 %")
    axes.set_title(f"mmd_test, {TEST_FACTS}", fontsize=9)
    axes.set(xlabel="shift of one coordinate", ylabel="share of tests with p ≤ 0.05")


# --- tables -------------------------------------------------------------------------------------


def tables(lines):
    """All records in Markdown."""
    facts, kinds = lines[0], ("large error", "large time", "features", "test", "test time")
    large, timed, features, tests, one_test = (select(lines, kind=kind) for kind in kinds)
    parts = [
        f"Run {facts['run']}, {facts['device_name']}, one thread, torch {facts['torch']}, "
        f"commit `{str(facts['commit'])[:10]}`{' (edited)' * (facts['dirty'] is not False)}.\n",
        f"Large samples, N = M = {LARGE}, D = {D}, float32, {large[0]['samples']} pairs of them:\n",
        _large_table(large, timed),
        f"Random features, N = M = {POINTS}, D = {D}, relative RMS error over "
        f"{features[0]['draws']} draws of the frequencies:\n",
        _feature_table(features),
        f"`mmd_test`, {TEST_FACTS}, share of {tests[0]['tests']} tests that reject:\n",
        _test_table(tests),
        _test_times(one_test),
    ]
    return "\n".join(parts)


def _large_table(errors, timed):
    head = ["estimate", "relative RMS error"]
    head += [f"ms, {mode}: median (20 %, 80 %)" for mode in TIMED_MODES.values()]
    rows = []
    for line in errors:
        name, cell = line["estimate"], "{ms_p50:.4g} ({ms_p20:.4g}, {ms_p80:.4g})"
        own = [select(timed, estimate=name, mode=mode)[0] for mode in TIMED_MODES]
        error = f"{line['rms']:.1%} ± {line['rms_error']:.1%}"
        rows.append([f"`{name}`", error, *(cell.format(**line) for line in own)])
    return page.table(head, rows)


def _feature_table(lines):
    head = ["clouds", "kernel", *(f"F = {n}" for n in TABLE_FEATURES), "slope", "largest bias"]
    rows = []
    for pair, title in PAIRS.items():
        for kernel in KERNELS:
            own = select(lines, pair=pair, kernel=kernel)
            found = [select(own, F=n)[0] for n in TABLE_FEATURES]
            slope, _ = np.polyfit(np.log(FEATURES), np.log([line["rms"] for line in own]), 1)
            bias = max(abs(line["bias"]) / line["bias_error"] for line in own)
            cells = (f"{line['rms']:.2e} ± {line['rms_error']:.0e}" for line in found)
            rows.append([title, kernel, *cells, f"{slope:.2f}", f"{bias:.1f} standard errors"])
    return page.table(head, rows)


def _test_table(lines):
    levels = (f"no shift, p ≤ {level:g}" for level in LEVELS)
    head = ["kernel", *levels, *(f"shift {shift:g}, 0.05" for shift in SHIFTS[1:])]
    rows = []
    for kernel in TESTED:
        null, *shifted = (select(lines, kernel=kernel, shift=shift)[0] for shift in SHIFTS)
        rates = [null[f"rejects_{level:g}"] for level in LEVELS]
        rates += [line["rejects_0.05"] for line in shifted]
        cells = (f"{r:.1%} ± {math.sqrt(r * (1 - r) / null['tests']):.1%}" for r in rates)
        rows.append([kernel, *cells])
    return page.table(head, rows)


def _test_times(lines):
    test, one = (select(lines, call=call)[0]["ms_p50"] for call in ("mmd_test", "mmd"))
    size = f"N = M = {TIMED_TEST}, D = {D}, {TIMED_TEST} permutations"
    return f"`mmd_test`, {size}: {test:.0f} ms; one `mmd` of the same samples: {one:.3g} ms.\n"


if __name__ == "__main__":
    sys.exit(main())
