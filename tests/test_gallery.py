"""The pages of the gallery run from start to end, small, and what they say is so."""

import ast
import runpy
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

import otkernels

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "gallery").glob("plot_*.py"))
SMALL = {
    "plot_colour_transfer": {"EVERY": 8, "N_STEPS": 8},
    "plot_domain_shift": {"N_TESTS": 10, "N_CONTROLS": 40, "SIZES": (10, 40)},
    "plot_generative_model": {"N_STEPS": 400, "BATCH": 64},
    "plot_gradient_flow": {"N_POINTS": 100, "N_STEPS": 150, "SHOWN": (0, 150)},
}
ALLOWED = {"math", "matplotlib", "numpy", "otkernels", "sklearn", "torch"}


def run(page):
    """The names of a page after it ran with the constants of SMALL."""
    path = DOCS / "gallery" / f"{page}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = dict(SMALL[page])
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in wanted:
            node.value = ast.parse(repr(wanted.pop(node.targets[0].id)), mode="eval").body
    assert not wanted, f"{page} has no constants {list(wanted)}"
    names = {"__name__": page}
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")
    plt.switch_backend(backend)


def assert_same_size(name, figure, folder):
    """The figure saves as a picture of the size of the one that is kept."""
    runpy.run_path(str(DOCS / "gallery_pictures.py"))["write"](figure, folder / name)
    kept = DOCS / "figures" / name
    assert plt.imread(folder / name).shape == plt.imread(kept).shape
    assert kept.stat().st_size < 250_000


def test_gradient_flow(tmp_path):
    page = run("plot_gradient_flow")
    for name, (_, values) in page["flows"].items():
        assert values[-1] < 0.05 * values[0], name
    judged = page["judged"]
    for name in ("sliced Wasserstein", "energy distance"):
        for judge, value in judged[name].items():
            assert value < judged["another sample"][judge], (name, judge)
    blind = judged["Gaussian Wasserstein"]
    assert abs(blind["moments"]) < 1e-5
    assert blind["sliced"] > 10 * judged["sliced Wasserstein"]["sliced"]
    *single, summed = page["ladder_distances"].values()
    assert summed < min(single)
    assert_same_size("gradient_flow.png", page["flows_figure"], tmp_path)


def test_domain_shift():
    page = run("plot_domain_shift")
    for key, p in page["controls"].items():
        share, error = page["rate"](p)
        assert share - 3 * error <= page["LEVEL"], key
    for (shift, kernel, n), rates in page["powers"].items():
        (weak, _), _, (strong, _) = rates
        if shift != "digits missing" and n == 40:
            assert strong > max(0.8, weak), (shift, kernel)


def test_colour_transfer(tmp_path):
    page = run("plot_colour_transfer")
    (before, start), (mapped, left), (_, end), _ = page["distances"].values()
    assert abs(mapped) < 1e-6 * before
    assert start > 5 * left > 50 * end
    assert_same_size("colour_transfer.png", page["pictures_figure"], tmp_path)


def test_generative_model():
    page = run("plot_generative_model")
    without, penalised = page["scores"].values()
    assert penalised["codes to prior"] < 0.2 * without["codes to prior"]
    assert page["real"] < penalised["drawn"] < 0.8 * without["drawn"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_imports_public_names_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED
        if isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in ALLOWED
            if node.module.startswith("otkernels"):
                assert node.module == "otkernels"
                assert {alias.name for alias in node.names} <= set(otkernels.__all__)


def test_every_page_is_run():
    assert {path.stem for path in PAGES} == set(SMALL)
