"""Markdown for the docs: tables, the line on what was measured with, and blocks between markers."""

from .. import CannotRun

# Peers with a version of their own; records older than a peer do not name it.
PEERS = {
    "GeomLoss": "geomloss",
    "KeOps": "pykeops",
    "torchmetrics": "torchmetrics",
    "FlashSinkhorn": "flash-sinkhorn",
    "CuPy": "cupy",
}


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


def table(head, rows, words=()):
    """A table in Markdown: numbers to the right, first column and those of words to the left."""
    rule = ["---" if title in (head[0], *words) else "---:" for title in head]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def facts(lines):
    """What some records were measured with, in a line."""

    def all_of(name):
        return ", ".join(sorted({str(line[name]) for line in lines}))

    edited = (
        " **with uncommitted changes**" if any(li["dirty"] is not False for li in lines) else ""
    )
    commits = ", ".join(sorted({(line["commit"] or "unknown")[:10] for line in lines}))
    days = ", ".join(sorted({line["time"][:10] for line in lines}))
    own = all_of("simd") if lines[0]["device"] == "cpu" else f"driver {all_of('driver')}"
    found = {title: {li[name] for li in lines if li.get(name)} for title, name in PEERS.items()}
    others = "".join(f", {title} {', '.join(sorted(v))}" for title, v in found.items() if v)
    return (
        f"{all_of('device_name')}, {own}, CPU threads: {all_of('threads')}, "
        f"Python {all_of('python')}, torch {all_of('torch')}, Triton {all_of('triton')}, "
        f"NumPy {all_of('numpy')}, POT {all_of('pot')}{others}; commit {commits}{edited}; {days}.\n"
    )


def verbatim(text):
    """A message or a name as code, for what it holds may mean something else in Markdown."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`" if text else ""


def number(x):
    """Three digits, and no exponent above a thousand."""
    return f"{x:.3g}" if abs(x) < 999.5 else f"{x:.0f}"
