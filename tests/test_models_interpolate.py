import math

import matplotlib.image
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models.autoencoder import Autoencoder
from models.data import Digits, EightGaussians
from models.errors import InputError
from models.interpolate import PATHS, figure, interpolate, main
from models.systems import SlicedWAE, StackedWAE

pytestmark = IGNORED


def points(n=6, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, dim, generator=generator, dtype=torch.float64)


def digits(n=3):
    images = Digits().test[: 2 * n][0]
    return images[:n], images[n:]


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_paths_join_their_ends(path):
    first, second = points()
    between = PATHS[path](first, second, 5)
    assert between.shape == (6, 5, 8)
    torch.testing.assert_close(between[:, 0], first)
    torch.testing.assert_close(between[:, -1], second)


def test_linear_steps_are_equal():
    first, second = points()
    steps = PATHS["linear"](first, second, 5).diff(dim=1)
    torch.testing.assert_close(steps, ((second - first) / 4)[:, None].expand_as(steps))


def test_spherical_keeps_the_radius_and_turns_by_equal_angles():
    first, second = torch.nn.functional.normalize(points(), dim=-1) * 3
    between = PATHS["spherical"](first, second, 5)
    torch.testing.assert_close(between.norm(dim=-1), torch.full((6, 5), 3.0).double())
    whole = torch.cosine_similarity(first, second).acos()
    turns = torch.cosine_similarity(between[:, 1:], between[:, :-1], dim=-1).acos()
    torch.testing.assert_close(turns, (whole / 4)[:, None].expand(6, 4))


def test_spherical_midpoint_of_different_radii():
    ends = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    middle = PATHS["spherical"](*ends, 3)[0, 1]
    # sin 45 / sin 90 of each end.
    torch.testing.assert_close(middle, torch.tensor([2.0, 4.0]) / math.sqrt(2))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_spherical_between_parallel_points_is_the_line(factor):
    first, _ = points()
    line = PATHS["linear"](first, factor * first, 5)
    torch.testing.assert_close(PATHS["spherical"](first, factor * first, 5), line)


def test_spherical_has_no_step_where_it_becomes_the_line():
    first = torch.tensor([[1.0, 0.0]]).double()
    arcs = [
        PATHS["spherical"](first, torch.tensor([[math.cos(a), math.sin(a)]]).double(), 5)
        for a in (0.99e-3, 1.01e-3)
    ]
    assert (arcs[0] - arcs[1]).abs().max() < 2.1e-5


# --- levels -------------------------------------------------------------------------------------


def test_interpolation_decodes_points_between_codes():
    model, (first, second) = build(SlicedWAE), digits()
    between = interpolate(model, first, second, steps=4)
    assert between.shape == (3, 4, 1, 8, 8)
    assert not between.requires_grad
    with torch.no_grad():
        codes = (2 * model.encode(first) + model.encode(second)) / 3
        torch.testing.assert_close(between[:, 1], model.decoder(codes))
        torch.testing.assert_close(between[:, 0], model(first))


def test_stacked_interpolates_in_its_second_level_unless_told():
    model, (first, second) = build(StackedWAE, latent_dim=4, second_dim=3), digits()
    model.centre.fill_(0.3)
    model.scale.fill_(2.0)
    with torch.no_grad():
        codes = [model.second_encoder((model.encode(x) - 0.3) / 2) for x in (first, second)]
        middle = model.decoder(0.3 + 2 * model.second_decoder(sum(codes) / 2))
        direct = model.decoder((model.encode(first) + model.encode(second)) / 2)
    torch.testing.assert_close(interpolate(model, first, second, 3)[:, 1], middle)
    torch.testing.assert_close(interpolate(model, first, second, 3, level="codes")[:, 1], direct)


def test_spherical_paths_of_a_gaussian_prior():
    model, (first, second) = build(SlicedWAE), digits()
    with torch.no_grad():
        codes = PATHS["spherical"](model.encode(first), model.encode(second), 3)[:, 1]
        middle = model.decoder(codes)
    torch.testing.assert_close(interpolate(model, first, second, 3, "spherical")[:, 1], middle)


BAD = {
    "level": (SlicedWAE, {}, {"level": "second"}, "level must be one of 'codes'; got 'second'"),
    "path": (SlicedWAE, {}, {"path": "curved"}, "path must be one of 'linear', 'spherical'"),
    "steps": (SlicedWAE, {}, {"steps": 1}, "steps must be at least 2; got 1"),
    "prior": (SlicedWAE, {"prior": "uniform"}, {"path": "spherical"}, "path must be 'linear'"),
    "plain": (Autoencoder, {}, {"path": "spherical"}, "path must be 'linear'"),
    "first": (StackedWAE, {}, {"path": "spherical", "level": "codes"}, "path must be 'linear'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    system, settings, arguments, message = BAD[case]
    with pytest.raises(InputError) as error:
        interpolate(build(system, **settings), *digits(), **arguments)
    assert message in str(error.value)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A StackedWAE after one epoch of each stage."""
    keep = ModelCheckpoint(tmp_path_factory.mktemp("run"), "last")
    model = build(StackedWAE, latent_dim=3, second_width=16, first_epochs=1)
    trained(model, 2, callbacks=[keep], trainer={"limit_train_batches": 2})
    return keep.best_model_path


def test_command_writes_the_same_picture_for_the_same_seed(checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "a.png"
    pictures = []
    for extra in ([], [], ["--seed", "1"], ["--path", "spherical"], ["--level", "codes"]):
        main(["--ckpt", checkpoint, "--pairs", "3", "--out", str(out), *extra])
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 4
    assert "3 linear paths between second of StackedWAE" in capsys.readouterr().out
    assert matplotlib.image.imread(out)[..., :3].std() > 0.02


def test_figure_has_originals_at_both_ends():
    first, second = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    between = torch.full((2, 3, 1, 4, 4), 0.5)
    axes = figure(first, between, second, "title").axes[0]
    cells = axes.images[0].get_array()
    assert cells.shape == (9, 24)
    assert [cells[0, 5 * column] for column in range(5)] == [0, 0.5, 0.5, 0.5, 1]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["test", "0", "0.5", "1", "test"]


BAD_OPTIONS = {
    "pairs": (["--pairs", "271"], r"--pairs must be in \[1, 270\]; got 271"),
    "none": (["--pairs", "0"], r"--pairs must be in \[1, 270\]; got 0"),
    "out": (["--out", "a.jpg"], "--out must end in .png; got 'a.jpg'"),
    "path": (["--path", "curved"], "path must be one of 'linear', 'spherical'; got 'curved'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case, checkpoint):
    arguments, message = BAD_OPTIONS[case]
    with pytest.raises(InputError, match=message):
        main(["--ckpt", checkpoint, *arguments])


def test_points_of_the_plane_have_no_picture(tmp_path):
    model = build(StackedWAE, latent_dim=2, shape=(2,), network="identity", first_epochs=0)
    keep = ModelCheckpoint(tmp_path, "last")
    trained(model, 1, [keep], EightGaussians(n_train=200), {"limit_train_batches": 1})
    with pytest.raises(InputError, match="--ckpt must be of a run on images"):
        main(["--ckpt", str(tmp_path / "last.ckpt")])
