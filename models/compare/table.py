"""The table as text: what stands in a cell, and the table in HTML and in Markdown."""

import html
import math

from ..evaluation import METRICS, Metric
from .summary import SECONDS, best, columns

__all__ = ["COLUMNS", "as_html", "as_markdown", "cell_text", "references", "shown", "split"]

COLUMNS = {
    **METRICS,
    SECONDS: Metric(
        "seconds an epoch", "s", "none",
        "training alone, without validation, with as many runs at once as the command says", ".3f",
    ),
}  # fmt: skip
REFERENCES = {metric.reference for metric in METRICS.values()}
# What the tables are about: one would be too wide. Metrics of samples are all the others.
OF_CODES = ("code_", "prior_")  # what their keys begin with
OF_ITEMS = ("mse_per_pixel", "sharpness_reconstructions", "knn_accuracy", SECONDS)
# Of the small table for documents.
SHORT = (
    "fd", "one_nn", "classes", "sample_mmd", "sample_sw2", "mse_per_pixel", "code_mmd", "code_sw2",
    SECONDS,
)  # fmt: skip


def shown(lines):
    """The columns: what was measured, less the references, which have a line of their own."""
    return [key for key in columns(lines) if key not in REFERENCES]


def split(keys):
    """The columns of each table: samples; codes; reconstructions and time."""
    codes = [key for key in keys if key.startswith(OF_CODES)]
    items = [key for key in keys if key in OF_ITEMS]
    return [[key for key in keys if key not in (*codes, *items)], codes, items]


def cell_text(cell, format_):
    """Mean and standard deviation.

    >>> from .summary import Cell
    >>> cell_text(Cell(4.316, 0.2, 3), ".2f")
    '4.32 ± 0.20'
    >>> cell_text(Cell(4.316, None, 1), ".2f")
    '4.32'
    """
    mean = format(cell.mean, format_)
    return mean if cell.sd is None else f"{mean} ± {format(cell.sd, format_)}"


def references(lines, keys):
    """What a perfect match gives in each column: a number, or its range over lines and seeds."""
    texts = {}
    for key in keys:
        reference = COLUMNS[key].reference
        means = [line.cells[reference].mean for line in lines if reference in line.cells]
        means = [mean for mean in means if math.isfinite(mean)]
        ends = (
            [format(end, COLUMNS[key].format) for end in (min(means), max(means))] if means else []
        )
        texts[key] = " to ".join(dict.fromkeys(ends))
    return texts


def as_markdown(lines):
    """The columns of :data:`SHORT`, the best in bold where it is ahead of the spread."""
    keys = [key for key in shown(lines) if key in SHORT]
    head = ["", *(COLUMNS[key].name for key in keys)]
    body = [[line.row.title, *_cells(lines, line, keys, "**{}**")] for line in lines]
    last = ["real data or a perfect match", *references(lines, keys).values()]
    rows = [head, ["---"] * len(head), *body, last]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_html(lines, keys):
    """The columns ``keys``, as the body of a table element."""
    head = "".join(_heading(COLUMNS[key]) for key in keys)
    rows = [f"<tr><th></th>{head}</tr>"]
    for line in lines:
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(lines, line, keys, "<b>{}</b>"))
        rows.append(f"<tr><th>{html.escape(line.row.title)}</th>{cells}</tr>")
    cells = "".join(f"<td>{text}</td>" for text in references(lines, keys).values())
    rows.append(f'<tr class="reference"><th>real data or a perfect match</th>{cells}</tr>')
    return "\n".join(rows)


def _heading(metric):
    arrow = {"low": " ↓", "high": " ↑"}.get(metric.better, "")
    unit = f"<br><small>{html.escape(metric.unit)}</small>" if metric.unit else ""
    title = html.escape(metric.description, quote=True)
    return f'<th title="{title}">{html.escape(metric.name)}{arrow}{unit}</th>'


def _cells(lines, line, keys, bold):
    """Text of the cells of a line; a line without any result says that it failed."""
    if not line.cells:
        return ["failed", *[""] * (len(keys) - 1)]
    texts = []
    for key in keys:
        cell = line.cells.get(key)
        text = "" if cell is None else cell_text(cell, COLUMNS[key].format)
        texts.append(bold.format(text) if line is best(lines, key) else text)
    return texts
