"""How a result reads: lines of the table for a terminal, plain objects for JSON."""

import math
from collections import Counter

import numpy as np

from .check import FAIL, PASS, REFUSED, Comparison

__all__ = ["heading", "line", "plain", "summary"]

PEER_WIDTH = 16
# Title and width of each column; text to the left, numbers to the right.
COLUMNS = (
    ("impl", -6),
    ("dtype", -8),
    ("case", -15),
    ("with", -5),
    ("value", 9),
    ("error", 7),
    ("bound", 7),
    ("grad", 7),
    ("bound", 7),
    ("worst", 5),
    ("peer val peer grad", PEER_WIDTH),
    ("verdict", -7),
)


def heading(op):
    """Title of one op's part of the table, and its column names."""
    peer = op.peer.name if op.peer else "peer"
    return f"\n{op.name}\n" + _join([title.replace("peer", peer) for title, _ in COLUMNS])


def line(row):
    """One row of the table, with the reason of a failure below it."""
    cells = [row.impl, row.dtype, row.case, _text(row.settings)]
    if row.value is None:
        cells += [""] * (len(COLUMNS) - len(cells) - 1)
    else:
        cells.append(f"{np.mean(row.values['ours']):.3e}")
        for comparison in (row.value, row.grad):
            cells += [_number(comparison.error), _number(comparison.bound)]
        cells.append(f"{max(row.value.worst, row.grad.worst):.2f}")
        cells.append(_peer(row))
    text = _join([*cells, row.verdict])
    return f"{text}\n       {row.reason}" if row.verdict == FAIL else text


def _text(settings):
    return ",".join(f"{name}={value}" for name, value in settings.items())


def _peer(row):
    """Difference from the peer in value and gradient, or why there is none."""
    if row.peer_value is None:
        return row.peer_reason if len(row.peer_reason) <= PEER_WIDTH else "error"
    return f"{_number(row.peer_value.error)} {_number(row.peer_grad.error):>8}"


def summary(rows, not_run, environment):
    """The lines that close the table."""
    verdicts = Counter(row.verdict for row in rows)
    refusals = Counter(row.reason for row in rows if row.verdict == REFUSED)
    peerless = Counter(row.peer_reason for row in rows if row.peer_reason)
    near_ties = max(row.near_ties for row in rows)
    lines = [
        f"{len(rows)} rows: {verdicts[PASS]} pass, {verdicts[FAIL]} fail, "
        f"{verdicts[REFUSED]} refused",
        f"near ties: up to {near_ties:.1%} of the projected points of a row may change places",
        *(f"refused {n} times: {reason}" for reason, n in refusals.items()),
        *(f"without a peer {n} times: {reason}" for reason, n in peerless.items()),
        *(f"not run: {entry['what']}: {entry['reason']}" for entry in not_run),
        ", ".join(f"{name} {value}" for name, value in environment.items()),
    ]
    return "\n" + "\n".join(lines)


def plain(row):
    """The row as an object for JSON."""
    names = ("op", "impl", "dtype", "case", "settings", "shapes", "verdict", "reason", "near_ties")
    return _finite(
        {
            **{name: getattr(row, name) for name in (*names, "peer_reason")},
            "value": row.values | _judged(row.value, row.peer_value),
            "gradient": row.grad_norms | _judged(row.grad, row.peer_grad),
        }
    )


def _judged(own, peer):
    """The fields of both comparisons, null where there is none."""
    return {
        prefix + name: comparison and getattr(comparison, name)
        for prefix, comparison in (("", own), ("peer_", peer))
        for name in Comparison._fields
    }


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
