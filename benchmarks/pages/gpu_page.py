"""What the page says of a run of ``python -m benchmarks gpu``: device, stages, failures, tuning."""

import json

from . import page

CHECKS = ("tests", "repeatability", "memcheck", "racecheck", "graphs", "compile")
GOOD = ("ok", "passed", "skipped")
NOISE = 1.03  # a choice that is closer than this to the fastest one is as good
HEADING = {"cuda": "Run on a GPU", "cpu": "Run of the GPU harness on a CPU"}
UNITS = {"copied": (1e9, "GB/s"), "exponentials": (1e9, "10⁹/s"), "comparisons": (1e9, "10⁹/s")}


def records_of(folder):
    """The records of a run; none if it has not come so far."""
    return _lines(folder, "records")


def section(folder):
    """Everything but the records, from the files of a run; empty without its facts."""
    path = folder and folder / "facts.json"
    if not path or not path.exists():
        return ""
    facts = json.loads(path.read_text())
    parts = [
        f"### {HEADING[facts['device']]}\n",
        page.facts([facts]),
        _rates(facts),
        _peers(facts),
        _stages(_lines(folder, "stages")),
        *(_failures(check, _lines(folder, check)) for check in CHECKS),
        _tuning(_lines(folder, "tune")),
    ]
    return "\n".join(part for part in parts if part)


def _lines(folder, name):
    """The whole lines of a file: a run that was cut off may have left half of one."""
    path = folder / f"{name}.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


# --- facts --------------------------------------------------------------------------------------


def _rates(facts):
    rates = dict(facts["rates"])
    rows = [
        [f"products in {name}", f"{page.number(rate / 1e12)} TFLOP/s"]
        for name, rate in rates.pop("products").items()
    ]
    for name, rate in rates.items():
        scale, unit = UNITS[name]
        rows.append([name, f"{page.number(rate / scale)} {unit}"])
    sizes = [
        f"{facts[name] / scale:.0f} {unit}"
        for name, scale, unit in (
            ("multiprocessors", 1, "multiprocessors"),
            ("l2_bytes", 2**20, "MiB of second-level cache"),
            ("memory_bytes", 2**30, "GiB of memory"),
        )
        if facts[name]
    ]
    return f"{', '.join(sizes)}. Rates measured:\n\n{page.table(['what', 'rate'], rows)}"


def _peers(facts):
    rows = [
        f"- {name}: {page.verbatim(peer['missing']) or peer['version']}\n"
        for name, peer in facts["peers"].items()
    ]
    return f"Peers at hand:\n\n{''.join(rows)}"


# --- stages and checks --------------------------------------------------------------------------


def _stages(lines):
    """The last line of each stage: a run goes on where it was cut off."""
    last = {line["stage"]: line for line in lines}
    every = {stage: [li["seconds"] for li in lines if li["stage"] == stage] for stage in last}
    rows = [
        [
            stage,
            line["status"] if line["status"] == "ok" else f"**{line['status']}**",
            ", ".join(f"{count} {status}" for status, count in (line["counts"] or {}).items())
            or "–",
            page.number(sum(every[stage])),
            str(len(every[stage])),
            f"{(line['commit'] or 'unknown')[:10]}{_edited(line)}",
            page.verbatim(line["reason"]),
        ]
        for stage, line in last.items()
    ]
    head = ["stage", "status", "counts", "seconds", "attempts", "commit", "reason"]
    return page.table(head, rows, words=["status", "counts", "commit", "reason"]) if rows else ""


def _edited(line):
    return "" if line["dirty"] is False else " **edited**"


def _failures(check, lines):
    """The last line of each case, of those that did not do well."""
    last = {line["case"]: line for line in lines}
    rows = [
        f"- {page.verbatim(name)}: **{line['status']}**, "
        f"{page.verbatim(line['reason']) or 'no reason given'}\n"
        for name, line in last.items()
        if line["status"] not in GOOD
    ]
    return f"`{check}`, not ok: {len(rows)} of {len(last)}.\n\n{''.join(rows)}" if rows else ""


# --- tuning -------------------------------------------------------------------------------------


def _tuning(lines):
    tables = {}
    for line in lines:
        cases = tables.setdefault(line["table"], {})
        case = "/".join(line[name] for name in ("op", "shape", "mode") if line.get(name))
        cases.setdefault(case, {})[line["candidate"]] = line
    return "\n".join(_table_of(name, cases) for name, cases in tables.items())


def _table_of(name, cases):
    """A row for each case: what the library chooses beside the fastest candidate."""
    rows = []
    for case, candidates in cases.items():
        chosen = next((li for li in candidates.values() if li["chosen"]), None)
        timed = [line for line in candidates.values() if line["ms"] is not None]
        best = min(timed, key=lambda line: line["ms"], default=None)
        over = chosen["ms"] / best["ms"] if chosen in timed else None
        times = "–" if over is None else f"{page.number(over)}×"
        rows.append(
            [
                case,
                *_candidate(chosen),
                *_candidate(best),
                times if over is None or over < NOISE else f"**{times}**",
                f"{len(timed)} of {len(candidates)}",
            ]
        )
    head = ["case", "chosen", "ms", "fastest", "fastest, ms", "chosen / fastest", "timed"]
    return f"Tuning of `{name}`:\n\n{page.table(head, rows, words=['chosen', 'fastest'])}"


def _candidate(line):
    if line is None:
        return "–", "–"
    name = page.verbatim(line["candidate"])
    if line["ms"] is None:
        return name, page.verbatim(line["remark"]) or "–"
    return name, page.number(line["ms"])
