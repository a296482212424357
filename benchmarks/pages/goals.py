"""The goals beside what the records say about them."""

from .. import cases
from . import page

UNITS = {"speedup": "×", "cost": "×", "ms": " ms", "memory": ""}
ABSENT = {"cpu": "not measured", "cuda": "not yet measured on a GPU"}


def section(device, lines):
    """A sentence and a table: every goal for a device, reached or not.

    Args:
        device: "cpu" or "cuda".
        lines: the newest records of one machine.
    """
    found = [
        (family, goal, measured(goal, [line for line in lines if line["op"] == family.op]))
        for family in cases.FAMILIES
        for goal in family.goals
        if goal.device == device
    ]
    if not found:
        return ""
    head = ["goal, value and gradient to x", "clock", "target", "measured", "ratio", "why short"]
    rows = [_row(*each, lines) for each in found]
    return f"{_summary(found)}\n\n{page.table(head, rows, words=head[-1:])}"


def measured(goal, lines):
    """What the records of one op say about a goal, or None."""
    field = "peak_bytes" if goal.quantity == "memory" else "ms_p50"
    ours = _at(goal, lines, "otkernels").get(field)
    peer = _at(goal, lines, goal.against).get(field)
    if goal.quantity == "ms":
        return ours
    if not ours or not peer:
        return None
    return peer / ours if goal.quantity == "speedup" else ours / peer


def ratio(goal, value):
    """How much of a goal is reached: 1 or more is all of it."""
    return value / goal.target if goal.quantity == "speedup" else goal.target / value


def _at(goal, lines, provider):
    """The record of a provider that a goal is read from."""
    place = (goal.shape, "forward_backward", goal.clock, provider)
    names = ("shape", "mode", "clock", "provider")
    return next((li for li in lines if tuple(li[name] for name in names) == place), {})


def _summary(found):
    ratios = [ratio(goal, value) for _, goal, value in found if value is not None]
    reached = sum(r >= 1 for r in ratios)
    open_ = len(found) - len(ratios)
    rest = f", {open_} not measured" if open_ else ""
    return f"**Goals: {reached} reached, {len(ratios) - reached} missed{rest}.**"


def _row(family, goal, value, lines):
    text = f"`{family.op}` {goal.shape}: {_what(goal)}"
    sign = "≥" if goal.quantity == "speedup" else "≤"
    unit = UNITS[goal.quantity]
    row = [text, goal.clock, f"{sign} {goal.target:g}{unit}"]
    if value is None:
        own = [line for line in lines if line["op"] == family.op]
        return [*row, ABSENT[goal.device] if not lines else "not measured", "–", _gap(goal, own)]
    reached = ratio(goal, value)
    row.append(f"{page.number(value)}{unit}")
    return [*row, *((f"{reached:.3g}", "") if reached >= 1 else (f"**{reached:.3g}**", goal.why))]


def _what(goal):
    return {
        "ms": "time",
        "memory": f"peak memory over {goal.against}",
        "cost": f"time over that of {goal.against}",
        "speedup": f"speed over {goal.against}",
    }[goal.quantity]


def _gap(goal, lines):
    """Why there is no number, where a record says so."""
    reasons = dict.fromkeys(
        f"{line['provider']}: {page.verbatim(line['missing'])}"
        for line in lines
        if line["missing"]
        and line["shape"] == goal.shape
        and line["provider"] in ("otkernels", goal.against)
        and line["clock"] in (None, goal.clock)
        and line["mode"] == "forward_backward"
    )
    return "; ".join(reasons)
