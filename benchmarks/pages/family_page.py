"""What the page says of one family on one machine: where it loses, one table, what is missing."""

from ..case import Shape
from . import page

MAIN = "forward_backward"
MODES = {MAIN: "", "forward": "forward only, ", "forward_backward_both": "both gradients, "}
CLOCKS = {"events": "GPU time", "wall": "wall time", "graph": "graph time"}
# The clock that is shown of the other modes, and those that a roofline is compared with.
OTHERS = {"cpu": "wall", "cuda": "events"}
ROOFLINE = {"cpu": ("wall",), "cuda": ("graph", "events")}


def section(family, lines, figure):
    """Heading, facts, figure, losses, table and gaps; ``lines`` are a family's on one machine."""
    parts = [
        f"#### `{family.op}`{'' if family.p is None else f', p = {family.p}'}\n",
        family.note and f"{family.note}\n",
        page.facts(lines),
        f"![time and error against size](figures/{figure})\n" if figure else "",
        slower(family, lines),
        table(family, lines),
        missing(family, lines),
    ]
    return "\n".join(part for part in parts if part)


def size(family, line):
    """The number that a record is drawn and sorted by."""
    return family.size(Shape(*(line[letter] for letter in "BNDL"), "from a record", line["M"]))


# --- losses -------------------------------------------------------------------------------------


def slower(family, lines):
    """Where a peer beats us, in words, so that no table has to be searched for it."""
    lines = sorted(lines, key=lambda line: size(family, line))
    against_peers = [
        (line, ratio) for line, ratio in _ratios(lines) if not _is_yardstick(family, line)
    ]
    lost = [(line, ratio) for line, ratio in against_peers if ratio < 1]
    if not lost:
        return f"**Slower than a peer: nowhere**, in {len(against_peers)} comparisons.\n"
    found = {}
    for line, ratio in lost:
        peers = found.setdefault((line["mode"], line["clock"]), {}).setdefault(line["shape"], [])
        peers.append(f"{line['provider']} {page.number(ratio)}×")
    rows = "".join(
        f"- {MODES[mode]}{CLOCKS[clock]}: "
        + "; ".join(f"{shape} ({', '.join(peers)})" for shape, peers in shapes.items())
        + "\n"
        for (mode, clock), shapes in found.items()
    )
    return f"**Slower than a peer in {len(lost)} of {len(against_peers)} comparisons:**\n\n{rows}"


def losses(family, lines):
    """The records of peers that are faster than ours."""
    return [line for line, ratio in _ratios(lines) if ratio < 1 and not _is_yardstick(family, line)]


def _ratios(lines):
    """Every other provider's record with how many times our time it takes."""
    lines = [line for line in lines if line["ms_p50"] is not None]
    ours = {_place(line): line["ms_p50"] for line in lines if line["provider"] == "otkernels"}
    return [
        (line, line["ms_p50"] / ours[_place(line)])
        for line in lines
        if line["provider"] != "otkernels" and _place(line) in ours
    ]


def _place(line):
    return line["shape"], line["mode"], line["clock"]


def _is_yardstick(family, line):
    return any(p.yardstick for p in family.providers if p.name == line["provider"])


# --- table --------------------------------------------------------------------------------------


def table(family, lines):
    """A row for each shape and provider: times with their ratio to ours, memory, roofline, error.

    A provider that is faster than ours by any clock stands in bold.
    """
    done = [line for line in lines if line["ms_p50"] is not None]
    if not done:
        return ""
    columns = _columns(family, done)
    lost = {(line["shape"], line["provider"]) for line in losses(family, done)}
    rows = []
    for shape in dict.fromkeys(li["shape"] for li in sorted(done, key=lambda x: size(family, x))):
        first = f"**{shape}**"
        for name in (provider.name for provider in family.providers):
            own = [line for line in done if (line["shape"], line["provider"]) == (shape, name)]
            if own:
                cells = [cell(own) or "–" for cell in columns.values()]
                rows.append([first, f"**{name}**" if (shape, name) in lost else name, *cells])
                first = ""
    return page.table(["shape", "provider", *columns], rows, words=["provider"])


def _columns(family, lines):
    """By title what makes a cell of the records of one shape and provider: only those needed."""
    others = OTHERS[lines[0]["device"]]
    ratios = {id(line): ratio for line, ratio in _ratios(lines)}
    columns = {
        f"{MODES[mode]}{CLOCKS[clock]}, ms": _time(family, mode, clock, ratios)
        for mode in MODES
        for clock in (CLOCKS if mode == MAIN else (others,))
    }
    columns["peak MB"] = _peak
    columns["of roofline"] = _fraction
    columns["error of value / gradient"] = _error
    return {title: cell for title, cell in columns.items() if cell(lines) is not None}


def _time(family, mode, clock, ratios):
    def cell(lines):
        line = next((li for li in lines if (li["mode"], li["clock"]) == (mode, clock)), None)
        if line is None:
            return None
        time, ratio = page.number(line["ms_p50"]), ratios.get(id(line))
        if ratio is None:
            return time
        lost = ratio < 1 and not _is_yardstick(family, line)
        return f"{time} (**{page.number(ratio)}×**)" if lost else f"{time} ({page.number(ratio)}×)"

    return cell


def _peak(lines):
    peaks = [li["peak_bytes"] for li in lines if li["mode"] == MAIN]
    return next((f"{peak / 1e6:.1f}" for peak in peaks if peak is not None), None)


def _fraction(lines):
    """Of the clock nearest to the kernels alone, with what bounds them."""
    found = {li["clock"]: li for li in lines if li["mode"] == MAIN and li.get("fraction")}
    for clock in ROOFLINE[lines[0]["device"]]:
        if line := found.get(clock):
            return f"{page.number(100 * line['fraction'])} % ({line['roofline_by']})"
    return None


def _error(lines):
    line = next((li for li in lines if li["mode"] == MAIN), None)
    return line and f"{line['error_value']:.0e} / {line['error_grad']:.0e}"


# --- gaps ---------------------------------------------------------------------------------------


def missing(family, lines):
    """What could not run, what was left out where, and what has no record, with the reasons."""
    found = {}
    for line in lines:
        if line["missing"]:
            clock = f", {CLOCKS[line['clock']]}" if line["clock"] else ""
            what = f"{line['provider']}{clock}", page.verbatim(line["missing"])
            found.setdefault(what, {})[line["shape"]] = 0
    for provider, shape, reason in _without_record(family, lines):
        found.setdefault((provider, reason), {})[shape] = 0
    rows = [f"- {what}: {why} ({', '.join(shapes)})\n" for (what, why), shapes in found.items()]
    return f"Not run:\n\n{''.join(rows)}" if rows else ""


def _without_record(family, lines):
    device = lines[0]["device"]
    shapes = {line["shape"] for line in lines}
    here = {(line["shape"], line["provider"]) for line in lines}
    for shape in family.shapes[device]:
        if shape.name not in shapes:
            yield "every provider", shape.name, "no record"
            continue
        for provider in family.providers:
            if (shape.name, provider.name) not in here:
                why = provider.left_out(device, shape)
                yield provider.name, shape.name, f"left out, {why}" if why else "no record"
