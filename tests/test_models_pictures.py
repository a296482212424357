from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from models_support import IGNORED, build, one_thread  # noqa: F401

from models import pictures, report
from models.autoencoder import Autoencoder
from models.data.items import Items, Tensors
from models.priors import Prior
from models.systems import SlicedWAE

pytestmark = IGNORED


def stream():
    return torch.Generator().manual_seed(0)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_mosaic_has_every_image_in_its_place(channels):
    images = torch.rand(5, channels, 4, 6, generator=stream())
    whole = pictures.mosaic(images, columns=3)
    assert whole.shape == ((9, 20) if channels == 1 else (9, 20, 3))
    for k, image in enumerate(images):
        top, left = 5 * (k // 3), 7 * (k % 3)
        cell = whole[top : top + 4, left : left + 6].reshape(4, 6, channels)
        assert np.array_equal(cell, image.permute(1, 2, 0).double())
    assert np.all(whole[:4, 6] == pictures.LINE)
    assert np.all(whole[5:, 14:] == (0 if channels == 1 else 1))  # paper where there is no image


def shown(figure):
    """The picture in the first axes of a figure."""
    return np.asarray(figure.axes[0].get_images()[0].get_array())


@pytest.mark.parametrize("n", [3, 16, 21])
def test_reconstructions_stand_below_their_originals(n):
    images = torch.rand(n, 3, 4, 4, generator=stream())
    picture = shown(pictures.reconstructions(images, images / 2))
    assert picture.shape[1] == 16 * 5 - 1
    for k in range(n):
        top, left = 10 * (k // 16), 5 * (k % 16)
        original = picture[top : top + 4, left : left + 4]
        below = picture[top + 5 : top + 9, left : left + 4]
        assert np.array_equal(original, images[k].permute(1, 2, 0))
        assert np.allclose(below, original / 2)


def test_colour_has_no_scale_of_ink():
    for channels, axes in ((1, 2), (3, 1)):
        figure = pictures.samples(torch.rand(4, channels, 4, 4), Prior("ring", 2))
        assert len(figure.axes) == axes
        assert figure.axes[0].get_title() == "4 samples decoded from: ring prior"


# --- points and codes -----------------------------------------------------------------------------


def clouds(figure):
    """Every scatter of a figure: points and colour by name."""
    return {
        c.get_label(): (np.asarray(c.get_offsets()), tuple(c.get_facecolor()[0]))
        for c in figure.axes[0].collections
    }


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_points_are_scattered(dim):
    data, new = torch.randn(9, dim), torch.randn(7, dim)
    found = clouds(pictures.samples(new, "noise", data))
    assert set(found) == {"test data", "samples"}
    assert np.allclose(found["samples"][0][:, : min(dim, 2)], new[:, :2])
    assert np.allclose(found["test data"][0][:, : min(dim, 2)], data[:, :2])
    assert set(clouds(pictures.samples(new, "noise"))) == {"samples"}
    found = clouds(pictures.reconstructions(data, new))
    assert np.allclose(found["reconstructions"][0][:, : min(dim, 2)], new[:, :2])


@pytest.mark.parametrize("dim", [1, 2, 8])
def test_latent_shows_codes_by_class_over_the_law(dim):
    codes, labels = torch.randn(40, dim), torch.arange(40) % 10
    points = torch.randn(30, dim)
    found = clouds(pictures.latent(codes, labels, points, Prior("gaussian", dim)))
    assert set(found) == {"gaussian prior", *map(str, range(10))}
    assert len({colour for _, colour in found.values()}) == 11
    assert np.allclose(found["3"][0][:, 0], codes[labels == 3, 0])
    assert np.allclose(found["gaussian prior"][0][:, 0], points[:, 0])
    found = clouds(pictures.latent(codes, None, points, "noise"))
    assert set(found) == {"noise", "test codes"}


def test_classes_have_colours_that_differ():
    colours = np.array([to_rgb(c) for c in [*pictures.CLASSES, pictures.REFERENCE]])
    gaps = np.abs(colours[:, None] - colours[None]).max(-1) + np.eye(len(colours))
    assert gaps.min() > 0.2
    greys = colours[:-1][np.ptp(colours[:-1], axis=1) < 0.1]
    assert np.abs(greys - colours[-1]).max(-1).min() > 0.5  # only brightness tells them apart


@pytest.mark.parametrize("centre", [(0.0, 0.0), (5.0, -3.0)])
def test_latent_grid_covers_what_is_sampled(centre):
    points = torch.tensor(centre) + torch.rand(2000, 2, generator=stream()) * torch.tensor([4, 2])
    asked = []

    def decode(codes):
        asked.append(codes)
        return torch.zeros(len(codes), 1, 2, 2)

    figure = pictures.latent_grid(decode, points, side=5)
    low, high = asked[0].min(0).values, asked[0].max(0).values
    middle = torch.tensor(centre) + torch.tensor([2.0, 1.0])
    torch.testing.assert_close((low + high) / 2, middle, atol=0.1, rtol=0)
    torch.testing.assert_close(high - low, torch.full((2,), 4 * 0.98 * 4 / 5), atol=0.1, rtol=0)
    assert torch.equal(asked[0][0], torch.stack([low[0], high[1]]))  # top left, as on the page
    left, right, bottom, top = figure.axes[0].get_images()[0].get_extent()
    assert right - left == pytest.approx(top - bottom)
    assert (left + right) / 2 == pytest.approx(middle[0].item(), abs=0.1)


# --- curves and table -----------------------------------------------------------------------------

ROWS = [
    {"epochs": 0, "val/loss": 5.0, "val/prior_distance": 1.0, "val/prior_floor": 0.1},
    {"epochs": 1, "train/loss": 4.0, "train/penalty": 0.5, "val/loss": 3.0,
     "val/prior_distance": 0.3, "val/prior_floor": 0.1},
    {"epochs": 2, "train/loss": 2.0, "train/penalty": 0.2, "train/code_error": 7.0},
]  # fmt: skip


def lines(figure):
    return {
        (axes.get_title(), line.get_label()): np.stack(line.get_data(), 1).tolist()
        for axes in figure.axes
        for line in axes.get_lines()
    }


def test_curves_show_every_term():
    found = lines(pictures.curves(ROWS, "MMD"))
    assert found["objective", "train"] == [[1, 4], [2, 2]]
    assert found["objective", "test"] == [[0, 5], [1, 3]]
    assert found["codes to prior", "train: MMD"] == [[1, 0.5], [2, 0.2]]
    assert found["codes to prior", "test: sliced W2^2"] == [[0, 1], [1, 0.3]]
    assert found["codes to prior", "floor: prior to prior"] == [[0, 0.1], [1, 0.1]]
    assert found["other terms", "code error"] == [[2, 7]]
    assert len(found) == 6
    assert len(pictures.curves(ROWS[:2], "MMD").axes) == 3


@pytest.mark.parametrize(("value", "scale"), [(0.5, "log"), (-0.01, "symlog"), (0.0, "symlog")])
def test_values_that_a_logarithm_does_not_know(value, scale):
    rows = [{**ROWS[1], "train/penalty": value}]
    assert pictures.curves(rows, "MMD").axes[2].get_yscale() == scale


def test_table_has_every_metric_and_its_floor():
    last = {
        "epochs": 3, "val/loss": 1.0, "val/prior_distance": 0.3, "val/prior_floor": 0.1,
        "val/accuracy": 0.5, "val/gaussian_distance": 0.7, "val/gaussian_floor": 0.05,
    }  # fmt: skip
    table = {name: row for name, *row in report.summary([ROWS[0], last], Autoencoder())}
    assert table == {
        "sliced W2^2 of the test codes to the prior": ["1", "0.3", "0.1"],
        "loss on the test items": ["5", "1", ""],
        "accuracy": ["", "0.5", ""],
        "gaussian distance": ["", "0.7", "0.05"],
    }


# --- the page -------------------------------------------------------------------------------------


class Moved(SlicedWAE):
    def transport(self, points):
        return points + 7


def test_the_law_of_samples_in_words(monkeypatch):
    assert report.law(build(SlicedWAE)) == "gaussian prior"
    assert report.law(build(Moved)) == "transported gaussian prior"
    monkeypatch.setattr(Moved, "points_name", "noise <moved>")
    assert report.law(build(Moved)) == "noise <moved>"


def test_objective_in_words():
    text = report.objective(build(SlicedWAE, weight=3.0))
    assert text == (
        "loss = squared error summed over an image, averaged over the batch"
        " + 3 x sliced W2^2(codes, prior), a mean"
    )
    assert "weight 0: plain autoencoder" in report.objective(build(Autoencoder))
    point = build(Autoencoder, shape=(2,), latent_dim=2)
    assert "summed over a point," in report.objective(point)


class Small(Items):
    classes = 0

    def __init__(self, shape, title):
        items = Tensors(torch.rand(20, *shape, generator=stream()), torch.zeros(20).long())
        super().__init__(items, items, 5)
        self.shape, self.title = shape, title


@pytest.fixture
def page(tmp_path):
    """Write the page of a model: text and picture names."""

    def write(model, data):
        (tmp_path / "config.yaml").write_text("seed: 0 # <b>")
        session = tmp_path / "logs" / "csv" / "version_0"
        session.mkdir(parents=True)
        floats = "0.5,0.4,0.3,0.2,0.1"
        keys = ("loss", "reconstruction", "mse_per_pixel", "prior_distance", "prior_floor")
        head = ",".join(["epoch", "step", *(f"val/{key}" for key in keys)])
        (session / "metrics.csv").write_text(f"{head}\n-1,0,{floats}\n0,4,{floats}\n")
        closing = report.write(tmp_path, model, data, SimpleNamespace(current_epoch=1))
        assert "untrained" in closing
        names = {path.stem: matplotlib.image.imread(path) for path in tmp_path.glob("*.png")}
        return (tmp_path / "index.html").read_text(), names

    return write


def test_page_of_colour_images_and_two_dimensions(page):
    model = build(Moved, shape=(3, 8, 8), latent_dim=2)
    text, names = page(model, Small((3, 8, 8), "squares & <circles>"))
    assert "Squares &amp; &lt;circles&gt;. 2-D latent space, gaussian prior." in text
    assert "the 20 test images" in text
    assert "decoded from: transported gaussian prior" in text
    assert "540" not in text
    assert "digit" not in text
    assert set(names) == {"latent", "samples", "reconstructions", "losses", "latent_grid"}
    assert all(picture[..., :3].std() > 0.02 for picture in names.values())
    assert text.count("<img") == 5


def test_page_of_points(page):
    model = build(SlicedWAE, shape=(2,), latent_dim=2)
    text, names = page(model, Small((2,), "clusters"))
    assert "the 20 test points" in text
    assert "summed over a point" in text
    assert set(names) == {"latent", "samples", "reconstructions", "losses"}


def test_two_stage_codes_are_drawn_beside_what_is_decoded(page, monkeypatch):
    seen = {}
    original = pictures.latent

    def latent(codes, labels, points, law):
        seen.update(points=points, labels=labels, law=law)
        return original(codes, labels, points, law)

    monkeypatch.setattr(pictures, "latent", latent)
    monkeypatch.setattr(pictures, "save", lambda figure, path: None)
    page(build(Moved, latent_dim=3), Small((1, 8, 8), "squares"))
    assert seen["law"] == "transported gaussian prior"
    assert seen["labels"] is None
    assert abs(seen["points"].mean() - 7) < 0.2
