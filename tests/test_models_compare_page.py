"""The table of a comparison and its pictures."""

import math

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from models_support import IGNORED, build, call, one_thread  # noqa: F401

from models.autoencoder import Autoencoder
from models.compare import gallery, rows, summary, table
from models.compare.summary import Cell, Line
from models.data import Digits
from models.evaluation import METRICS

pytestmark = IGNORED

# --- the table ------------------------------------------------------------------------------------


def line(title="a", competes=True, failures=(), **cells):
    cells = {k: v if isinstance(v, Cell) else Cell(*v, 3) for k, v in cells.items()}
    return Line(rows.Row(title, "prior", title, "", competes), cells, failures)


def test_mean_and_standard_deviation():
    assert Cell.of([1.0, 2.0, 6.0]) == Cell(3.0, pytest.approx(7**0.5), 3)
    assert Cell.of([4.0]) == Cell(4.0, None, 1)


def test_best_is_ahead_by_more_than_both_spreads():
    a, b, c = line(fd=(1.0, 0.4)), line(fd=(2.0, 0.5)), line(fd=(9.0, 0.1))
    assert summary.best([b, a, c], "fd") is a
    close = line(fd=(1.8, 0.5))
    assert summary.best([a, b, c, close], "fd") is None
    assert summary.best([a, line(fd=(1.9, 0.5))], "fd") is None  # equal to the spread: not more
    wide = line(fd=(9.0, 9.0))
    assert summary.best([a, b, wide], "fd") is None


def test_best_goes_by_the_direction_of_the_metric():
    low, high = line(confidence=(0.5, 0.01)), line(confidence=(0.8, 0.01))
    assert METRICS["confidence"].better == "high"
    assert summary.best([low, high], "confidence") is high
    assert summary.best([line(fd_codes=(1, 0)), line(fd_codes=(2, 0))], "fd_codes") is None
    seconds = [line(seconds_per_epoch=(1, 0)), line(seconds_per_epoch=(2, 0))]
    assert summary.best(seconds, summary.SECONDS) is None


def test_beyond_the_reference_is_no_better_than_at_it():
    floor = {"code_mmd_train": (0.001, 0.0)}
    below = line(code_mmd=(-0.005, 1e-4), **floor)
    at, far = line(code_mmd=(0.001, 1e-4), **floor), line(code_mmd=(0.02, 1e-4), **floor)
    assert summary.best([below, at, far], "code_mmd") is None
    assert summary.best([below, far], "code_mmd") is below
    data = {"classes_data": (9.9, 0.0)}
    more, enough = line(classes=(10.0, 0.01), **data), line(classes=(9.9, 0.01), **data)
    assert summary.best([more, enough], "classes") is None
    # Without a reference, an unbiased distance of zero is a match.
    match, worse = line(prior_mmd=(-0.01, 1e-4)), line(prior_mmd=(0.0, 1e-4))
    assert summary.best([match, worse], "prior_mmd") is None


def test_what_takes_no_part_is_not_best():
    a, b = line(fd=(1.0, 0.1)), line(fd=(2.0, 0.1))
    assert summary.best([a, b, line(fd=(0.1, 0.0), competes=False)], "fd") is a
    assert summary.best([a, b, line(fd=(0.1, 0.0), failures=("seed 0: NaN",))], "fd") is a
    assert summary.best([a, b, line(fd=(math.nan, math.nan))], "fd") is a
    assert summary.best([line(fd=(1.0, None)), line(fd=(2.0, None))], "fd") is None
    assert summary.best([a], "fd") is None


def test_references_are_a_number_or_a_range():
    lines = [line(fd=(3, 1), fd_train=(0.5648, 0)), line(fd=(4, 1), fd_train=(0.5648, 0))]
    assert table.references(lines, ["fd"]) == {"fd": "0.56"}
    lines[1].cells["fd_train"] = Cell(0.7, 0.0, 3)
    assert table.references(lines, ["fd", "mse_per_pixel"]) == {
        "fd": "0.56 to 0.70",
        "mse_per_pixel": "",
    }


def test_markdown_has_the_best_in_bold():
    lines = [
        line("A", fd=(4.316, 0.2), mse_per_pixel=(0.0128, 0.0), fd_train=(0.56, 0)),
        line("B", fd=(6.3, 1.0), mse_per_pixel=(0.0128, 0.0), fd_train=(0.56, 0)),
        Line(rows.Row("C", "prior", "C", ""), {}, ("seed 0: NaN",)),
    ]
    head, rule, *body = table.as_markdown(lines).splitlines()
    assert head == "|  | test MSE per pixel | FD |"
    assert set(rule) <= set("| -")
    assert body[0] == "| A | 0.0128 ± 0.0000 | **4.32 ± 0.20** |"
    assert body[1] == "| B | 0.0128 ± 0.0000 | 6.30 ± 1.00 |"
    assert body[2] == "| C | failed |  |"
    assert body[3].startswith("| real data or a perfect match |  | 0.56 |")


def test_every_column_stands_in_one_table():
    keys = [key for key in table.COLUMNS if key not in table.REFERENCES]
    parts = table.split(keys)
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(parts)


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_of_images_have_a_strip_for_every_row(tmp_path, monkeypatch):
    strips = {}
    monkeypatch.setattr(
        gallery, "_strips", lambda s, columns: strips.setdefault(len(strips), s) and Figure()
    )
    plain, other = (build(Autoencoder, seed=seed).eval() for seed in (0, 1))
    models = [(row, plain) for row in rows.rows_of("autoencoder")]
    models += [(row, other) for row in rows.rows_of("vae")]
    written = gallery.draw(models, Digits(), tmp_path)
    assert [name for name, _, _ in written] == [
        "samples.png", "reconstructions.png", "interpolations.png",
    ]  # fmt: skip
    samples, reconstructions, interpolations = strips.values()
    assert list(samples) == ["test images", *(row.title for row, _ in models)]
    assert torch.equal(samples["test images"], Digits().test[: len(samples["VAE"])][0])
    noise = plain.prior.sample_independent(40, torch.Generator().manual_seed(gallery.SEED))
    for title, model in (("AE, N(0, I)", plain), ("VAE", other)):  # the same noise
        assert torch.allclose(samples[title], model.decoder(noise), atol=1e-6)
    assert list(reconstructions) == ["test images", "AE", "VAE"]
    assert torch.allclose(reconstructions["VAE"], other(reconstructions["test images"]))
    assert list(interpolations) == ["AE", "VAE"]
    assert torch.allclose(interpolations["AE"][:1], reconstructions["AE"][:1], atol=1e-6)


def test_strips_lie_below_each_other(tmp_path):
    ink = {"a": torch.ones(4, 1, 8, 8), "b": torch.zeros(4, 1, 8, 8)}
    gallery.pictures.save(gallery._strips(ink, 4), tmp_path / "a.png")
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., 0]
    middle = picture.shape[0] // 2
    assert picture[:middle].mean() < picture[middle:].mean() - 0.2  # ink is dark
