"""Records to the page ``docs/benchmarks.md``: goals, and a table and a figure for each family."""

from .. import cases, records
from . import family_page, goals, gpu_page, page, plot

TITLES = {"cpu": "CPU", "cuda": "GPU"}
NO_RECORDS = {
    "cpu": "**No records yet.**\n",
    "cuda": "**Not yet measured on a GPU.** No record, estimate or extrapolation stands in for "
    "it.\n",
}


def published():
    """The files of records that the page shows."""
    return sorted(records.RESULTS.glob("*.jsonl"))


def published_gpu():
    """The folder of the GPU run that the page shows, or None."""
    folder = records.RESULTS / "gpu"
    return folder if folder.is_dir() else None


def write(files, gpu, doc, figures, allow_dirty=False):
    """Write the page and draw its figures; returns the paths of the figures.

    Args:
        files: files of records; None for those that are published.
        gpu: folder of a run of ``python -m benchmarks gpu``; None for none.
        doc: the page, which holds the markers of the block "records".
        figures: folder for the figures.
        allow_dirty: whether to show records of edited trees too.

    Raises:
        CannotRun: the page has no such block.
        FileNotFoundError: a file of records is absent.
    """
    files = published() if files is None else files
    lines = records.read(files)
    if gpu and (gpu / "records.jsonl").resolve() not in [path.resolve() for path in files]:
        lines += gpu_page.records_of(gpu)
    page.write(doc, text(lines, gpu, allow_dirty))
    return plot.draw(lines, figures, allow_dirty)


def text(lines, gpu=None, allow_dirty=False):
    """What the page says of some records and of the folder of a GPU run."""
    kept = records.newest(lines, allow_dirty)
    parts = []
    for device, title in TITLES.items():
        parts.append(f"### {title}\n")
        left = sum(li["device"] == device and li["dirty"] is not False for li in lines)
        if left and not allow_dirty:
            parts.append(f"Not shown: {left} records of trees with uncommitted changes.\n")
        own = {name: m for name, m in records.by_machine(kept).items() if m[0]["device"] == device}
        parts += [part for name, group in own.items() for part in _machine(name, group)]
        if not own:
            parts += [NO_RECORDS[device], goals.section(device, [])]
    return "\n".join(part for part in [*parts, gpu_page.section(gpu)] if part)


def _machine(name, lines):
    device = lines[0]["device"]
    yield page.facts(lines)
    yield goals.section(device, lines)
    without = []
    for family in cases.FAMILIES:
        own = [line for line in lines if line["op"] == family.op]
        if own:
            figure = plot.name(family, name) if plot.drawn(own) else None
            yield family_page.section(family, own, figure)
        elif family.shapes[device]:
            without.append(f"`{family.op}`")
    if without:
        yield f"Families without a record: {', '.join(without)}.\n"
