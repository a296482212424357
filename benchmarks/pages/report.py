"""Tables in Markdown from records, and their place in the docs."""

from .. import CannotRun, cases, records
from ..case import MODES

NO_GPU = "**Not yet measured on a GPU.** No record, estimate or extrapolation stands in for it."


def write(doc, text, block="records"):
    """Replace what stands between the two markers of a block in a file.

    Raises:
        CannotRun: the markers are missing.
    """
    begin, end = (f"<!-- {block}: {word} -->" for word in ("begin", "end"))
    page = doc.read_text()
    if begin not in page or end not in page.partition(begin)[2]:
        raise CannotRun(f"{doc.name} must hold the lines {begin} and {end}")
    before, _, rest = page.partition(begin)
    doc.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}")


def text(lines, allow_dirty=False):
    """The tables of all machines: times and ratios, errors, memory, goals."""
    lines = records.newest(lines, allow_dirty)
    machines = {(li["device"], li["device_name"], li["threads"]): [] for li in lines}
    for line in lines:
        machines[line["device"], line["device_name"], line["threads"]].append(line)
    parts = []
    for device in ("cpu", "cuda"):
        parts.append(f"### {'CPU' if device == 'cpu' else 'GPU'}\n")
        own = [group for key, group in machines.items() if key[0] == device]
        parts += [part for group in own for part in _machine(group)]
        if not own:
            parts.append(f"{NO_GPU if device == 'cuda' else 'No records yet.'}\n")
            parts += [_goals(family, device, []) for family in cases.FAMILIES]
    return "\n".join(part for part in parts if part)


def _machine(lines):
    yield facts(lines)
    for family in cases.FAMILIES:
        own = [line for line in lines if line["op"] == family.op]
        if not own:
            continue
        yield f"#### `{family.op}`{'' if family.p is None else f', p = {family.p}'}\n"
        yield family.note and f"{family.note}\n"
        yield _figures(own)
        yield _goals(family, own[0]["device"], own)
        yield _slower(family, own)
        for mode in MODES:
            for clock in ("wall", "events", "graph"):
                yield _times(family, own, mode, clock)
        yield _errors(family, own)
        yield _memory(family, own)
        yield _missing(family, own)


def facts(lines):
    """What some records were measured with, in a line."""

    def all_of(name):
        return ", ".join(sorted({str(line[name]) for line in lines}))

    edited = (
        " **with uncommitted changes**" if any(li["dirty"] is not False for li in lines) else ""
    )
    commits = ", ".join(sorted({(line["commit"] or "unknown")[:10] for line in lines}))
    days = ", ".join(sorted({line["time"][:10] for line in lines}))
    driver = "" if lines[0]["device"] == "cpu" else f"driver {all_of('driver')}, "
    # Older records do not name them: their families have no such provider.
    peers = {"GeomLoss": "geomloss", "KeOps": "pykeops"}
    found = {title: {li[name] for li in lines if li.get(name)} for title, name in peers.items()}
    others = "".join(f", {title} {', '.join(sorted(v))}" for title, v in found.items() if v)
    return (
        f"{all_of('device_name')}, {all_of('simd')}, CPU threads: {all_of('threads')}, {driver}"
        f"Python {all_of('python')}, torch {all_of('torch')}, Triton {all_of('triton')}, "
        f"NumPy {all_of('numpy')}, POT {all_of('pot')}{others}; commit {commits}{edited}; {days}.\n"
    )


def table(head, rows):
    """A table in Markdown, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def _grid(family, lines, title, cell):
    """A table of shapes by providers; ``cell`` turns (record, otkernels' record) into text."""
    by_place = {(line["shape"], line["provider"]): line for line in lines}
    names = [p.name for p in family.providers]
    shapes = dict.fromkeys(line["shape"] for line in lines)
    rows = []
    for shape in shapes:
        ours = by_place.get((shape, "otkernels"))
        places = [by_place.get((shape, name)) for name in names]
        rows.append([shape, *("–" if line is None else cell(line, ours) for line in places)])
    return f"{title}\n\n{table(['shape', *names], rows)}" if rows else ""


def _figures(lines):
    """What ``plot`` draws of them."""
    mode = "forward_backward"
    clocks = {line["clock"] for line in lines if line["mode"] == mode and line["ms_p50"]}
    names = (
        records.figure_name(*(lines[0][key] for key in ("op", "device", "threads")), clock, mode)
        for clock in sorted(clocks)
    )
    return "".join(f"![time and error against size](figures/{name})\n" for name in names)


def _times(family, lines, mode, clock):
    lines = [
        line
        for line in lines
        if (line["mode"], line["clock"]) == (mode, clock) and line["ms_p50"] is not None
    ]

    def cell(line, ours):
        ms = line["ms_p50"]
        time = f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"
        if ours is None or line is ours:
            return time
        ratio = line["ms_p50"] / ours["ms_p50"]
        return f"{time} ({ratio:.2g}×)" if ratio >= 1 else f"{time} (**{ratio:.2g}×**)"

    title = f"Median ms, {mode.replace('_', ' ')}, {clock} clock (times otkernels' median)."
    return _grid(family, lines, title, cell)


def _errors(family, lines):
    lines = [
        line
        for line in lines
        if (line["mode"], line["clock"]) == ("forward_backward", "wall") and not line["missing"]
    ]

    def cell(line, _):
        return f"{line['error_value']:.0e} / {line['error_grad']:.0e}"

    return _grid(family, lines, "Error of value / of gradient against float64.", cell)


def _memory(family, lines):
    lines = [
        line
        for line in lines
        if (line["mode"], line["clock"]) == ("forward_backward", "wall")
        and line["peak_bytes"] is not None
    ]
    title = "Peak memory above the inputs in MB, forward backward."
    return _grid(family, lines, title, lambda line, _: f"{line['peak_bytes'] / 1e6:.1f}")


def _slower(family, lines):
    """Where a peer beats us, in words, so that no table has to be searched for it."""
    yardsticks = {p.name for p in family.providers if p.yardstick}
    lines = [line for line in lines if line["provider"] not in yardsticks]
    ours = {_place(li): li["ms_p50"] for li in lines if li["provider"] == "otkernels"}
    lost = dict.fromkeys(
        f"{line['shape']} {line['mode']} ({line['clock']}, {line['provider']})"
        for line in lines
        if line["ms_p50"] and ours.get(_place(line)) and line["ms_p50"] < ours[_place(line)]
    )
    found = "".join(f"\n- {place}" for place in lost)
    return f"Slower than a peer at:\n{found}\n" if lost else "Slower than a peer: nowhere.\n"


def _place(line):
    return line["shape"], line["mode"], line["clock"]


def _missing(family, lines):
    """What could not run, and what was left out where, with the reasons."""
    reasons = dict.fromkeys(
        f"{line['provider']}, {line['shape']} {line['mode']} {line['clock'] or ''}: "
        f"{line['missing']}"
        for line in lines
        if line["missing"]
    )
    device, here = lines[0]["device"], {line["shape"] for line in lines}
    reasons |= {
        f"{provider.name}, {shape.name}: left out, {why}": None
        for shape in family.shapes[device]
        for provider in family.providers
        if shape.name in here and (why := provider.left_out(device, shape))
    }
    found = "".join(f"\n- {reason}" for reason in reasons)
    return f"Not run:\n{found}\n" if reasons else ""


def _goals(family, device, lines):
    rows = []
    for goal in family.goals:
        if goal.device == device:
            measured = _measured(goal, lines)
            rows.append([*_goal_text(goal), *_verdict(goal, measured)])
    head = ["goal, forward and gradient to x", "clock", "target", "measured", "reached"]
    return table(head, rows) if rows else ""


def _goal_text(goal):
    if goal.quantity == "ms":
        return f"{goal.shape}: time", goal.clock, f"≤ {goal.target:g} ms"
    if goal.quantity == "memory":
        return f"{goal.shape}: peak memory over {goal.against}", goal.clock, f"≤ {goal.target:g}"
    if goal.quantity == "cost":
        return f"{goal.shape}: time over that of {goal.against}", goal.clock, f"≤ {goal.target:g}×"
    return f"{goal.shape}: speed over {goal.against}", goal.clock, f"≥ {goal.target:g}×"


def _measured(goal, lines):
    """What the records say about a goal, or None."""
    here = {
        line["provider"]: line
        for line in lines
        if _place(line) == (goal.shape, "forward_backward", goal.clock)
    }
    field = "peak_bytes" if goal.quantity == "memory" else "ms_p50"
    ours = here.get("otkernels", {}).get(field)
    peer = here.get(goal.against, {}).get(field)
    if goal.quantity == "ms":
        return ours
    if not ours or not peer:
        return None
    return peer / ours if goal.quantity == "speedup" else ours / peer


def _verdict(goal, measured):
    if measured is None:
        return "not measured", "–"
    reached = measured >= goal.target if goal.quantity == "speedup" else measured <= goal.target
    unit = {"speedup": "×", "cost": "×", "ms": " ms", "memory": ""}[goal.quantity]
    return f"{measured:.3g}{unit}", "yes" if reached else "**no**"
