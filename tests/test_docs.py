"""The pages: code runs, links lead somewhere, every public name and every figure has its place."""

import importlib
import re
import socket
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

import otkernels

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->\n\s*")  # the line before such a block says why
MODULES = ("", ".metrics", ".distributed", ".compat.pot", ".compat.geomloss")


def by_name(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


# --- code ---------------------------------------------------------------------------------------


def python_of(page):
    """Code of the blocks marked python that are to run, one after another as a reader would."""
    text = page.read_text()
    for block in re.finditer(r"^```(?:python|py|pycon)\n(.*?)^```$", text, re.M | re.S):
        if not re.search(NOT_RUN.pattern + r"\Z", text[: block.start()]):
            yield block[1]


@pytest.fixture
def torchrun(monkeypatch):
    """What torchrun tells the only one of its processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun")
@by_name([page for page in PAGES[1:] if any(python_of(page))])  # README: test_readme.py
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("\n".join(python_of(page)), {"__name__": page.stem})


# --- links and figures --------------------------------------------------------------------------


def prose(page):
    """The text without code, in which brackets are no links and a hash is no heading."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"(?<=\n\n)(?:    .*\n)+", "", text)


def targets(page):
    """What the links and pictures of a page lead to."""
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]+`", "code", prose(page)))


def anchors(page):
    """The anchor that GitHub, and Sphinx here, gives to each heading."""
    seen = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1


def is_broken(page, target):
    path, _, anchor = unquote(target).partition("#")
    found = page.parent / path if path else page
    return not found.exists() or bool(anchor) and anchor not in anchors(found)


@by_name(PAGES)
def test_links_lead_to_something(page):
    local = [target for target in targets(page) if "://" not in target]
    assert [target for target in local if is_broken(page, target)] == []


def test_every_figure_is_shown():
    shown = {(page.parent / target).resolve() for page in PAGES for target in targets(page)}
    figures = {path.resolve() for path in (DOCS / "figures").iterdir()}
    assert sorted(path.name for path in figures - shown) == []


def test_the_start_page_ends_where_the_readme_has_that_heading():
    (marker,) = re.findall(r'^:end-before: "(.+)"$', (DOCS / "index.md").read_text(), re.M)
    assert (ROOT / "README.md").read_text().splitlines().count(marker) == 1


# --- API pages ----------------------------------------------------------------------------------


def documented(page):
    """Names with an entry on an API page, then those in its table."""
    module, entries, table = None, [], []
    for line in page.read_text().splitlines():
        if found := re.fullmatch(r"\.\. (?:current)?module:: (\S+)", line):
            module = found[1]
        elif found := re.fullmatch(r"\.\. auto(?:function|class|data):: (\w+)(?:\(\))?", line):
            entries.append(f"{module}.{found[1]}")
        elif found := re.fullmatch(r"   ([A-Za-z]\w*)", line):
            table.append(f"{module}.{found[1]}")
    return entries, table


def test_every_public_name_has_one_entry():
    entries = [name for page in (DOCS / "api").glob("*.rst") for name in documented(page)[0]]
    modules = [importlib.import_module("otkernels" + name) for name in MODULES]
    assert sorted(entries) == sorted(f"{m.__name__}.{name}" for m in modules for name in m.__all__)
    losses = importlib.import_module("otkernels.losses")
    assert set(losses.__all__) <= set(otkernels.__all__)  # so they have theirs as otkernels.X


@by_name([page for page in sorted((DOCS / "api").glob("*.rst")) if page.stem != "index"])
def test_the_table_of_an_api_page_lists_its_entries_in_order(page):
    entries, table = documented(page)
    assert table == entries
