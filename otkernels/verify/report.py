"""How a result reads: lines of the table for a terminal, plain objects for JSON."""

import math
from collections import Counter

import numpy as np

from .check import FAIL, PASS, REFUSED, Comparison

__all__ = ["heading", "line", "plain", "summary"]

PEER_WIDTH = 16
KERNEL_WIDTH = 8
# Title and width of each column; text to the left, numbers to the right.
COLUMNS = (
    ("impl", -6),
    ("dtype", -8),
    ("case", -24),
    ("with", -13),
    ("value", 9),
    ("error", 7),
    ("bound", 7),
    ("grad", 7),
    ("bound", 7),
    ("worst", 5),
    ("peer val    grad", PEER_WIDTH),
    ("verdict", -7),
)


def heading(op):
    """Title of one entry's part of the table, and its column names."""
    peer = f"; peer: {op.peer.name}" if op.peer else ""
    titles = _join([title for title, _ in COLUMNS])
    return f"\n{op.name}, against {op.against}{peer}\n{titles}"


def line(row):
    """One row of the table, with the reason of a failure below it."""
    cells = [row.impl, row.dtype, row.case, _text(row.settings)]
    if not row.quantities:
        cells += [""] * (len(COLUMNS) - len(cells) - 1)
    else:
        cells.append(f"{np.mean(row.values['ours']):.3e}")
        worst = max(q.formula.worst for q in row.quantities.values())
        for found in (row.quantities["value"].formula, _gradient(row, "formula")):
            cells += [_number(found.error), _number(found.bound)] if found else ["", ""]
        cells += [f"{worst:.2f}", _peer(row)]
    text = _join([*cells, row.verdict])
    return f"{text}\n       {row.reason}" if row.verdict == FAIL else text


def _text(settings):
    """The settings that differ between rows of one entry."""
    if "method" in settings:
        return settings["method"]
    if "kernel" in settings:
        bandwidth = settings.get("bandwidth")
        words = [settings["kernel"][:KERNEL_WIDTH]]
        words += [f"x{len(bandwidth)}"] if isinstance(bandwidth, tuple) else []
        words += ["U"] if settings.get("unbiased") else []
        return " ".join(words)
    return f"p={settings['p']}" if "p" in settings else ""


def _gradient(row, whose):
    """The comparison of the gradient that is furthest from what is allowed to it, if any."""
    found = (getattr(q, whose) for name, q in row.quantities.items() if name.startswith("grad"))
    return max((c for c in found if c), key=lambda c: (math.isnan(c.worst), c.worst), default=None)


def _peer(row):
    """Difference from the peer in value and gradient, or why there is none."""
    if row.peer_reason:
        return row.peer_reason if len(row.peer_reason) <= PEER_WIDTH else "error"
    value, grad = row.quantities["value"].peer, _gradient(row, "peer")
    return " ".join(f"{_number(c.error) if c else '':>8}" for c in (value, grad)).strip()


def summary(rows, not_run, environment):
    """The lines that close the table."""
    verdicts = Counter(row.verdict for row in rows)
    refusals = Counter(row.reason for row in rows if row.verdict == REFUSED)
    peerless = Counter(row.peer_reason for row in rows if row.peer_reason)
    near_ties = max(row.near_ties for row in rows)
    uncounted = Counter(
        name
        for row in rows
        for name, q in row.quantities.items()
        if q.peer is not None and not q.counted
    )
    lines = [
        f"{len(rows)} rows: {verdicts[PASS]} pass, {verdicts[FAIL]} fail, "
        f"{verdicts[REFUSED]} refused",
        f"near ties: up to {near_ties:.1%} of the projected points of a row may change places",
        *(f"refused {n} times: {reason}" for reason, n in refusals.items()),
        *(f"without a peer {n} times: {reason}" for reason, n in peerless.items()),
        *(
            f"peer shown but not counted {n} times: {name} (docs/verification.md)"
            for name, n in uncounted.items()
        ),
        *(f"not run: {entry['what']}: {entry['reason']}" for entry in not_run),
        ", ".join(f"{name} {value}" for name, value in environment.items()),
    ]
    return "\n" + "\n".join(lines)


def plain(row):
    """The row as an object for JSON."""
    fields = row._asdict()
    fields["quantities"] = {name: _judged(q) for name, q in row.quantities.items()}
    return _finite(fields)


def _judged(quantity):
    """The norms and fields of both comparisons, null where there is none."""
    compared = {
        prefix + name: comparison and getattr(comparison, name)
        for prefix, comparison in (("", quantity.formula), ("peer_", quantity.peer))
        for name in Comparison._fields
    }
    return quantity.norms | compared | {"peer_counted": quantity.counted}


def _finite(value):
    """JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value):
    return "NaN" if math.isnan(value) else "0" if value == 0 else f"{value:.1e}"


def _join(cells):
    pairs = zip(cells, (width for _, width in COLUMNS), strict=True)
    return " ".join(f"{c:<{-w}}" if w < 0 else f"{c:>{w}}" for c, w in pairs).rstrip()
