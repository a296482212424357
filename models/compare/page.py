"""The page of a comparison and the files beside it."""

import html
import platform
import shlex
from pathlib import Path
from string import Template

import lightning
import torch

import otkernels

from .. import report, runs
from . import gallery, table
from .job import checkpoint_of
from .plan import configs
from .summary import lines, write_results, write_summary

__all__ = ["write"]

PAGE = Path(__file__).with_name("page.html")


def write(results, options, epochs, argv):
    """Write tables, pictures and page; returns the page's path, as seen from here.

    Args:
        results: [(job, result)] of every job.
        options: the parsed command line.
        epochs: of every job.
        argv: the command line as it was given.
    """
    out, rows = options.out, lines(results)
    write_results(results, out / "results.csv")
    write_summary(rows, out / "summary.csv")
    (out / "summary.md").write_text(table.as_markdown(rows), encoding="utf-8")
    whole = [(job, result) for job, result in results if "failed" not in result]
    pictures = gallery.draw(*_trained(rows, whole), out) if whole else []
    first = whole[0][1] if whole else {"data": options.data, "features": ""}
    text = Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Comparison on {options.data}"),
        data=html.escape(first["data"].capitalize()),
        epochs=epochs,
        steps=" or ".join(sorted({str(result["steps"]) for _, result in whole})),
        seeds=_seeds(options.seeds),
        failures=_failures(rows),
        features=_features(first["features"]),
        tables="\n".join(_table(rows, keys) for keys in table.split(table.shown(rows))),
        sections="\n".join(_section(*picture) for picture in pictures),
        rows="\n".join(_row(line, whole) for line in rows),
        configs="\n".join(_config(*pair) for pair in _paths(options).items()),
        columns="\n".join(_column(table.COLUMNS[key]) for key in table.shown(rows)),
        command=html.escape(shlex.join(["python", "-m", "models", "compare", *argv])),
        versions=html.escape(_versions(options)),
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    return report.readable(out / "index.html")


def _trained(rows, whole):
    """[(row, model)] of the first seed that each system has, and their data."""
    first = {}
    for job, result in whole:
        first.setdefault(job.system, result)
    models = {system: runs.load(checkpoint_of(result)) for system, result in first.items()}
    shown = [(line.row, models[line.row.system]) for line in rows if line.row.system in models]
    return shown, runs.load_data(checkpoint_of(whole[0][1]))


def _paths(options):
    return configs(options.data, options.systems, options.configs)


def _seeds(n):
    return (
        "one seed, 0: no spread is known, so nothing is bold" if n == 1 else f"seeds 0 to {n - 1}"
    )


def _failures(rows):
    failed = {(line.row.system, why) for line in rows for why in line.failures}
    if not failed:
        return ""
    reasons = "; ".join(f"{system}, {why}" for system, why in sorted(failed))
    return f"<b>Failed, and left out of the means:</b> {html.escape(reasons)}."


def _features(name):
    note = "It is not FID (no Inception network) and compares only with itself."
    return f"FD: Frechet distance in the features of: {html.escape(name)}. {note}" if name else ""


def _table(rows, keys):
    return f'<div class="wide"><table>\n{table.as_html(rows, keys)}\n</table></div>'


def _section(name, heading, caption):
    return (
        f"<section><h2>{heading}</h2><p>{caption}</p>"
        f'<img src="{name}" alt="{heading} of every row"></section>'
    )


def _row(line, whole):
    """What a row is and what it minimises."""
    objectives = {result["objective"] for job, result in whole if job.system == line.row.system}
    texts = (line.row.description, "; ".join(sorted(objectives)))
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
    return f"<tr><th>{html.escape(line.row.title)}</th>{cells}</tr>"


def _column(metric):
    return f"<tr><th>{html.escape(metric.name)}</th><td>{html.escape(metric.description)}</td></tr>"


def _config(system, path):
    text = html.escape(path.read_text(encoding="utf-8"))
    return f"<details><summary>Settings: {html.escape(system)}</summary><pre>{text}</pre></details>"


def _versions(options):
    return (
        f"otkernels {otkernels.__version__}, torch {torch.__version__}, lightning "
        f"{lightning.__version__}, Python {platform.python_version()}; {options.jobs} runs at a "
        f"time on {options.accelerator}, one thread each"
    )
