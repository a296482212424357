"""Means and spreads over seeds, the best of every column, and the files that hold them."""

import csv
import math
import statistics
from dataclasses import dataclass

from ..evaluation import METRICS
from .rows import order, rows_of

__all__ = [
    "SECONDS",
    "Cell",
    "Line",
    "best",
    "columns",
    "lines",
    "values_of",
    "write_results",
    "write_summary",
]

SECONDS = "seconds_per_epoch"


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds: mean, sample standard deviation (None for one seed), count."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values):
        """The cell of a list of numbers.

        >>> Cell.of([1.0, 2.0, 3.0])
        Cell(mean=2.0, sd=1.0, n=3)
        """
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, len(values))


@dataclass(frozen=True)
class Line:
    """A row of the table: its cells by metric, and why runs that are missing failed."""

    row: object
    cells: dict
    failures: tuple


def lines(results):
    """Lines of the table in its order, from [(job, result)]."""
    systems = sorted({job.system for job, _ in results}, key=order)
    return [_line(row, results) for system in systems for row in rows_of(system)]


def _line(row, results):
    own = sorted(((j, r) for j, r in results if j.system == row.system), key=lambda p: p[0].seed)
    failures = tuple(f"seed {j.seed}: {r['failed']}" for j, r in own if "failed" in r)
    values = [values_of(row, result) for _, result in own if "failed" not in result]
    keys = [key for key in (*METRICS, SECONDS) if any(key in v for v in values)]
    cells = {key: Cell.of([v[key] for v in values if key in v]) for key in keys}
    return Line(row, cells, failures)


def values_of(row, result):
    """The figures of one run in a row, by name."""
    return {**result["metrics"][row.law], SECONDS: result[SECONDS]}


def best(lines, key):
    """The line that is best in a column, or None where that is not more than the spread.

    The best mean must be ahead of every other by more than the two standard deviations together.
    Means beyond what real data or a perfect match give count as just that: an unbiased MMD of
    -0.002 is no better than one of 0. Lines without a spread (one seed), those with failed runs
    and bounds do not take part; with fewer than two lines left nothing is best.
    """
    metric = METRICS.get(key)
    if metric is None or metric.better == "none":
        return None
    rivals = [
        (_distance(line, key, metric), line.cells[key].sd, line)
        for line in lines
        if key in line.cells and line.row.competes and not line.failures
    ]
    rivals = [(far, sd, line) for far, sd, line in rivals if sd is not None and math.isfinite(far)]
    if len(rivals) < 2:
        return None
    first, *others = sorted(rivals, key=lambda rival: rival[0])
    clear = all(far - first[0] > first[1] + sd for far, sd, _ in others)
    return first[2] if clear else None


def _distance(line, key, metric):
    """How far the mean is on the wrong side of the reference; 0 where it is beyond it."""
    mean, reference = line.cells[key].mean, line.cells.get(metric.reference)
    if metric.better == "low":
        return max(mean - (reference.mean if reference else 0.0), 0.0)
    return max(reference.mean - mean, 0.0) if reference else -mean


def columns(lines):
    """The metrics that the table has, in the order of the evaluation; seconds come last."""
    return [key for key in (*METRICS, SECONDS) if any(key in line.cells for line in lines)]


def write_results(results, path):
    """One line for every run and law."""
    records = []
    for job, result in results:
        for row in rows_of(job.system):
            record = {"row": row.title, "system": job.system, "law": row.law, "seed": job.seed}
            if "failed" in result:
                record["failed"] = result["failed"]
            else:
                record.update(values_of(row, result), folder=result["folder"])
            records.append(record)
    keys = list(dict.fromkeys(key for record in records for key in record))
    _write(path, keys, records)


def write_summary(lines, path):
    """One line a row: mean and standard deviation of every metric, and the number of runs."""
    records = []
    for line in lines:
        record = {"row": line.row.title, "system": line.row.system, "law": line.row.law}
        record["runs"] = max((cell.n for cell in line.cells.values()), default=0)
        record["failed"] = len(line.failures)
        for key, cell in line.cells.items():
            record[key], record[f"{key}_sd"] = cell.mean, cell.sd
        records.append(record)
    _write(path, list(dict.fromkeys(key for record in records for key in record)), records)


def _write(path, keys, records):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(records)
